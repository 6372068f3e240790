//! Three brokers under faults, while a producer with `acks=all` sends and a consumer reads along.
//!
//! Scenario after scenario kills, stops, cuts off or wipes brokers, many times each. At its end every acknowledged record is
//! read back once and in order, and all replicas hold the same batches, as `goulette log dump` shows them. Outcomes that the
//! producer does not know are counted apart; a cycle with few acknowledged records fails, as it would prove nothing.
//!
//! `make test-chaos`; needs root and `ip` (network namespaces), and exits with 77 where it cannot run. `SEED` repeats the
//! moments, `CYCLES` (20) is how often each fault strikes, `SCENARIO` names only one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the outside uses the outside")]

mod load;
#[path = "../robustness/network.rs"]
mod network;
mod rig;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use Scenario::*;
use clap::ValueEnum;
use goulette_client::{Client, ClientOptions, TopicSpec};
use goulette_proto::pb::{self, sentinel_client::SentinelClient};
use goulette_types::{SplitMix64, TopicName};
use load::Load;
use rig::{BROKERS, LOOK, PATIENCE, Rig, SENTINEL};
use tokio::time::sleep;

/// Acknowledged records between two faults; fewer prove nothing.
const ACKNOWLEDGED_MIN: u64 = 200;
/// How long most faults last.
const FAULT: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    KillLeader,
    KillFollower,
    KillTwoInSequence,
    PauseLeader,
    /// Neither other brokers nor sentinels hear the leader or are heard; clients do.
    CutOffLeader,
    /// Leader and sentinel do not see each other; brokers and clients see both.
    CutOffFromSentinel,
    /// The leader hears the others, and is not heard.
    MuteLeader,
    /// The leader is heard, and does not hear.
    DeafLeader,
    /// Leader and one follower do not see each other; everybody else sees both.
    CutOneFollower,
    WipeFollower,
    StopLeader,
}

fn main() -> ExitCode {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: needs root, for network namespaces");
        return ExitCode::from(77);
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cycles, seed) = (number("CYCLES", 20), number("SEED", 42));
    let only = std::env::var("SCENARIO").ok().filter(|only| !only.is_empty());
    let binary = std::env::var_os("GOULETTE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_goulette").into(), Into::into);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wanted = |scenario: &&Scenario| only.as_ref().is_none_or(|only| *only == format!("{scenario:?}"));
    let scenarios: Vec<_> = Scenario::value_variants().iter().filter(wanted).copied().collect();
    if scenarios.is_empty() {
        eprintln!("there are these scenarios: {:?}", Scenario::value_variants());
        return ExitCode::from(2);
    }
    for scenario in scenarios {
        let rig = match Rig::prepare(std::path::PathBuf::clone(&binary)) {
            Ok(rig) => rig,
            Err(missing) => {
                eprintln!("skipped: {missing}");
                return ExitCode::from(77);
            }
        };
        println!("{scenario:?}: {cycles} times, seed {seed}");
        runtime.block_on(run(rig, scenario, cycles, seed));
    }
    println!("passed");
    ExitCode::SUCCESS
}

async fn run(mut rig: Rig, scenario: Scenario, cycles: u64, seed: u64) {
    println!("  in {}", rig.keep().display());
    rig.start(SENTINEL);
    rig.until_serving(SENTINEL);
    for broker in 0..BROKERS {
        rig.start(broker);
    }
    (0..BROKERS).for_each(|broker| rig.until_serving(broker));
    let topic: TopicName = "t".parse().unwrap();
    let client = Client::connect(ClientOptions::for_sentinels(&rig.sentinel_address())).await.unwrap();
    let spec = TopicSpec {
        partitions: 1,
        replication_factor: BROKERS as u32,
        config: [("fragment_bytes".to_owned(), "1048576".to_owned())].into(),
    };
    client.admin().create_topic(&topic, spec).await.unwrap();
    until_in_sync(&mut rig, None).await;
    let load = Load::start(&client, &topic);
    let mut random = SplitMix64::new(seed);
    for cycle in 1..=cycles {
        let before = load.acknowledged();
        until_acknowledged(&mut rig, &load, before + ACKNOWLEDGED_MIN).await;
        sleep(Duration::from_millis(random.next() % 500)).await; // The moment of the fault.
        let leader = leader(&rig).await;
        let follower = (leader + 1 + (random.next() % 2) as usize) % BROKERS;
        let other = BROKERS - leader - follower;
        strike(&mut rig, scenario, [leader, follower, other]).await;
        let healed = load.acknowledged();
        let resumed = until_acknowledged(&mut rig, &load, healed + ACKNOWLEDGED_MIN).await;
        until_in_sync(&mut rig, Some(&load)).await;
        println!(
            "  cycle {cycle}: leader broker{}, {} acknowledged meanwhile, then {ACKNOWLEDGED_MIN} more within {} ms",
            leader + 1,
            healed - before - ACKNOWLEDGED_MIN,
            resumed.as_millis()
        );
    }
    let found = load.verify(&client, &topic).await;
    assert!(found >= cycles * 2 * ACKNOWLEDGED_MIN);
    until_in_sync(&mut rig, None).await;
    compare_replicas(&mut rig);
    rig.stop(SENTINEL);
    rig.dir.disable_cleanup(false);
}

async fn strike(rig: &mut Rig, scenario: Scenario, [leader, follower, other]: [usize; 3]) {
    let all = [follower, other, SENTINEL];
    match scenario {
        KillLeader => {
            rig.kill(leader);
            sleep(FAULT).await;
            rig.start(leader);
        }
        KillFollower => {
            rig.kill(follower);
            sleep(FAULT).await;
            rig.start(follower);
        }
        KillTwoInSequence => {
            rig.kill(leader);
            sleep(FAULT / 2).await;
            rig.kill(follower);
            sleep(FAULT / 2).await;
            rig.start(leader);
            rig.start(follower);
        }
        PauseLeader => {
            rig.pause(leader);
            sleep(PAUSE).await;
            rig.resume(leader);
        }
        CutOffLeader => {
            all.iter().for_each(|&one| {
                rig.cut(leader, one);
                rig.cut(one, leader);
            });
            sleep(3 * FAULT).await;
            rig.heal();
        }
        CutOffFromSentinel => {
            rig.cut(leader, SENTINEL);
            rig.cut(SENTINEL, leader);
            sleep(3 * FAULT).await;
            rig.heal();
        }
        MuteLeader => {
            all.iter().for_each(|&one| rig.cut(leader, one));
            sleep(3 * FAULT).await;
            rig.heal();
        }
        DeafLeader => {
            all.iter().for_each(|&one| rig.cut(one, leader));
            sleep(3 * FAULT).await;
            rig.heal();
        }
        CutOneFollower => {
            rig.cut(leader, follower);
            rig.cut(follower, leader);
            sleep(3 * FAULT).await;
            rig.heal();
        }
        WipeFollower => {
            rig.kill(follower);
            rig.wipe(follower);
            rig.start(follower);
            sleep(FAULT).await;
        }
        StopLeader => {
            rig.stop(leader);
            sleep(FAULT / 2).await;
            rig.start(leader);
        }
    }
}

/// Waits until so many records are acknowledged, and says how long that took.
async fn until_acknowledged(rig: &mut Rig, load: &Load, count: u64) -> Duration {
    let begun = Instant::now();
    while load.acknowledged() < count {
        assert_eq!(rig.died(), None, "a process has ended by itself");
        assert!(!load.ended(), "a client has given up");
        assert!(begun.elapsed() < PATIENCE, "the producer does not get on");
        sleep(LOOK).await;
    }
    begun.elapsed()
}

async fn describe(rig: &Rig) -> Option<pb::Partition> {
    let address = format!("http://{}", rig.sentinel_address());
    let mut sentinel = SentinelClient::connect(address).await.ok()?;
    let topic = sentinel.describe_topic(pb::DescribeTopicRequest { name: "t".to_owned() }).await.ok()?;
    topic.into_inner().topic?.partitions.into_iter().next()
}

/// Waits until all replicas are in sync.
async fn until_in_sync(rig: &mut Rig, load: Option<&Load>) {
    let begun = Instant::now();
    loop {
        let partition = describe(rig).await;
        if partition.as_ref().is_some_and(|partition| partition.isr.len() == BROKERS && !partition.leader.is_empty()) {
            return;
        }
        assert_eq!(rig.died(), None, "a process has ended by itself");
        assert!(load.is_none_or(|load| !load.ended()), "a client has given up");
        assert!(begun.elapsed() < PATIENCE, "not all replicas come to be in sync: {partition:?}");
        sleep(LOOK).await;
    }
}

async fn leader(rig: &Rig) -> usize {
    let begun = Instant::now();
    loop {
        let name = describe(rig).await.map(|partition| partition.leader).unwrap_or_default();
        if let Some(leader) = (0..BROKERS).find(|&broker| Rig::broker_id(broker) == name) {
            return leader;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        sleep(LOOK).await;
    }
}

/// Stops all brokers and compares what their files hold.
fn compare_replicas(rig: &mut Rig) {
    (0..BROKERS).for_each(|broker| rig.stop(broker));
    let dumps: Vec<Vec<String>> = (0..BROKERS).map(|broker| dump(rig, broker)).collect();
    for (broker, dump) in dumps.iter().enumerate().skip(1) {
        for (number, (one, other)) in dumps[0].iter().zip(dump).enumerate() {
            assert_eq!(one, other, "batch {number} of broker1 and broker{}", broker + 1);
        }
        assert_eq!(dumps[0].len(), dump.len(), "batches of broker1 and broker{}", broker + 1);
    }
    println!("  {} batches, the same on all replicas", dumps[0].len());
}

/// A broker's batches, without the place where they stand.
fn dump(rig: &Rig, broker: usize) -> Vec<String> {
    let data = rig.data(broker).display().to_string();
    let output = rig.run(&["log", "dump", &data, "--topic", "t"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("DAMAGED"), "{text}");
    text.lines().map(|line| line.split(" at=").next().unwrap_or_default().to_owned()).collect()
}

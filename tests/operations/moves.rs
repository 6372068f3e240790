//! From one broker to three under load, partitions on the way from here to there, and back to one.

use std::{path::Path, time::Duration};

use goulette_client::{Client, ClientOptions, TopicSpec};
use tokio::time::sleep;

use crate::{
    loads::Loads,
    rig::{Rig, names},
};

const TOPICS: usize = 6;
/// Acknowledged records of each topic between two orders.
const BETWEEN: u64 = 200;
/// Slow enough that a move of the heavy topic can be watched, and taken back: what no memory holds of it takes seconds.
const CATCH_UP: &[&str] = &["-catch-up-bytes-per-second", "8388608"];
const HEAVY_BYTES: usize = 96 << 20;

fn one_partition(replication_factor: u32) -> TopicSpec {
    let config = [("fragment_bytes".to_owned(), "1048576".to_owned())].into();
    TopicSpec { partitions: 1, replication_factor, config }
}

pub(crate) async fn one_to_three_and_back(binary: &Path) {
    let mut rig = Rig::start(binary, 1);
    rig.add_broker("broker1", CATCH_UP);
    let client = Client::connect(ClientOptions::for_sentinels(&rig.whom())).await.unwrap();
    let mut loads = Loads::none(&client);
    for number in 0..TOPICS {
        loads.add(&format!("t{number}"), one_partition(3)).await;
    }
    loads.add("solo", one_partition(1)).await;
    let heavy = "heavy".parse().unwrap();
    client.admin().create_topic(&heavy, one_partition(1)).await.unwrap();
    fill(&rig, "heavy");
    loads.go_on_after("one broker", &mut rig, BETWEEN).await;

    // Brokers join: what wants three replicas gets them.
    rig.add_broker("broker2", CATCH_UP);
    rig.add_broker("broker3", CATCH_UP);
    for number in 0..TOPICS {
        until_replicas(&rig, &format!("t{number}"), 3);
    }
    assert_eq!(replicas(&rig, "solo").len(), 1, "one replica was asked for");
    loads.go_on_after("two brokers more", &mut rig, BETWEEN).await;

    // The factor is raised.
    rig.order(&["topic", "alter", "solo", "--replication-factor", "3"]);
    until_replicas(&rig, "solo", 3);
    loads.go_on_after("a higher factor", &mut rig, BETWEEN).await;

    // Evened out, with the preferred leaders back.
    rig.order(&["cluster", "rebalance"]);
    rig.eventually("every broker leads something", || {
        let leaders: std::collections::BTreeSet<_> =
            loads.topics().iter().map(|topic| leader(&rig, topic)).collect::<Option<_>>()?;
        (leaders.len() == 3).then_some(())
    });
    rig.eventually("the preferred ones lead", || {
        let prefers = |topic: &String| leader(&rig, topic).as_ref() == replicas(&rig, topic).first();
        loads.topics().iter().all(prefers).then_some(())
    });
    let (printed, _) = rig.order(&["cluster", "rebalance", "--dry-run"]);
    assert!(printed.contains("nothing moves"), "{printed}");
    loads.go_on_after("rebalanced", &mut rig, BETWEEN).await;

    // Another order of replicas is another preferred leader, and no data moves.
    let mut turned = replicas(&rig, "t0");
    turned.rotate_left(1);
    rig.order(&["partition", "reassign", "t0", "0", &turned.join(",")]);
    rig.eventually("t0 is led by its new preferred leader", || (leader(&rig, "t0")? == turned[0]).then_some(()));
    loads.go_on_after("another preferred leader", &mut rig, BETWEEN).await;

    // A move that takes its time, slowed down, is told of, taken back, and ordered again.
    let from = replicas(&rig, "heavy");
    let to = ["broker1", "broker2", "broker3"].into_iter().find(|broker| from != [*broker]).unwrap();
    rig.order(&["partition", "reassign", "heavy", "0", to, "--no-wait"]);
    let moves = rig.ask(&["partition", "moves"]).unwrap();
    assert_eq!(names(&moves[0]["target"]), [to], "{moves}");
    rig.order(&["partition", "reassign", "heavy", "0", "-"]);
    assert_eq!(replicas(&rig, "heavy"), from);
    let begun = std::time::Instant::now();
    let (_, told) = rig.order(&["partition", "reassign", "heavy", "0", to]);
    assert!(begun.elapsed() > Duration::from_secs(2), "{HEAVY_BYTES} bytes came faster than they may");
    assert!(told.contains("0 of 1 partitions moved") && told.contains("1 of 1 partitions moved"), "{told}");
    assert_eq!(replicas(&rig, "heavy"), [to]);
    loads.go_on_after("a slow move", &mut rig, BETWEEN).await;
    rig.eventually("what was moved away takes no room", || (bytes_of(&rig, &from[0], "heavy") < 1 << 20).then_some(()));

    // One takes the place of another.
    rig.add_broker("broker4", CATCH_UP);
    rig.order(&["broker", "replace", "broker3", "broker4"]);
    loads.go_on_after("one replaced", &mut rig, BETWEEN).await;
    assert_eq!(held(&rig, "broker3"), 0);
    for topic in loads.topics() {
        let replicas = replicas(&rig, &topic);
        assert!(replicas.len() == 3 && replicas.contains(&"broker4".to_owned()), "{topic}: {replicas:?}");
    }
    rig.order(&["broker", "remove", "broker3"]);
    rig.stop("broker3");
    rig.eventually("broker3 is forgotten", || broker(&rig, "broker3").is_null().then_some(()));
    loads.go_on_after("the replaced one removed", &mut rig, BETWEEN).await;

    // Emptied, but the order is taken back half-way; then in earnest, until one is left.
    rig.order(&["broker", "drain", "broker4", "--no-wait"]);
    rig.order(&["broker", "drain", "broker4", "--cancel"]);
    sleep(Duration::from_secs(2)).await; // Time in which moves that went on would be done.
    for topic in loads.topics() {
        until_replicas(&rig, &topic, 3);
    }
    for leaving in ["broker4", "broker2"] {
        rig.order(&["broker", "drain", leaving]);
        assert_eq!(held(&rig, leaving), 0);
        loads.go_on_after("one drained", &mut rig, BETWEEN).await;
        rig.stop(leaving);
        loads.go_on_after("the drained one stopped", &mut rig, BETWEEN).await;
    }
    for topic in loads.topics() {
        assert_eq!(replicas(&rig, &topic), ["broker1"], "{topic}");
    }
    loads.verify().await;
    rig.stop("broker1");
}

/// Something to carry around.
fn fill(rig: &Rig, topic: &str) {
    let (records, size) = ((HEAVY_BYTES / 8192).to_string(), "8192");
    let topic = ["bench", "produce", "--topic", topic, "--records", &records, "--size", size];
    rig.order(&topic);
}

fn replicas(rig: &Rig, topic: &str) -> Vec<String> {
    names(&rig.partition(topic).expect("the topic is described")["replicas"])
}

fn leader(rig: &Rig, topic: &str) -> Option<String> {
    let leader = rig.partition(topic)?["leader"].as_str()?.to_owned();
    (!leader.is_empty()).then_some(leader)
}

/// Waits until so many replicas are in sync, and no other one is.
fn until_replicas(rig: &Rig, topic: &str, count: usize) {
    rig.eventually(&format!("{topic} has {count} replicas in sync"), || {
        let partition = rig.partition(topic)?;
        let (replicas, isr) = (names(&partition["replicas"]), names(&partition["isr"]));
        (replicas.len() == count && isr.len() == count).then_some(())
    });
}

/// Bytes of a topic's fragments on a broker.
fn bytes_of(rig: &Rig, broker: &str, topic: &str) -> u64 {
    let topics = std::fs::read_dir(rig.data(broker).join("topics")).unwrap().map(|entry| entry.unwrap().path());
    let of_topic =
        |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{topic}."));
    let fragments = topics.filter(of_topic).flat_map(|path| std::fs::read_dir(path.join("0")).unwrap());
    // One that is just removed is gone.
    fragments.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

fn broker(rig: &Rig, id: &str) -> serde_json::Value {
    let status = rig.ask(&["cluster", "status"]).expect("the cluster tells how it is");
    let brokers = status["brokers"].as_array().expect("a list").iter();
    brokers.clone().find(|broker| broker["id"] == id).cloned().unwrap_or_default()
}

fn held(rig: &Rig, id: &str) -> u64 {
    broker(rig, id)["partitions_held"].as_u64().expect("the broker is known")
}

//! Real power cuts: a broker on a file system that is shut down under load, as the kernel does it.
//!
//! The broker's data lies on an ext4 image of its own. In each cycle, while a producer is sending, the file system is
//! shut down without flushing its journal (`EXT4_IOC_SHUTDOWN`): what was not synced is gone, as after a power cut. The
//! broker is killed, the image mounted again, the broker started again, and everything that was ever acknowledged is read
//! back: in order, once, unchanged. The producer goes on through it all.
//!
//! The broker runs on while the file system goes down under it, which is harder than a power cut: a sync that is under way
//! when the call comes may still be reported, and acknowledged, but only if it happened. (Of blocks that were reserved and
//! never written ext4 does report syncs that did not happen then: `docs/adr/0009-written-segments.md`.) If a cycle fails,
//! the folder with image and logs is kept, and its path printed.
//!
//! `make test-powerloss`; needs root, loop devices and `mkfs.ext4`, and exits with 77 where it has not got them.
//! `GOULETTE_TEST_CYCLES` (50) and `GOULETTE_TEST_SEED` change the run.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the outside uses the outside")]

#[allow(dead_code, reason = "shared with the black-box tests, which use more of it")]
#[path = "../blackbox/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "shared with the black-box tests, which use more of it")]
#[path = "../blackbox/lines.rs"]
mod lines;
mod volume;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cluster::Cluster;
use goulette_client::{
    Client, ClientOptions, Consumer, ConsumerOptions, Delivery, Producer, ProducerOptions, ProducerRecord, Start,
};
use goulette_types::{Offset, SplitMix64, TopicName};
use tokio::sync::mpsc;
use volume::Volume;

/// Records sent and not yet acknowledged.
const WINDOW: usize = 4_000;
/// A power cut with fewer acknowledged records since the last one would prove nothing.
const ACKNOWLEDGED_PER_CYCLE_MIN: u64 = 2_000;

fn main() -> ExitCode {
    if let Err(missing) = volume::check_machine().and_then(|()| volume::hide_mounts()) {
        eprintln!("skipped: {missing}");
        return ExitCode::from(77);
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(number("GOULETTE_TEST_CYCLES", 50), number("GOULETTE_TEST_SEED", 42)));
    ExitCode::SUCCESS
}

async fn run(cycles: u64, seed: u64) {
    println!("{cycles} power cuts, seed {seed}");
    let mut cluster = Cluster::prepare(&[], &[]);
    cluster.keep_when_failing();
    let volume = Volume::make(&cluster.dir.path().join("disk.img"), &cluster.broker_data());
    cluster.start_sentinel();
    cluster.start_broker();
    // Small fragments, so that power goes away while they are sealed and begun.
    let create =
        ["topic", "create", "t", "--config", "fragment_bytes=1048576", "--sentinel", &cluster.sentinel_address];
    assert!(cluster.run(&create).status.success());

    let topic: TopicName = "t".parse().unwrap();
    let client = Client::connect(ClientOptions::for_sentinels(&cluster.sentinel_address)).await.unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn(produce(client.clone(), topic.clone(), acknowledged.clone(), stop.clone()));

    let mut random = SplitMix64::new(seed);
    let mut verified = 0;
    for cycle in 1..=cycles {
        let before = acknowledged.load(Ordering::Acquire);
        let resumed = until_acknowledged(&acknowledged, before + ACKNOWLEDGED_PER_CYCLE_MIN).await;
        tokio::time::sleep(Duration::from_millis(random.next() % 1_000)).await; // The load before the cut.
        volume.cut_power();
        // Read behind the cut: an ack that was counted by now came from before it, or from bytes that survived it.
        let promised = acknowledged.load(Ordering::Acquire);
        cluster.kill_broker();
        if let Err(verdict) = volume.remount() {
            panic!("the file system is damaged by its own account, which is no verdict on the broker:\n{verdict}");
        }
        cluster.start_broker();
        assert!(
            !cluster.broker_log().contains("storage id"),
            "recovery says that acknowledged data is gone: see the broker's log"
        );
        verified = verify(&client, &topic, verified, promised).await;
        println!(
            "cycle {cycle}: under load after {} ms, {} acknowledged, {verified} read back",
            resumed.as_millis(),
            promised - before
        );
    }
    stop.store(true, Ordering::Release);
    let sent = producer.await.unwrap();
    let found = verify(&client, &topic, verified, sent).await;
    assert_eq!(found, sent, "what came is what was sent, nothing more");
    println!("{sent} records acknowledged over {cycles} power cuts: 0 lost, 0 doubled");
    println!("1 passed, 0 failed");
    cluster.stop_broker();
    volume.unmount();
}

/// Waits until so many records are acknowledged, and says how long that took.
async fn until_acknowledged(acknowledged: &AtomicU64, count: u64) -> Duration {
    let begun = Instant::now();
    while acknowledged.load(Ordering::Acquire) < count {
        assert!(begun.elapsed() < cluster::PATIENCE, "the producer does not get on");
        tokio::time::sleep(Duration::from_millis(2)).await; // Asks again.
    }
    begun.elapsed()
}

/// Sends until told to stop, and returns how many records there were: all of them acknowledged.
async fn produce(client: Client, topic: TopicName, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let options = ProducerOptions { window_records: WINDOW, batch_bytes: 64 << 10, ..ProducerOptions::default() };
    let producer = Producer::new(&client, &topic, options).await.unwrap();
    let (deliveries, mut delivered) = mpsc::channel::<Delivery>(WINDOW);
    let counter = acknowledged.clone();
    let count = tokio::spawn(async move {
        while let Some(delivery) = delivered.recv().await {
            delivery.await.expect("the producer rides out every cut");
            counter.fetch_add(1, Ordering::Release);
        }
    });
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        let delivery = producer.send(ProducerRecord::new(value(sent))).await.expect("the producer rides out every cut");
        deliveries.send(delivery).await.unwrap();
        sent += 1;
    }
    drop(deliveries);
    producer.close().await.expect("all is acknowledged");
    count.await.unwrap();
    sent
}

/// Reads from `from` to the end and checks each record; returns the end, which must have reached `promised`.
async fn verify(client: &Client, topic: &TopicName, from: u64, promised: u64) -> u64 {
    let start = Some(Start::Offset(Offset(from)));
    let options = ConsumerOptions { start, until_end: true, ..ConsumerOptions::default() };
    let mut consumer = Consumer::new(client, topic, options).await.unwrap();
    let mut next = from;
    let reading = async {
        while let Some(record) = consumer.next().await.expect("the partition can be read") {
            assert_eq!(record.offset, Offset(next), "offsets are dense");
            assert_eq!(record.value.as_deref(), Some(&value(next)[..]), "record {next} is another one");
            next += 1;
        }
    };
    tokio::time::timeout(cluster::PATIENCE, reading).await.expect("reading comes to its end");
    consumer.close().await;
    assert!(next >= promised, "LOST: {promised} records were acknowledged, {next} are there");
    next
}

/// The value of the n-th record: its number, and bytes that follow from it.
fn value(n: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(n);
    let length = 8 + random.next() as usize % 1_500;
    let mut value = n.to_le_bytes().to_vec();
    value.resize_with(length, || random.next() as u8);
    value
}

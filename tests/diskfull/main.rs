//! A real disk that is full: a broker on an ext4 image of 256 MiB, which a producer fills, and another program too.
//!
//! While a producer is sending and a consumer reading, the image runs full, by the producer's own records and by a foreign
//! file down to the last byte. Batches must be refused with words that say so, readers and groups must not notice, and
//! within five seconds of freed space (a topic deleted, less of it kept, the foreign file gone) records must be taken again,
//! without a restart. A broker that is killed while the disk is full must start on it. In the end everything that was ever
//! acknowledged is read back: in order, once, unchanged.
//!
//! `make test-disk-full`; needs root, loop devices and `mkfs.ext4`, and exits with 77 where it has not got them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the outside uses the outside")]

#[allow(dead_code, reason = "shared with the black-box tests, which use more of it")]
#[path = "../blackbox/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "shared with the black-box tests, which use more of it")]
#[path = "../blackbox/lines.rs"]
mod lines;
#[allow(dead_code, reason = "shared with the power cuts, which use more of it")]
#[path = "../powerloss/volume.rs"]
mod volume;

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
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
use goulette_types::{Offset, PartitionIndex, SplitMix64, TopicName};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use volume::Volume;

const IMAGE_BYTES: u64 = 256 << 20;
/// Records sent and not yet acknowledged.
const WINDOW: usize = 4_000;
/// How soon records must be taken again.
const RECOVERY: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if let Err(missing) = volume::check_machine().and_then(|()| volume::hide_mounts()) {
        eprintln!("skipped: {missing}");
        return ExitCode::from(77);
    }
    tokio::runtime::Runtime::new().unwrap().block_on(run());
    println!("1 passed, 0 failed");
    ExitCode::SUCCESS
}

async fn run() {
    let mut cluster = Cluster::prepare(&[], &[]);
    let volume = Volume::of(IMAGE_BYTES, &cluster.dir.path().join("disk.img"), &cluster.broker_data());
    cluster.start_sentinel();
    cluster.start_broker();
    for topic in ["doomed", "t"] {
        topic_command(&cluster, &["create", topic, "--config", "fragment_bytes=2097152"]);
    }
    let client = Client::connect(ClientOptions::for_sentinels(&cluster.sentinel_address)).await.unwrap();
    let doomed = Load::start(&client, "doomed");
    doomed.until_acknowledged(30_000).await;
    doomed.stop().await;

    let load = Load::start(&client, "t");
    let reader = Reader::start(&client);

    // Full of its own records.
    load.until_stuck().await;
    println!("full after {} records: {}", load.acknowledged(), refusal(&client).await);
    reader.until(load.acknowledged()).await;
    positions_go_on(&client, 1_000).await;
    let freed = Instant::now();
    topic_command(&cluster, &["delete", "doomed"]);
    load.until_moving("a topic was deleted", freed).await;

    // Less is kept.
    load.until_stuck().await;
    let freed = Instant::now();
    topic_command(&cluster, &["alter", "t", "--config", "retention_bytes=8388608"]);
    load.until_moving("less is kept", freed).await;
    // With that it would never be full again.
    topic_command(&cluster, &["alter", "t", "--config", "retention_bytes=-1"]);

    // Another program takes what there is, to the last byte, while records come in.
    let foreign = Foreign::fill(&cluster);
    load.until_stuck().await;
    println!("full by another program: {}", refusal(&client).await);
    positions_go_on(&client, 2_000).await;
    reader.until(load.acknowledged()).await;
    let freed = foreign.remove();
    load.until_moving("another program's file was removed", freed).await;

    // And the broker dies on it.
    let foreign = Foreign::fill(&cluster);
    load.until_stuck().await;
    cluster.kill_broker();
    cluster.start_broker();
    println!("killed and started again on the full disk");
    reader.until(load.acknowledged()).await;
    let freed = foreign.remove();
    load.until_moving("the file was removed after the restart", freed).await;

    let sent = load.stop().await;
    reader.until(sent).await;
    assert_eq!(reader.stop(), sent, "what came is what was sent, nothing more");
    cluster.stop_broker();
    let verified = cluster.run(&["log", "verify", cluster.broker_data().to_str().unwrap()]);
    assert!(verified.status.success(), "{}", cluster::text(&verified));
    println!("{sent} records acknowledged over four full disks: 0 lost, 0 doubled");
    volume.unmount();
}

fn topic_command(cluster: &Cluster, arguments: &[&str]) {
    let output = cluster.run(&[&["topic"], arguments, &["--sentinel", &cluster.sentinel_address]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", cluster::text(&output));
}

/// What a producer hears that does not want to wait for long.
async fn refusal(client: &Client) -> String {
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(2), ..ProducerOptions::default() };
    let producer = Producer::new(client, &"t".parse().unwrap(), options).await.unwrap();
    let delivery = producer.send(ProducerRecord::new("one too many")).await.unwrap();
    let error = delivery.await.expect_err("the disk is full").to_string();
    assert!(error.contains("the disk of broker broker1 is full") && error.contains("MiB are free"), "{error}");
    error
}

/// A group stores its position and finds it again.
async fn positions_go_on(client: &Client, position: u64) {
    let options = ConsumerOptions { group: Some("readers".parse().unwrap()), ..ConsumerOptions::default() };
    let mut consumer = Consumer::new(client, &"t".parse().unwrap(), options).await.unwrap();
    consumer.commit(&[(PartitionIndex(0), Offset(position))].into()).await.expect("positions go on");
    consumer.close().await;
}

/// A producer at work, through everything.
struct Load {
    topic: TopicName,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Load {
    fn start(client: &Client, topic: &str) -> Self {
        let topic: TopicName = topic.parse().unwrap();
        let (acknowledged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn(produce(client.clone(), topic.clone(), acknowledged.clone(), stop.clone()));
        Self { topic, acknowledged, stop, task }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    async fn until_acknowledged(&self, count: u64) {
        let begun = Instant::now();
        while self.acknowledged() < count {
            assert!(begun.elapsed() < cluster::PATIENCE, "the producer of {} does not get on", self.topic);
            sleep(Duration::from_millis(2)).await; // Asks again.
        }
    }

    /// Waits until nothing is acknowledged for a while.
    async fn until_stuck(&self) {
        let (begun, mut last) = (Instant::now(), (self.acknowledged(), Instant::now()));
        while last.1.elapsed() < Duration::from_secs(3) {
            assert!(begun.elapsed() < 2 * cluster::PATIENCE, "the disk does not get full");
            sleep(Duration::from_millis(20)).await; // Asks again.
            if self.acknowledged() != last.0 {
                last = (self.acknowledged(), Instant::now());
            }
        }
    }

    /// Records are acknowledged again.
    async fn until_moving(&self, because: &str, freed: Instant) {
        self.until_acknowledged(self.acknowledged() + 1).await;
        println!("{because}: records are taken again after {} ms", freed.elapsed().as_millis());
        assert!(freed.elapsed() < RECOVERY, "that is too late");
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap()
    }
}

/// Sends until told to stop, and returns how many records there were: all of them acknowledged.
async fn produce(client: Client, topic: TopicName, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let options = ProducerOptions {
        window_records: WINDOW,
        batch_bytes: 64 << 10,
        delivery_timeout: Duration::from_secs(600),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(&client, &topic, options).await.unwrap();
    let (deliveries, mut delivered) = mpsc::channel::<Delivery>(WINDOW);
    let counter = acknowledged.clone();
    let count = tokio::spawn(async move {
        while let Some(delivery) = delivered.recv().await {
            delivery.await.expect("the producer waits for space");
            counter.fetch_add(1, Ordering::Release);
        }
    });
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        let delivery = producer.send(ProducerRecord::new(value(sent))).await.expect("the producer waits for space");
        deliveries.send(delivery).await.unwrap();
        sent += 1;
    }
    drop(deliveries);
    producer.close().await.expect("all is acknowledged");
    count.await.unwrap();
    sent
}

/// Reads everything, in order, and checks it.
struct Reader {
    next: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Reader {
    fn start(client: &Client) -> Self {
        let next = Arc::<AtomicU64>::default();
        let (client, counter) = (client.clone(), next.clone());
        let task = tokio::spawn(async move {
            let options = ConsumerOptions { start: Some(Start::Offset(Offset(0))), ..ConsumerOptions::default() };
            let mut consumer = Consumer::new(&client, &"t".parse().unwrap(), options).await.unwrap();
            loop {
                let record = consumer.next().await.expect("reading goes on").expect("there is no end");
                let next = counter.load(Ordering::Relaxed);
                assert_eq!(record.offset, Offset(next), "offsets are dense");
                assert_eq!(record.value.as_deref(), Some(&value(next)[..]), "record {next} is another one");
                counter.store(next + 1, Ordering::Release);
            }
        });
        Self { next, task }
    }

    /// Waits until it has read so many records.
    async fn until(&self, count: u64) {
        let begun = Instant::now();
        while self.next.load(Ordering::Acquire) < count {
            assert!(!self.task.is_finished(), "the reader has ended");
            assert!(begun.elapsed() < cluster::PATIENCE, "LOST: {count} were acknowledged, {:?} are read", self.next);
            sleep(Duration::from_millis(5)).await; // Asks again.
        }
    }

    fn stop(self) -> u64 {
        self.task.abort();
        self.next.load(Ordering::Acquire)
    }
}

/// A file of somebody else on the broker's disk.
struct Foreign(PathBuf);

impl Foreign {
    /// Takes all there is, down to the last byte.
    fn fill(cluster: &Cluster) -> Self {
        let path = cluster.broker_data().join("foreign");
        let mut file = File::create(&path).unwrap();
        for piece in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; piece]).is_ok() {}
        }
        Self(path)
    }

    fn remove(self) -> Instant {
        fs::remove_file(self.0).unwrap();
        Instant::now()
    }
}

/// The value of the n-th record: its number, and bytes that follow from it.
fn value(n: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(n);
    let length = 8 + random.next() as usize % 1_500;
    let mut value = n.to_le_bytes().to_vec();
    value.resize_with(length, || random.next() as u8);
    value
}

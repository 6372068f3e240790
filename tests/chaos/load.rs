//! What clients do meanwhile, and what they must find afterwards.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use goulette_client::{Client, Consumer, ConsumerOptions, Delivery, Producer, ProducerOptions, ProducerRecord, Start};
use goulette_types::{Acks, ErrorKind, Offset, TopicName};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::rig::PATIENCE;

/// Records sent and not yet acknowledged.
const WINDOW: usize = 200;
/// Between records: a load that leaves two cores time for four processes.
const PAUSE: Duration = Duration::from_millis(1);

/// What became of the records, which are numbered in the order of their sending.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) acknowledged: AtomicU64,
    /// Nobody knows of these, nor need anybody.
    unknown: Mutex<BTreeSet<u64>>,
    refused: Mutex<Vec<(u64, String)>>,
    /// When the last ack came, and the longest time without one.
    pauses: Mutex<(Option<Instant>, Duration)>,
}

impl Account {
    fn acked(&self) {
        self.acknowledged.fetch_add(1, Ordering::Release);
        let (last, longest) = &mut *self.pauses.lock().expect("no panic");
        let now = Instant::now();
        *longest = last.map_or(*longest, |last| now.duration_since(last).max(*longest));
        *last = Some(now);
    }
}

pub(crate) struct Load {
    pub(crate) account: Arc<Account>,
    stop: Arc<AtomicBool>,
    producer: JoinHandle<u64>,
    reader: JoinHandle<u64>,
}

impl Load {
    /// A producer with `acks=all`, and a consumer that reads along.
    pub(crate) fn start(client: &Client, topic: &TopicName) -> Self {
        let (account, stop) = (Arc::<Account>::default(), Arc::new(AtomicBool::new(false)));
        let producer = tokio::spawn(produce(client.clone(), topic.clone(), account.clone(), stop.clone()));
        let reader = tokio::spawn(read_along(client.clone(), topic.clone(), account.clone(), stop.clone()));
        Self { account, stop, producer, reader }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.account.acknowledged.load(Ordering::Acquire)
    }

    /// Records of unknown outcome so far.
    #[allow(dead_code, reason = "of the test programs that share this file not all need it")]
    pub(crate) fn unknown(&self) -> usize {
        self.account.unknown.lock().expect("no panic").len()
    }

    /// The longest time without an ack since the last call.
    #[allow(dead_code, reason = "of the test programs that share this file not all need it")]
    pub(crate) fn take_pause(&self) -> Duration {
        let (last, longest) = &mut *self.account.pauses.lock().expect("no panic");
        let open = last.map_or(Duration::ZERO, |last| last.elapsed());
        std::mem::take(longest).max(open)
    }

    /// Whether a client has given up.
    pub(crate) fn ended(&self) -> bool {
        self.producer.is_finished() || self.reader.is_finished()
    }

    /// Stops, and reads all back from the beginning. Returns how many records are there.
    pub(crate) async fn verify(self, client: &Client, topic: &TopicName) -> u64 {
        self.stop.store(true, Ordering::Release);
        let sent = self.producer.await.expect("the producer rides out every fault");
        let refused = self.account.refused.lock().expect("no panic").clone();
        assert!(refused.is_empty(), "records were refused: {refused:?}");
        let unknown = self.account.unknown.lock().expect("no panic").clone();
        let seen = self.reader.await.expect("the consumer rides out every fault");

        let options = ConsumerOptions { start: Some(Start::Beginning), until_end: true, ..ConsumerOptions::default() };
        let mut consumer = Consumer::new(client, topic, options).await.expect("the topic can be read");
        let (mut next, mut found) = (0, 0);
        let reading = async {
            while let Some(record) = consumer.next().await.expect("the topic can be read") {
                assert_eq!(record.offset, Offset(found), "offsets are dense");
                found += 1;
                next = check(next, record.value.as_deref().unwrap_or_default(), &unknown);
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("reading comes to its end");
        consumer.close().await;
        let lost: Vec<_> = (next..sent).filter(|number| !unknown.contains(number)).take(5).collect();
        assert!(lost.is_empty(), "LOST: records from {lost:?} on were acknowledged and are not there");
        assert!(seen <= found, "the consumer that read along saw {seen} records, {found} are there");
        println!("  {sent} sent, {} of unknown outcome, {found} read back", unknown.len());
        found
    }
}

/// The number behind the one found, if it may come now.
fn check(next: u64, value: &[u8], unknown: &BTreeSet<u64>) -> u64 {
    let number = value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).expect("a record has a number");
    assert!(number >= next, "record {number} comes after {next}: doubled, or out of order");
    let lost: Vec<_> = (next..number).filter(|number| !unknown.contains(number)).take(5).collect();
    assert!(lost.is_empty(), "LOST: records {lost:?} were acknowledged and are not before {number}");
    number + 1
}

async fn produce(client: Client, topic: TopicName, account: Arc<Account>, stop: Arc<AtomicBool>) -> u64 {
    let options = ProducerOptions { window_records: WINDOW, acks: Acks::All, ..ProducerOptions::default() };
    let producer = Producer::new(&client, &topic, options).await.expect("a producer");
    let (deliveries, mut delivered) = mpsc::channel::<(u64, Delivery)>(WINDOW);
    let counted = account.clone();
    let count = tokio::spawn(async move {
        while let Some((number, delivery)) = delivered.recv().await {
            match delivery.await {
                Ok(_) => counted.acked(),
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                    counted.unknown.lock().expect("no panic").insert(number);
                }
                Err(error) => counted.refused.lock().expect("no panic").push((number, error.to_string())),
            }
        }
    });
    let mut sent = 0_u64;
    while !stop.load(Ordering::Acquire) {
        let mut value = sent.to_le_bytes().to_vec();
        value.resize(8 + (sent as usize * 31) % 600, sent as u8);
        let delivery = producer.send(ProducerRecord::new(value)).await.expect("the producer rides out every fault");
        deliveries.send((sent, delivery)).await.expect("the counter runs");
        sent += 1;
        tokio::time::sleep(PAUSE).await; // The load's rate.
    }
    drop(deliveries);
    producer.close().await.expect("all is answered");
    count.await.expect("the counter runs");
    sent
}

/// Reads from the beginning, through all faults, until told to stop; returns how many records came.
async fn read_along(client: Client, topic: TopicName, account: Arc<Account>, stop: Arc<AtomicBool>) -> u64 {
    let options = ConsumerOptions { start: Some(Start::Beginning), ..ConsumerOptions::default() };
    let mut consumer = Consumer::new(&client, &topic, options).await.expect("the topic can be read");
    let (mut next, mut count) = (0, 0);
    while !stop.load(Ordering::Acquire) {
        let record = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
        let Ok(record) = record else { continue };
        let record = record.expect("the consumer hears of no error").expect("it has no end");
        assert_eq!(record.offset, Offset(count), "offsets are dense");
        count += 1;
        let unknown = account.unknown.lock().expect("no panic").clone();
        next = check(next, record.value.as_deref().unwrap_or_default(), &unknown);
    }
    consumer.close().await;
    count
}

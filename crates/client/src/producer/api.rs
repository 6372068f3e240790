//! The producer as its users see it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use goulette_records::{Compression, Limits, RecordHeader};
use goulette_types::{Acks, PartitionIndex, Timestamp, TopicName};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    Client, ClientError, Delivery, ProducerStats, SendError,
    client::lock,
    producer::{
        accumulator::{Accumulator, Appended},
        sender,
    },
};

/// How a producer batches, how much it keeps unacknowledged, and how long it tries.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Unacknowledged records at most; [`Producer::send`] waits beyond. Default 1,000,000.
    pub window_records: usize,
    /// Unacknowledged bytes at most (encoded, before compression); the last record may overshoot. Default 64 MiB.
    pub window_bytes: usize,
    /// A batch is sent when it has so many bytes. Default 512 KiB.
    pub batch_bytes: usize,
    /// A batch is sent when it has waited so long; at once if nothing of its partition is under way. Default 5 ms.
    pub linger: Duration,
    /// How batches are compressed. Default: not.
    pub compression: Compression,
    /// When a record counts as delivered. Default: when every in-sync replica has it durably.
    pub acks: Acks,
    /// Lets brokers recognise what is sent twice, so that nothing is stored twice. Without it a retry may store a record
    /// again, and one batch per partition is in flight at a time, as else a retry could change their order. Default on.
    pub idempotent: bool,
    /// How long to try, from the moment when the record's batch was opened. Default 120 s.
    pub delivery_timeout: Duration,
    /// Bytes of a record, encoded. Default 1 MiB, which is also the brokers' default.
    pub record_bytes_max: u32,
    /// Makes the topic if it is absent and the sentinel allows it. Default on.
    pub create_topic: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            window_records: 1_000_000,
            window_bytes: 64 << 20,
            batch_bytes: 512 << 10,
            linger: Duration::from_millis(5),
            compression: Compression::None,
            acks: Acks::All,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            record_bytes_max: Limits::default().record_bytes_max,
            create_topic: true,
        }
    }
}

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// Where to; by the key, or else by turns, if absent.
    pub partition: Option<PartitionIndex>,
    /// Records with equal keys share a partition, and so an order.
    pub key: Option<Bytes>,
    /// What the record says; null is not the same as empty.
    pub value: Option<Bytes>,
    /// Names and values beside it.
    pub headers: Vec<RecordHeader>,
    /// The moment of sending if absent.
    pub timestamp: Option<Timestamp>,
}

impl ProducerRecord {
    /// A record with a value and nothing else.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.headers.push(RecordHeader { key: key.into(), value: Some(value.into()) });
        self
    }
}

/// Sends records to one topic, in order within each partition. Shared by reference; dropping it gives up what is not yet
/// acknowledged, [`close`](Self::close) does not.
pub struct Producer {
    client: Client,
    shared: Arc<Shared>,
    commands: mpsc::Sender<sender::Command>,
    task: Task,
}

/// What the callers and the sending task share.
pub(crate) struct Shared {
    pub(crate) accumulator: Mutex<Accumulator>,
    /// There is something to send.
    pub(crate) wake: Notify,
    /// The window has room again.
    pub(crate) room: Notify,
}

impl Producer {
    /// A producer for `topic`.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown topic that is not to be created; [`ClientError::Unreachable`] without a
    /// sentinel.
    pub async fn new(client: &Client, topic: &TopicName, options: ProducerOptions) -> Result<Self, ClientError> {
        let routes = client.newest_routes(topic, options.create_topic).await?;
        let led = routes.partitions.iter().map(|partition| partition.leader.is_some()).collect();
        let shared = Arc::new(Shared {
            accumulator: Mutex::new(Accumulator::new(&options, led, client.random())),
            wake: Notify::new(),
            room: Notify::new(),
        });
        let (commands, inbox) = mpsc::channel(16);
        let task = sender::Sender::new(client.clone(), routes, options, Arc::clone(&shared)).run(inbox);
        Ok(Self { client: client.clone(), shared, commands, task: Task(tokio::spawn(task)) })
    }

    /// Takes the record into its batch; waits only while the window is full. What becomes of it is told by the
    /// [`Delivery`], and summed up by [`flush`](Self::flush). Dropping this future while it waits takes nothing.
    ///
    /// # Errors
    /// [`SendError::TooLarge`], [`SendError::NoPartition`], [`SendError::Closed`]: then it was not taken.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, SendError> {
        match self.send_nowait(&record) {
            Err(SendError::WindowFull { .. }) => {}
            result => return result,
        }
        loop {
            // Listens before it looks again, so that no room is missed in between.
            let room = self.shared.room.notified();
            match self.send_nowait(&record) {
                Err(SendError::WindowFull { .. }) => room.await,
                result => return result,
            }
        }
    }

    /// As [`send`](Self::send), but refuses instead of waiting.
    ///
    /// # Errors
    /// [`SendError::WindowFull`], and those of `send`.
    pub fn send_nowait(&self, record: &ProducerRecord) -> Result<Delivery, SendError> {
        let wall = record.timestamp.unwrap_or_else(|| self.client.wall());
        let result = lock(&self.shared.accumulator).append(record, wall, || Instant::now().into_std());
        match result {
            Ok(Appended { delivery, wake }) => {
                if wake {
                    self.shared.wake.notify_one();
                }
                Ok(delivery)
            }
            Err(error) => {
                if matches!(error, SendError::WindowFull { .. }) {
                    self.shared.wake.notify_one();
                }
                Err(error)
            }
        }
    }

    /// Waits until every record taken so far has its outcome.
    ///
    /// # Errors
    /// The first failure since the last flush; the deliveries tell which records failed.
    pub async fn flush(&self) -> Result<(), SendError> {
        let (reply, outcome) = oneshot::channel();
        self.commands.send(sender::Command::Flush(reply)).await.map_err(|_| SendError::Closed)?;
        outcome.await.map_err(|_| SendError::Closed)?
    }

    /// Takes no more records, and [flushes](Self::flush); then every task of the producer has ended.
    ///
    /// # Errors
    /// As `flush`.
    pub async fn close(self) -> Result<(), SendError> {
        lock(&self.shared.accumulator).shut();
        let result = self.flush().await;
        drop(self.commands);
        self.task.ended().await;
        result
    }

    /// What was sent, delivered and failed so far.
    pub fn stats(&self) -> ProducerStats {
        lock(&self.shared.accumulator).stats()
    }
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Task {
    async fn ended(mut self) {
        // A panic was reported where it happened; there is nothing to add.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

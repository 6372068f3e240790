//! Sends a record every now and then, and takes note of when each is acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use goulette_client::{Client, Delivery, Producer, ProducerOptions, ProducerRecord};
use goulette_types::TopicName;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{commands::bench::now, exit::Failure};

const PAUSE: Duration = Duration::from_millis(1);
const RECORD_BYTES: usize = 100;

/// An acknowledged record.
#[derive(Clone, Copy)]
struct Acked {
    sent: Instant,
    at: Instant,
}

pub(super) struct Writer {
    acked: watch::Receiver<Acked>,
    /// The longest time between two acks, in nanoseconds.
    pause: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    observer: JoinHandle<(u64, u64)>,
}

impl Writer {
    pub(super) async fn start(client: &Client, topic: &TopicName) -> Result<Self, Failure> {
        let producer = Producer::new(client, topic, ProducerOptions::default()).await?;
        let (tell, acked) = watch::channel(Acked { sent: now(), at: now() });
        let (pause, stopping) = (Arc::<AtomicU64>::default(), Arc::new(AtomicBool::new(false)));
        let (deliveries, delivered) = mpsc::channel(10_000);
        let observer = tokio::spawn(observe(delivered, tell, Arc::clone(&pause)));
        let sender = tokio::spawn(send(producer, deliveries, Arc::clone(&stopping)));
        Ok(Self { acked, pause, stopping, sender, observer })
    }

    /// When the first record was acknowledged that was sent after a moment; none if that takes too long.
    pub(super) async fn first_ack_of_what_is_sent_after(&self, moment: Instant, patience: Duration) -> Option<Instant> {
        let mut acked = self.acked.clone();
        let found = timeout(patience, acked.wait_for(|acked| acked.sent > moment)).await;
        found.ok()?.ok().map(|acked| acked.at)
    }

    pub(super) fn forget_pauses(&self) {
        self.pause.store(0, Ordering::Release);
    }

    /// The longest time without an ack since the last call of [`forget_pauses`](Self::forget_pauses).
    pub(super) fn longest_pause(&self) -> Duration {
        Duration::from_nanos(self.pause.load(Ordering::Acquire))
    }

    /// Says how many records were acknowledged, and how many failed.
    pub(super) async fn stop(self) -> (u64, u64) {
        self.stopping.store(true, Ordering::Release);
        // A task that panicked has aborted the program.
        let _ = self.sender.await;
        self.observer.await.unwrap_or_default()
    }
}

async fn send(producer: Producer, deliveries: mpsc::Sender<(Instant, Delivery)>, stopping: Arc<AtomicBool>) {
    while !stopping.load(Ordering::Acquire) {
        let sent = now();
        let Ok(delivery) = producer.send(ProducerRecord::new(vec![b'x'; RECORD_BYTES])).await else { break };
        if deliveries.send((sent, delivery)).await.is_err() {
            break;
        }
        sleep(PAUSE).await;
    }
    drop(deliveries);
    // What failed is counted with its delivery.
    let _ = producer.close().await;
}

async fn observe(
    mut delivered: mpsc::Receiver<(Instant, Delivery)>,
    tell: watch::Sender<Acked>,
    pause: Arc<AtomicU64>,
) -> (u64, u64) {
    let (mut records, mut failed) = (0, 0);
    let mut last = now();
    while let Some((sent, delivery)) = delivered.recv().await {
        match delivery.await {
            Ok(_) => records += 1,
            Err(_) => {
                failed += 1;
                continue;
            }
        }
        let at = now();
        pause.fetch_max(at.duration_since(last).as_nanos() as u64, Ordering::AcqRel);
        last = at;
        tell.send_replace(Acked { sent, at });
    }
    (records, failed)
}

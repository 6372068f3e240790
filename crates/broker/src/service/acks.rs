//! Acks on their way from the WAL's thread to one produce stream.

use std::sync::Mutex;

use goulette_proto::pb;
use goulette_types::{PartitionId, ProducerId};
use tokio::sync::Notify;

use crate::sync::lock;

/// What a batch counts against while it is unanswered: its producer's window in its partition.
pub(super) type Window = (PartitionId, Option<ProducerId>);

/// The end of one request of a stream.
pub(super) struct Settled {
    pub(super) ack: pb::ProduceAck,
    /// The window that the batch was counted in; none if the request was refused before that.
    pub(super) window: Option<Window>,
}

/// Gathers acks until the stream takes them, all at once: whatever one group of the WAL settles while the stream wakes
/// up leaves in one frame. It never holds more than the stream has unanswered requests, which the grant and the byte
/// budget bound.
#[derive(Default)]
pub(super) struct AckQueue {
    settled: Mutex<Vec<Settled>>,
    filled: Notify,
}

impl AckQueue {
    pub(super) fn push(&self, settled: Settled) {
        let mut queue = lock(&self.settled);
        queue.push(settled);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.filled.notify_one();
        }
    }

    /// Waits until there is at least one, and takes them all, in the order in which they were settled.
    pub(super) async fn take(&self) -> Vec<Settled> {
        loop {
            let settled = std::mem::take(&mut *lock(&self.settled));
            if !settled.is_empty() {
                return settled;
            }
            self.filled.notified().await;
        }
    }
}

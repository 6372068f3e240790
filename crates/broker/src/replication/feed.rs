//! One follower of one partition, as the leader feeds it.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use goulette_replication::Stream;
use goulette_types::{BrokerId, Offset, PartitionId};

use super::{outbox::Outbox, push::Order};
use crate::partition::Partition;

/// Shared by the partition, which marks it when there is something to send, and the stream's task, which sends.
pub(crate) struct Feed {
    id: PartitionId,
    broker: BrokerId,
    stream: Stream,
    outbox: Arc<Outbox<Order>>,
    /// Whether it is in the outbox, or being looked at.
    marked: AtomicBool,
    /// The version of the groups' positions that the follower has durably.
    positions: AtomicU64,
    begun: OnceLock<(Weak<Partition>, Offset)>,
}

impl Feed {
    pub(super) fn new(id: PartitionId, broker: BrokerId, stream: Stream, outbox: Arc<Outbox<Order>>) -> Arc<Self> {
        Arc::new(Self {
            id,
            broker,
            stream,
            outbox,
            marked: AtomicBool::new(false),
            positions: AtomicU64::new(0),
            begun: OnceLock::new(),
        })
    }

    /// Begins to feed from an offset on.
    pub(crate) fn begin(self: &Arc<Self>, partition: Arc<Partition>, from: Offset) {
        if self.begun.set((Arc::downgrade(&partition), from)).is_ok() {
            self.outbox.push(Order::Feed(Arc::clone(self)));
        }
    }

    /// There is something to send: said once until the stream's task [looks](Self::unmark).
    pub(crate) fn mark(self: &Arc<Self>) {
        if self.begun.get().is_some() && !self.marked.swap(true, Ordering::AcqRel) {
            self.outbox.push(Order::Marked(Arc::clone(self)));
        }
    }

    /// Before the partition is looked at: what comes later marks anew.
    pub(super) fn unmark(&self) {
        self.marked.store(false, Ordering::Release);
    }

    pub(crate) fn broker(&self) -> &BrokerId {
        &self.broker
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    pub(super) fn id(&self) -> PartitionId {
        self.id
    }

    /// The partition, and from where on it is fed.
    pub(super) fn start(&self) -> Option<(Arc<Partition>, Offset)> {
        let (partition, from) = self.begun.get()?;
        Some((partition.upgrade()?, *from))
    }

    pub(crate) fn positions(&self) -> u64 {
        self.positions.load(Ordering::Acquire)
    }

    /// Says whether that is news.
    pub(crate) fn report_positions(&self, version: u64) -> bool {
        self.positions.fetch_max(version, Ordering::AcqRel) < version
    }
}

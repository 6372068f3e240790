//! Keeps the latest batches of all partitions in memory, within one budget.
//!
//! The batches themselves stand in their partition's tail; here is only the order in which they are given up. A batch
//! enters when it is in its fragment: before that the tail holds it in any case, as nothing else does.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use goulette_types::Offset;

use crate::{lock, partition::Partition};

/// A run of batches of one partition: all that it holds in memory below an offset and has not given up before.
struct Run {
    partition: Weak<Partition>,
    next: Offset,
    bytes: usize,
}

pub(crate) struct TailCache {
    bytes_max: usize,
    bytes: AtomicUsize,
    /// Oldest first.
    runs: Mutex<VecDeque<Run>>,
}

impl TailCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: AtomicUsize::new(0), runs: Mutex::default() }
    }

    /// Bytes of batches held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes charge of a partition's batches below `next`, and gives up the oldest ones of any partition if that is
    /// too much. Holds no lock of its own while it takes a partition's.
    pub(crate) fn admit(&self, partition: &Arc<Partition>, next: Offset, bytes: usize) {
        lock(&self.runs).push_back(Run { partition: Arc::downgrade(partition), next, bytes });
        let mut held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        while held > self.bytes_max {
            let Some(oldest) = lock(&self.runs).pop_front() else { return };
            held = self.bytes.fetch_sub(oldest.bytes, Ordering::Relaxed) - oldest.bytes;
            if let Some(partition) = oldest.partition.upgrade() {
                partition.forget_before(oldest.next);
            }
        }
    }
}

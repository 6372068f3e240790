//! What is known to be damaged: ranges of fragments whose bytes are not what was written there.
//!
//! A damaged range is never cut off: what stands behind it is as good as ever, and a replica may give back what is in it.
//! It is said once, and reads of its offsets are answered at once from here. The list is in memory only: a new life of the
//! log finds a damage again when it is read, or scrubbed.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use goulette_types::{Offset, PartitionId, TopicId, TopicName};

use crate::{lock, partition::Partition};

/// More than these are not remembered one by one: such a disk is to be replaced.
const RANGES_MAX: usize = 10_000;

/// Bytes of a fragment that are not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedRange {
    /// The partition.
    pub partition: PartitionId,
    /// Its topic's name.
    pub topic: TopicName,
    /// The fragment.
    pub file: PathBuf,
    /// Which bytes of it.
    pub bytes: Range<u64>,
    /// The offsets that stood there.
    pub offsets: Range<Offset>,
    /// What is wrong.
    pub reason: String,
}

/// Hears of each damaged range once, from any thread, without a lock being held. It must not block.
pub type QuarantineListener = Arc<dyn Fn(&QuarantinedRange) + Send + Sync>;

/// The damaged ranges of a log.
#[derive(Default)]
pub(crate) struct Quarantine {
    /// By partition, number of the fragment, and first byte.
    ranges: Mutex<BTreeMap<(PartitionId, u32, u64), QuarantinedRange>>,
    /// How many; so that a sound log pays for no lock.
    count: AtomicUsize,
    pub(crate) listener: Mutex<Option<QuarantineListener>>,
}

impl Quarantine {
    /// How many ranges there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn ranges(&self) -> Vec<QuarantinedRange> {
        lock(&self.ranges).values().cloned().collect()
    }

    /// The range of a fragment that holds an offset.
    pub(crate) fn holding(&self, partition: PartitionId, fragment: u32, offset: Offset) -> Option<QuarantinedRange> {
        if self.count() == 0 {
            return None;
        }
        let ranges = lock(&self.ranges);
        let mut of_fragment = ranges.range((partition, fragment, 0)..=(partition, fragment, u64::MAX));
        of_fragment.find(|(_, range)| range.offsets.contains(&offset)).map(|(_, range)| range.clone())
    }

    /// Takes a range in and tells the listener, unless it is known.
    pub(crate) fn note(&self, fragment: u32, range: QuarantinedRange) {
        {
            let mut ranges = lock(&self.ranges);
            let key = (range.partition, fragment, range.bytes.start);
            if ranges.len() >= RANGES_MAX || ranges.insert(key, range.clone()).is_some() {
                return;
            }
            self.count.store(ranges.len(), Ordering::Relaxed);
        }
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener(&range);
        }
    }

    /// A range is sound again.
    pub(crate) fn forget(&self, partition: PartitionId, fragment: u32, range: &QuarantinedRange) {
        self.retain(|key| *key != (partition, fragment, range.bytes.start));
    }

    /// A partition's fragments up to this number are gone, and with them what was damaged in them.
    pub(crate) fn forget_fragments(&self, partition: &Partition, up_to: u32) {
        self.retain(|&(id, fragment, _)| id != partition.id() || fragment > up_to);
    }

    /// A topic is gone.
    pub(crate) fn forget_topic(&self, topic: TopicId) {
        self.retain(|(id, _, _)| id.topic != topic);
    }

    fn retain(&self, keep: impl Fn(&(PartitionId, u32, u64)) -> bool) {
        if self.count() > 0 {
            let mut ranges = lock(&self.ranges);
            ranges.retain(|key, _| keep(key));
            self.count.store(ranges.len(), Ordering::Relaxed);
        }
    }
}

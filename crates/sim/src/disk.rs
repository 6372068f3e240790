//! A broker's log on its disk: what is written and what is synced are two things.

use std::collections::VecDeque;

use goulette_replication::{EpochStart, Epochs};
use goulette_types::{LeaderEpoch, Offset, StorageId};

use crate::random::Random;

/// A record, which is a batch of its own here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    /// Unique in the run.
    pub(crate) id: u64,
    pub(crate) epoch: LeaderEpoch,
}

/// Records from an offset on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) start: u64,
    pub(crate) records: Vec<Record>,
    /// The epoch of the records that retention removed last, so that epochs never seem younger than they are.
    before: Option<EpochStart>,
}

/// One entry of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Append(Record),
    Truncate { to: u64, restart: bool },
    Trim { start: u64 },
}

impl Log {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    pub(crate) fn get(&self, offset: u64) -> Option<Record> {
        self.records.get(usize::try_from(offset.checked_sub(self.start)?).ok()?).copied()
    }

    pub(crate) fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Append(record) => self.records.push(record),
            Entry::Truncate { to, restart: true } => *self = Log { start: to, ..Log::default() },
            Entry::Truncate { to, restart: false } => {
                self.records.truncate(to.saturating_sub(self.start) as usize);
                self.before = self.before.filter(|before| before.start < Offset(to));
            }
            Entry::Trim { start } => {
                let gone = (start.min(self.end()).saturating_sub(self.start)) as usize;
                if gone > 0 {
                    let mut epochs = self.epochs();
                    epochs.trim(Offset(start));
                    self.before = epochs.entries().first().copied();
                    self.records.drain(..gone);
                    self.start += gone as u64;
                }
            }
        }
    }

    pub(crate) fn epochs(&self) -> Epochs {
        let mut epochs = Epochs::new(self.before.into_iter().collect()).unwrap_or_default();
        for (index, record) in self.records.iter().enumerate() {
            let continues = epochs.note(record.epoch, Offset(self.start + index as u64));
            debug_assert!(continues, "epochs rise within a log");
        }
        epochs
    }
}

/// A disk: its synced log, and what was written since.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) storage: StorageId,
    pub(crate) synced: Log,
    pending: VecDeque<Entry>,
    /// `committed` as the last checkpoint holds it.
    pub(crate) committed: u64,
}

impl Disk {
    pub(crate) fn new(storage: StorageId) -> Self {
        Self { storage, synced: Log::default(), pending: VecDeque::new(), committed: 0 }
    }

    pub(crate) fn write(&mut self, entry: Entry) {
        self.pending.push_back(entry);
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The oldest `count` written entries are synced.
    pub(crate) fn sync(&mut self, count: usize) -> Vec<Entry> {
        let entries: Vec<_> = self.pending.drain(..count.min(self.pending.len())).collect();
        for &entry in &entries {
            self.synced.apply(entry);
        }
        entries
    }

    /// The process dies, or the power goes: of what is not synced any number of the oldest entries may have reached the
    /// disk (the WAL drops everything behind the first that did not).
    pub(crate) fn crash(&mut self, random: &mut Random) {
        let kept = if random.chance(500) { 0 } else { random.below(self.pending.len() as u64 + 1) };
        self.sync(kept as usize);
        self.pending.clear();
        self.committed = self.committed.min(self.synced.end()).max(self.synced.start);
    }
}

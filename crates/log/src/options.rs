//! How a log is set up.

use std::{ops::RangeInclusive, time::Duration};

use goulette_wal::WalOptions;

use crate::{scrub::ScrubOptions, space::SpaceOptions};

/// When a partition goes on to its next fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roll {
    /// Before the fragment would exceed these bytes; one batch alone may.
    pub bytes: u32,
    /// When the fragment's first batch is older.
    pub age: Duration,
}

impl Roll {
    /// What `bytes` may be: 1 KiB to 1 GiB.
    pub const BYTES: RangeInclusive<u32> = 1 << 10..=1 << 30;
}

/// Settings of a [`Log`](crate::Log). The defaults suit a broker on two cores with 2 GiB of memory. On a volume smaller than
/// 4 GiB the WAL takes no more than a quarter of it, whatever the settings say, in smaller segments.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The WAL's settings, its sync policy among them.
    pub wal: WalOptions,
    /// When fragments are rolled, unless a partition has [settings of its own](crate::Partition::set_roll). 128 MiB,
    /// 7 days.
    pub roll: Roll,
    /// Bytes of batches that are accepted but not yet in their fragment; appends are Busy beyond. 128 MiB.
    pub unflushed_bytes_max: usize,
    /// When so many bytes of a partition wait for the WAL, they go straight to its fragment, and only a reference to them
    /// into the WAL: written once instead of twice, at the price of a second sync before the answer. 128 KiB.
    pub direct_bytes: usize,
    /// Bytes of batches kept in memory after they are in their fragment, over all partitions. 64 MiB.
    pub tail_cache_bytes: usize,
    /// Bytes that a partition gathers before they are written to its fragment at once. 1 MiB.
    pub flush_bytes: usize,
    /// How long fewer bytes than that may wait. 1 s: they are durable in the WAL, and wait in memory only.
    pub flush_age: Duration,
    /// A checkpoint is taken when the WAL has grown by these bytes since the last one. 256 MiB.
    ///
    /// Only a checkpoint lets the WAL use its segments again, and writing a segment for the first time is slow. So the
    /// trigger lies well below [`wal_bytes_max`](Self::wal_bytes_max): a handful of segments are ever made, then recycled.
    pub checkpoint_bytes: u64,
    /// A checkpoint is taken when the last one is older and anything has changed. 60 s.
    pub checkpoint_interval: Duration,
    /// Fragments whose files are kept open, over all partitions; more only while all of them are being written to.
    /// 12,288: ten thousand partitions are written to in turns without a sync for each turn.
    pub fragment_handles_max: usize,
    /// Files and folders that a checkpoint syncs one by one; if there are more it syncs the whole file system instead, where
    /// that can be trusted. 128.
    pub syncs_max: usize,
    /// Bytes that the WAL may grow by before a checkpoint has caught up; appends are Busy beyond. 1 GiB.
    pub wal_bytes_max: u64,
    /// Groups whose positions a partition keeps. 10,000.
    pub groups_max: usize,
    /// Idempotent producers are forgotten when they have not appended for so long. 7 days.
    pub producer_expiry: Duration,
    /// A checkpoint is taken when removed fragments of so many bytes wait for it to be used again. 256 MiB.
    pub removed_bytes_max: u64,
    /// Bytes of removed fragments that are kept to be written again; more are given back. 1 GiB.
    pub recycled_bytes_max: u64,
    /// How often is looked for fragments that need not be [kept](crate::Retention). 30 s.
    pub retention_interval: Duration,
    /// How old data is looked after.
    pub scrub: ScrubOptions,
    /// How much of the disk is left alone.
    pub space: SpaceOptions,
    /// Whether threads flush, write directly, take checkpoints, look for what may go, watch the disk and scrub it. Without them the
    /// WAL's thread writes directly, and for the rest only
    /// [`Log::flush`](crate::Log::flush), [`Log::checkpoint`](crate::Log::checkpoint), [`Log::retain`](crate::Log::retain),
    /// [`Log::look_at_space`](crate::Log::look_at_space) and [`Log::scrub`](crate::Log::scrub) do, so that a test decides on every disk operation.
    pub background: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            wal: WalOptions::default(),
            roll: Roll { bytes: 128 << 20, age: Duration::from_secs(7 * 24 * 3600) },
            unflushed_bytes_max: 128 << 20,
            direct_bytes: 128 << 10,
            tail_cache_bytes: 64 << 20,
            flush_bytes: 1 << 20,
            flush_age: Duration::from_secs(1),
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(60),
            fragment_handles_max: 12_288,
            syncs_max: 128,
            wal_bytes_max: 1 << 30,
            groups_max: 10_000,
            producer_expiry: Duration::from_secs(7 * 24 * 3600),
            removed_bytes_max: 256 << 20,
            recycled_bytes_max: 1 << 30,
            retention_interval: Duration::from_secs(30),
            scrub: ScrubOptions::default(),
            space: SpaceOptions::default(),
            background: true,
        }
    }
}

impl LogOptions {
    /// Finds all mistakes; none in the defaults.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !Roll::BYTES.contains(&self.roll.bytes) {
            mistakes.push(format!("fragment bytes are {}: allowed are 1 KiB to 1 GiB", self.roll.bytes));
        }
        if self.unflushed_bytes_max == 0 {
            mistakes.push("unflushed bytes are 0: nothing could be appended".into());
        }
        if self.checkpoint_bytes > self.wal_bytes_max {
            mistakes.push(format!(
                "a checkpoint every {} bytes comes too late for a WAL of {}",
                self.checkpoint_bytes, self.wal_bytes_max
            ));
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_no_mistake_and_all_mistakes_are_found() {
        assert!(LogOptions::default().mistakes().is_empty());
        let roll = Roll { bytes: 3, age: Duration::ZERO };
        let wrong = LogOptions { roll, unflushed_bytes_max: 0, wal_bytes_max: 0, ..LogOptions::default() };
        assert_eq!(wrong.mistakes().len(), 3);
    }
}

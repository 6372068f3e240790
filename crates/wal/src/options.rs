//! What can be tuned.

use std::time::Duration;

use crate::{
    entry::{ENTRY_ALIGN, ENTRY_HEADER_BYTES},
    segment::{FIRST_ENTRY, GROUP_ALIGN, LINK_BYTES, is_segment_length},
};

/// When a written group counts as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After its sync. The only policy under which [`committed`](crate::Sink::committed) means stable storage.
    Always,
    /// After the write; a sync follows at most this much later.
    Interval(Duration),
    /// After the write; only a full segment and the closing are synced.
    Never,
}

/// Options of a log; plain data.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The log's id, for a caller who knows it from elsewhere: a new log gets it, and segments of another one are refused.
    /// Without it a new log takes a random one, and the oldest segment is believed.
    pub log: Option<u128>,
    /// Length of a segment file, a multiple of 4096 from 16 KiB to 1 GiB. May change between two openings.
    pub segment_bytes: u32,
    /// When a group counts as committed.
    pub sync: SyncPolicy,
    /// A group is closed when the next entry would make it larger than this (a larger single entry is a group).
    pub group_bytes_max: u32,
    /// Bytes of entries that may wait, the group being written included; more are refused as busy. One entry alone
    /// is always taken.
    pub queue_bytes_max: u64,
    /// Entries that may wait, the group being written included.
    pub queue_entries_max: usize,
    /// Segments behind the checkpoint that are kept to be written again; more are removed.
    pub spare_segments_max: usize,
    /// Prepares and recycles segments on the calling thread, so that a test sees the same order of disk operations
    /// each time.
    pub prepare_inline: bool,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            log: None,
            segment_bytes: 64 << 20,
            sync: SyncPolicy::Always,
            group_bytes_max: 8 << 20,
            queue_bytes_max: 64 << 20,
            queue_entries_max: 1 << 16,
            spare_segments_max: 16,
            prepare_inline: false,
        }
    }
}

impl WalOptions {
    /// The longest payload that fits into one segment.
    pub fn payload_bytes_max(&self) -> u32 {
        // The first group of a segment also carries the link to the segment before.
        let other = FIRST_ENTRY + LINK_BYTES + ENTRY_HEADER_BYTES as u32 + ENTRY_ALIGN as u32;
        self.segment_bytes.saturating_sub(other)
    }

    /// All that is wrong with the options, in words; empty if nothing is.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !is_segment_length(self.segment_bytes) {
            mistakes.push(format!(
                "segment_bytes is {}: not a multiple of {GROUP_ALIGN} from 16384 to 1073741824",
                self.segment_bytes
            ));
        }
        if self.queue_entries_max == 0 {
            mistakes.push("queue_entries_max is 0: nothing could be appended".into());
        }
        if self.sync == SyncPolicy::Interval(Duration::ZERO) {
            mistakes.push("the sync interval is 0: use the policy `always`".into());
        }
        mistakes
    }
}

//! A crash-safe append-only log of opaque entries, with group commit.
//!
//! Knows nothing of queues: an entry is a kind and bytes, and what they mean is the caller's affair. It promises that
//! an entry whose [`Sink::committed`] was called under [`SyncPolicy::Always`] is found again, in order and unchanged,
//! whatever the process and the machine do, as long as the disk keeps what it said it had synced; and that nothing
//! that was dropped once rises again.
//!
//! Start with [`Wal`], then the format (`docs/formats/wal.md`, `segment`, `entry`), then an entry's way: `writer`
//! takes it off the queue, `committer` writes its group, `pool` has the segments ready, `recovery` reads it back.

mod committer;
mod entry;
mod error;
mod options;
mod pool;
mod position;
mod recovery;
mod segment;
mod wal;
mod writer;

pub use committer::{Committed, Pending};
pub use entry::{Entry, Payload};
pub use error::{AppendError, OpenError, RecoverError, VisitError, WalError};
pub use options::{SyncPolicy, WalOptions};
pub use position::WalPosition;
pub use recovery::{Corruption, RecoveredEntry, Recovery, Torn};
pub use segment::segment_name;
pub use wal::{Sink, Wal, WalStats, WalWaker};

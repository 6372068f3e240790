//! Snapshots in etcd's format: a bbolt file with etcd's buckets, then the SHA-256 of it. etcd's own tools read ours, and
//! we read etcd's: the way in and the way out.
//!
//! Because the store keeps etcd's buckets as they are, `save` and `restore` copy; what differs between two clusters
//! (members, positions in the log) is made anew by `restore`. `status` tells what a file holds, as `etcdutl` does.

mod restore;
mod save;
mod source;
mod status;

pub use restore::{RestoreError, RestoreOptions, Restored, RestoredMember, restore};
pub(crate) use save::STORAGE_VERSION;
pub use save::save;
pub use source::{SourceError, check_sum};
pub use status::{SnapshotStatus, status};

/// Bytes of the checksum behind the bbolt file.
pub const CHECKSUM_BYTES: u64 = 32;

#[cfg(test)]
mod tests;

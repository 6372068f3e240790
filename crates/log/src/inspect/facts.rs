//! What an inspection tells: facts in numbers, damages, and why it cannot begin.

use std::{io, path::PathBuf};

use goulette_types::{BrokerId, ErrorKind, Offset, PartitionId, Timestamp, TopicName};
use goulette_wal::WalPosition;

/// Bytes that are not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// From which byte on.
    pub position: u64,
    /// What is wrong.
    pub reason: String,
}

/// What a directory holds, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whose it is; none if `broker.json` does not tell.
    pub broker: Option<BrokerId>,
    /// When the checkpoint was taken; none if it cannot be read.
    pub checkpoint: Option<Timestamp>,
    /// By id.
    pub partitions: Vec<PartitionFacts>,
    /// The WAL.
    pub wal: WalFacts,
    /// Damages in the identity, the checkpoint and the WAL: what they would have told is missing here. The fragments
    /// were not looked at.
    pub damages: usize,
}

/// One partition in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// Its id.
    pub id: PartitionId,
    /// Its topic's name.
    pub topic: TopicName,
    /// First kept offset.
    pub start: Offset,
    /// First unwritten offset, the WAL's tail included.
    pub end: Offset,
    /// Fragments that the checkpoint knows.
    pub fragments: usize,
    /// Valid bytes in them.
    pub fragment_bytes: u64,
    /// Batches that only the WAL is sure to have.
    pub wal_batches: u64,
    /// Their bytes.
    pub wal_bytes: u64,
}

/// The WAL in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalFacts {
    /// Segments of the log.
    pub segments: u64,
    /// Files kept to become segments again.
    pub spares: u64,
    /// Bytes of all files in its folder.
    pub bytes: u64,
    /// From where a start would replay; none if there is no WAL.
    pub from: Option<WalPosition>,
    /// The end of what can be read; none if there is no WAL.
    pub end: Option<WalPosition>,
    /// Entries between the two.
    pub tail_entries: u64,
    /// Bytes of their payloads.
    pub tail_bytes: u64,
    /// Whether a group at the end was being written when the process died: it was never acknowledged.
    pub torn: bool,
}

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It holds neither a checkpoint nor a WAL.
    #[error("{} is not the data directory of a broker: it has neither a checkpoint nor a wal folder", dir.display())]
    NoData {
        /// The directory.
        dir: PathBuf,
    },
    /// A broker runs on it.
    #[error("data directory {} is in use by {}: stop it first", dir.display(), name(broker.as_ref()))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Whose it is, as far as `broker.json` tells.
        broker: Option<BrokerId>,
    },
    /// The disk failed, or does not let us in.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn name(broker: Option<&BrokerId>) -> String {
    broker.map_or("a running broker".into(), |broker| format!("the running broker {broker}"))
}

impl InspectError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            InspectError::NoData { .. } => ErrorKind::NotFound,
            InspectError::Locked { .. } => ErrorKind::Conflict,
            InspectError::Io { .. } => ErrorKind::Internal,
        }
    }
}

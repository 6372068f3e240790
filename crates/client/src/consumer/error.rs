//! Why consuming stopped.

use goulette_types::{ErrorKind, Offset, PartitionIndex};

use crate::ClientError;

/// Why consuming a partition stopped; the others go on. [`Consumer::seek`](crate::Consumer::seek) starts it anew.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The consumer could not be set up, or its call failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The partition does not hold the offset.
    #[error("partition {partition} holds offsets {start} to {committed}, so none {wanted}")]
    OutOfRange {
        /// The partition.
        partition: PartitionIndex,
        /// The offset asked for.
        wanted: Offset,
        /// The first one kept.
        start: Offset,
        /// The first one that is not there yet.
        committed: Offset,
    },
    /// Another live member of the group has the partition; the message names it.
    #[error("{message}")]
    Conflict {
        /// The partition.
        partition: PartitionIndex,
        /// The broker's words.
        message: String,
    },
    /// Stored or received bytes are damaged.
    #[error("partition {partition} is damaged at offset {at}: {reason}{}", skip_hint(*.skip_to))]
    Corrupt {
        /// The partition.
        partition: PartitionIndex,
        /// The first offset that cannot be read.
        at: Offset,
        /// The first readable one behind it, if known.
        skip_to: Option<Offset>,
        /// What is wrong.
        reason: String,
    },
    /// Records are missing where a log is dense.
    #[error("partition {partition} goes on at offset {found} instead of {expected}")]
    Gap {
        /// The partition.
        partition: PartitionIndex,
        /// The offset that should come.
        expected: Offset,
        /// The one that came.
        found: Offset,
    },
    /// The broker refused for another reason.
    #[error("partition {partition}: {message}")]
    Refused {
        /// The partition.
        partition: PartitionIndex,
        /// What the caller can do.
        kind: ErrorKind,
        /// The broker's words.
        message: String,
    },
    /// Positions are kept for groups only.
    #[error("positions are committed for a group, but this consumer has none")]
    NoGroup,
    /// The consumer does not read this partition.
    #[error("this consumer does not read partition {partition}")]
    NotAssigned {
        /// The partition.
        partition: PartitionIndex,
    },
}

impl ConsumeError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ConsumeError::Client(error) => error.kind(),
            ConsumeError::OutOfRange { .. } => ErrorKind::OutOfRange,
            ConsumeError::Conflict { .. } => ErrorKind::Conflict,
            ConsumeError::Corrupt { .. } | ConsumeError::Gap { .. } => ErrorKind::Corrupt,
            ConsumeError::Refused { kind, .. } => *kind,
            ConsumeError::NoGroup | ConsumeError::NotAssigned { .. } => ErrorKind::Invalid,
        }
    }
}

fn skip_hint(skip_to: Option<Offset>) -> String {
    skip_to.map_or_else(String::new, |offset| format!("; the next readable offset is {offset}"))
}

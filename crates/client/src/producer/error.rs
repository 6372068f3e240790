//! Why a record was not delivered, or may not have been.

use std::time::Duration;

use goulette_types::ErrorKind;

/// Why a record was not delivered. Nothing was stored, except perhaps with [`SendError::OutcomeUnknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The record alone exceeds a limit.
    #[error("a record of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// Bytes of the record, encoded.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u32,
    },
    /// The record names a partition that the topic does not have.
    #[error("the topic has {partitions} partitions, so no partition {partition}")]
    NoPartition {
        /// The partition named.
        partition: u32,
        /// How many there are.
        partitions: usize,
    },
    /// The window is full, and the caller did not want to wait.
    #[error("the window is full: {records} records are unacknowledged")]
    WindowFull {
        /// Records that are not acknowledged yet.
        records: usize,
    },
    /// The broker refused the batch; sending it again would not help.
    #[error("{message}")]
    Refused {
        /// What the caller can do.
        kind: ErrorKind,
        /// The broker's words.
        message: String,
    },
    /// The delivery timeout passed, and the record is certainly not stored.
    #[error("not delivered within {timeout:?}, and not stored: {reason}")]
    Expired {
        /// The producer's delivery timeout.
        timeout: Duration,
        /// What stood in the way last.
        reason: String,
    },
    /// The record was sent, and may be stored or not: read before deciding.
    #[error("it is unknown whether the record is stored: {reason}")]
    OutcomeUnknown {
        /// What stood in the way of an answer.
        reason: String,
    },
    /// The producer was closed or dropped before the record was sent.
    #[error("the producer is closed")]
    Closed,
}

impl SendError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SendError::TooLarge { .. } => ErrorKind::TooLarge,
            SendError::NoPartition { .. } => ErrorKind::NotFound,
            SendError::WindowFull { .. } => ErrorKind::Busy,
            SendError::Refused { kind, .. } => *kind,
            SendError::Expired { .. } => ErrorKind::DeadlineExceeded,
            SendError::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
            SendError::Closed => ErrorKind::Unavailable,
        }
    }
}

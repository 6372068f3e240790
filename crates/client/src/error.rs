//! Why a call to a sentinel or broker failed.

use goulette_proto::status;
use goulette_types::{ErrorKind, NameError};
use tonic::Status;

/// Why a call to a sentinel or broker failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// An address that cannot be dialled as it is written.
    #[error("{address:?} is not an address: write host:port, as in 127.0.0.1:50052")]
    Address {
        /// As given.
        address: String,
    },
    /// A name that nothing can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nobody answered, at none of the addresses.
    #[error("no {role} is reachable at {addresses} ({reason}): is it running?")]
    Unreachable {
        /// `sentinel` or `broker`.
        role: &'static str,
        /// All that were tried, comma-separated.
        addresses: String,
        /// What the last attempt met.
        reason: String,
    },
    /// The peer answered with an error.
    #[error("{message}")]
    Refused {
        /// What the caller can do.
        kind: ErrorKind,
        /// The peer's words.
        message: String,
    },
    /// The peer's answer means nothing: a defect, or another version.
    #[error("the {role} at {address} gave an answer that makes no sense: {reason}")]
    Malformed {
        /// `sentinel` or `broker`.
        role: &'static str,
        /// The peer.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody leads the partition, now.
    #[error("partition {partition} of topic {topic} has no leader{why}")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What the sentinel says about it, with its punctuation; may be empty.
        why: String,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has {partitions} partitions, so no partition {partition}")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        partitions: usize,
    },
}

impl ClientError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ClientError::Address { .. } | ClientError::Name(_) => ErrorKind::Invalid,
            ClientError::Unreachable { .. } => ErrorKind::Unavailable,
            ClientError::Refused { kind, .. } => *kind,
            ClientError::Malformed { .. } => ErrorKind::Internal,
            ClientError::NoLeader { .. } => ErrorKind::Offline,
            ClientError::NoPartition { .. } => ErrorKind::NotFound,
        }
    }

    /// A peer's status, as an answer of that peer.
    pub(crate) fn refused(status: &Status) -> Self {
        ClientError::Refused { kind: status::kind_of(status), message: status.message().to_owned() }
    }
}

/// What a status says, with the cause that tonic keeps beside it: "transport error" alone helps nobody.
pub(crate) fn reason_of(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = if reason.is_empty() { text } else { format!("{reason}: {text}") };
        }
        source = error.source();
    }
    reason
}

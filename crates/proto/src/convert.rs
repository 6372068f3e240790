//! Between the wire's fields and the project's types: parsed once at the edge, printed without loss.

use goulette_types::{Acks, ErrorKind, PartitionId, PartitionIndex, TopicId};

use crate::pb;

impl From<pb::Acks> for Acks {
    fn from(acks: pb::Acks) -> Self {
        match acks {
            pb::Acks::All => Acks::All,
            pb::Acks::Leader => Acks::Leader,
            pb::Acks::None => Acks::None,
        }
    }
}

impl From<Acks> for pb::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::All => pb::Acks::All,
            Acks::Leader => pb::Acks::Leader,
            Acks::None => pb::Acks::None,
        }
    }
}

/// The partition that a request names.
///
/// # Errors
/// A sentence for the caller, if the topic id is not 16 bytes.
pub fn partition_id(topic_id: &[u8], partition: u32) -> Result<PartitionId, String> {
    let topic = TopicId::try_from(topic_id).map_err(|_| format!("topic_id has {} bytes, not 16", topic_id.len()))?;
    Ok(PartitionId { topic, index: PartitionIndex(partition) })
}

impl From<ErrorKind> for pb::ErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => pb::ErrorKind::Invalid,
            ErrorKind::TooLarge => pb::ErrorKind::TooLarge,
            ErrorKind::NotFound => pb::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => pb::ErrorKind::AlreadyExists,
            ErrorKind::Conflict => pb::ErrorKind::Conflict,
            ErrorKind::Fenced => pb::ErrorKind::Fenced,
            ErrorKind::NotLeader => pb::ErrorKind::NotLeader,
            ErrorKind::OutOfRange => pb::ErrorKind::OutOfRange,
            ErrorKind::OutOfOrder => pb::ErrorKind::OutOfOrder,
            ErrorKind::Busy => pb::ErrorKind::Busy,
            ErrorKind::Unavailable => pb::ErrorKind::Unavailable,
            ErrorKind::Offline => pb::ErrorKind::Offline,
            ErrorKind::NotEnoughReplicas => pb::ErrorKind::NotEnoughReplicas,
            ErrorKind::OutcomeUnknown => pb::ErrorKind::OutcomeUnknown,
            ErrorKind::Corrupt => pb::ErrorKind::Corrupt,
            ErrorKind::Unsupported => pb::ErrorKind::Unsupported,
            ErrorKind::DeadlineExceeded => pb::ErrorKind::DeadlineExceeded,
            ErrorKind::StorageFull => pb::ErrorKind::StorageFull,
            ErrorKind::Internal => pb::ErrorKind::Internal,
        }
    }
}

impl From<pb::ErrorKind> for ErrorKind {
    /// A kind that this binary does not know counts as internal.
    fn from(kind: pb::ErrorKind) -> Self {
        ErrorKind::ALL.into_iter().find(|&known| pb::ErrorKind::from(known) == kind).unwrap_or(ErrorKind::Internal)
    }
}

impl pb::Error {
    /// An error for an answer or a stream.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind: pb::ErrorKind::from(kind).into(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from(pb::ErrorKind::from(kind)), kind);
        }
    }
}

//! What a caller can do about an error, as a short closed list.

/// The kind of an error, named for what the caller can do about it.
///
/// Every error enum of the project answers `kind()`; each wire maps the kinds in one exhaustive `match`
/// (`proto/src/status.rs` for gRPC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request can never succeed as it is: mend it.
    Invalid,
    /// A record, batch or request is larger than the limit that the message names.
    TooLarge,
    /// The thing named does not exist.
    NotFound,
    /// The thing to be created exists already.
    AlreadyExists,
    /// Another holds what was asked for (a group's partition, a data directory, a broker id): release it there first.
    Conflict,
    /// The caller speaks with an epoch, incarnation or generation that has been replaced: it must stop or start anew.
    Fenced,
    /// This broker does not lead the partition (now): refresh the route, then retry.
    NotLeader,
    /// The offset lies outside of what the partition holds.
    OutOfRange,
    /// A batch of an idempotent producer leaves a gap: take a new producer epoch.
    OutOfOrder,
    /// Too much at once: retry after a pause.
    Busy,
    /// Not reachable or not ready: retry after a pause, elsewhere if there is an elsewhere.
    Unavailable,
    /// No live broker holds the partition's data; the message names who is awaited.
    Offline,
    /// Fewer in-sync replicas than the minimum; nothing was stored.
    NotEnoughReplicas,
    /// It may have happened or not: read before deciding.
    OutcomeUnknown,
    /// Stored bytes do not match their checksum.
    Corrupt,
    /// The peer or the data is of a version that this binary does not know.
    Unsupported,
    /// The deadline passed before an answer.
    DeadlineExceeded,
    /// The disk is full: free space, then retry.
    StorageFull,
    /// A defect or a failed machine; the log says more.
    Internal,
}

impl ErrorKind {
    /// Every kind once, for tables and tests.
    pub const ALL: [ErrorKind; 19] = [
        ErrorKind::Invalid,
        ErrorKind::TooLarge,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Conflict,
        ErrorKind::Fenced,
        ErrorKind::NotLeader,
        ErrorKind::OutOfRange,
        ErrorKind::OutOfOrder,
        ErrorKind::Busy,
        ErrorKind::Unavailable,
        ErrorKind::Offline,
        ErrorKind::NotEnoughReplicas,
        ErrorKind::OutcomeUnknown,
        ErrorKind::Corrupt,
        ErrorKind::Unsupported,
        ErrorKind::DeadlineExceeded,
        ErrorKind::StorageFull,
        ErrorKind::Internal,
    ];

    /// The kind's name in snake case, as it stands on the wire and in logs.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Fenced => "fenced",
            ErrorKind::NotLeader => "not_leader",
            ErrorKind::OutOfRange => "out_of_range",
            ErrorKind::OutOfOrder => "out_of_order",
            ErrorKind::Busy => "busy",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Offline => "offline",
            ErrorKind::NotEnoughReplicas => "not_enough_replicas",
            ErrorKind::OutcomeUnknown => "outcome_unknown",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::StorageFull => "storage_full",
            ErrorKind::Internal => "internal",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the same request, repeated after a pause (and a refreshed route), may succeed.
    pub fn is_retriable(self) -> bool {
        matches!(
            self,
            ErrorKind::NotLeader
                | ErrorKind::Busy
                | ErrorKind::Unavailable
                | ErrorKind::Offline
                | ErrorKind::NotEnoughReplicas
                | ErrorKind::OutcomeUnknown
                | ErrorKind::DeadlineExceeded
                | ErrorKind::StorageFull
        )
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.name()), Some(kind));
        }
    }
}

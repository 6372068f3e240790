//! The one table between [`ErrorKind`] and gRPC's status codes.
//!
//! Several kinds share a code, so the kind's own name travels beside it in the trailer [`KIND_TRAILER`]; a peer that
//! does not send it (another language's server, a proxy) is understood by its code.

use goulette_types::ErrorKind;
use tonic::{Code, Status, metadata::MetadataValue};

/// The trailer that carries the kind's name.
pub const KIND_TRAILER: &str = "goulette-error-kind";

/// The trailer in which a sentinel that does not lead names the address of the one that does, `host:port`.
pub const LEADER_TRAILER: &str = "goulette-leader";

/// The leading sentinel's address, where a refusal names it.
pub fn leader_of(status: &Status) -> Option<String> {
    status.metadata().get(LEADER_TRAILER)?.to_str().ok().map(ToOwned::to_owned)
}

/// The status that tells `kind` and `message` to any gRPC client.
pub fn to_status(kind: ErrorKind, message: impl Into<String>) -> Status {
    let mut status = Status::new(code(kind), message);
    status.metadata_mut().insert(KIND_TRAILER, MetadataValue::from_static(kind.name()));
    status
}

/// The kind of a status, whoever made it.
pub fn kind_of(status: &Status) -> ErrorKind {
    let named = status.metadata().get(KIND_TRAILER).and_then(|value| value.to_str().ok());
    named.and_then(ErrorKind::from_name).unwrap_or_else(|| match status.code() {
        Code::InvalidArgument => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::ResourceExhausted => ErrorKind::Busy,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::FailedPrecondition => ErrorKind::Conflict,
        // A cancelled or aborted call may have been carried out.
        Code::Cancelled | Code::Aborted | Code::Unknown => ErrorKind::OutcomeUnknown,
        Code::Ok | Code::Internal | Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Internal,
    })
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid | ErrorKind::TooLarge => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict | ErrorKind::Fenced | ErrorKind::NotLeader | ErrorKind::OutOfOrder => {
            Code::FailedPrecondition
        }
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Busy | ErrorKind::StorageFull => Code::ResourceExhausted,
        ErrorKind::Unavailable | ErrorKind::Offline | ErrorKind::NotEnoughReplicas => Code::Unavailable,
        ErrorKind::OutcomeUnknown => Code::Aborted,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_survives_a_status() {
        for kind in ErrorKind::ALL {
            assert_eq!(kind_of(&to_status(kind, "x")), kind);
        }
    }
}

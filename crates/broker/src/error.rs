//! Why a request is refused, and how the wire hears of it.

use goulette_log::{AppendError, ReadError};
use goulette_proto::{pb, status::to_status};
use goulette_records::BatchError;
use goulette_types::{ErrorKind, LeaderEpoch, Offset};
use tonic::Status;

/// Why a request was refused. Unless the kind is [`ErrorKind::OutcomeUnknown`], nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// A field that can never be right.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("this broker has not registered at a sentinel yet: retry")]
    Starting,
    #[error("this broker is stopping: retry")]
    Stopping,
    #[error("this broker does not lead {partition}: ask a sentinel who does (GetBrokers), then retry there")]
    NotLeader { partition: String },
    #[error("the leader epoch of {partition} is {current}, not {believed}: refresh the route, then retry")]
    OtherEpoch { partition: String, believed: LeaderEpoch, current: LeaderEpoch },
    #[error("the leadership of {partition} ended first: it may have been stored")]
    LeadershipLost { partition: String },
    #[error("{in_sync} replicas of {partition} are in sync, {minimum} are needed: nothing was stored, retry")]
    NotEnoughReplicas { partition: String, in_sync: u32, minimum: u32 },
    #[error("the leader of {partition} cannot reach enough replicas to say whether what it knows is fresh: retry")]
    NotFresh { partition: String },
    #[error("protocol version {given} is newer than {known}: upgrade this broker first")]
    NewerProtocol { given: u32, known: u32 },
    #[error("this broker belongs to cluster {own}, not to {given}")]
    OtherCluster { given: String, own: String },
    #[error("this is broker {own} in another life, or not {given} at all: ask a sentinel where that is")]
    OtherBroker { given: String, own: String },
    #[error("the topic of {partition} has been deleted")]
    Deleted { partition: String },
    #[error("more than {granted} batches of one producer are unanswered in one partition: wait for acks")]
    InFlight { granted: u32 },
    #[error("{calls_max} streams and calls are open here: close one, or retry later")]
    Calls { calls_max: u32 },
    #[error("offset {given} is not in {start}..={end}")]
    OutOfRange { given: Offset, start: Offset, end: Offset },
    #[error("member {member:?} of group {group:?} reads this partition already: stop it first, or use another group")]
    Taken { group: String, member: String },
    #[error("member {member:?} has come again on another stream, which reads on")]
    Replaced { member: String },
    #[error("no answer from the disk within {seconds} s: it may have been stored")]
    Late { seconds: u64 },
    #[error("{stored} of {sent} batches were stored, then: {source}")]
    Partly { stored: usize, sent: usize, source: Box<RequestError> },
    #[error("internal error: {0}")]
    Internal(String),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl RequestError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Starting | Self::Stopping => ErrorKind::Unavailable,
            Self::NotLeader { .. } | Self::OtherEpoch { .. } => ErrorKind::NotLeader,
            Self::LeadershipLost { .. } => ErrorKind::OutcomeUnknown,
            Self::NotEnoughReplicas { .. } => ErrorKind::NotEnoughReplicas,
            Self::NotFresh { .. } => ErrorKind::Unavailable,
            Self::NewerProtocol { .. } => ErrorKind::Unsupported,
            Self::OtherCluster { .. } => ErrorKind::Conflict,
            Self::OtherBroker { .. } => ErrorKind::Fenced,
            Self::Deleted { .. } => ErrorKind::NotFound,
            Self::InFlight { .. } | Self::Calls { .. } => ErrorKind::Busy,
            Self::OutOfRange { .. } => ErrorKind::OutOfRange,
            Self::Taken { .. } => ErrorKind::Conflict,
            Self::Replaced { .. } => ErrorKind::Fenced,
            Self::Late { .. } | Self::Partly { .. } => ErrorKind::OutcomeUnknown,
            Self::Internal(_) => ErrorKind::Internal,
            Self::Batch(error) => error.kind(),
            Self::Append(error) => error.kind(),
            Self::Read(error) => error.kind(),
        }
    }
}

/// Inside of an answer or a stream that goes on.
impl From<RequestError> for pb::Error {
    fn from(error: RequestError) -> Self {
        pb::Error::new(error.kind(), error.to_string())
    }
}

/// As the end of a call.
impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        to_status(error.kind(), error.to_string())
    }
}

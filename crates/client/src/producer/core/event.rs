//! What the core and its shell say to each other.

use std::time::Instant;

use goulette_types::{BrokerId, ErrorKind, LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId};

use crate::{
    SendError,
    producer::{accumulator::BatchId, delivery::Acked},
};

/// One request on a stream; never reused within a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// Who this producer is, as a sentinel numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

/// Who leads a partition, as far as this core cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderRef {
    pub(crate) broker: BrokerId,
    pub(crate) epoch: LeaderEpoch,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A batch is ready to be sent.
    Closed { batch: BatchId, partition: PartitionIndex, records: u32, opened: Instant },
    /// The stream to a broker is up; so many batches may be in flight per partition.
    Connected { broker: BrokerId, batches_in_flight: u32 },
    /// It is down, or did not come up. What was in flight on it will not be answered.
    Disconnected { broker: BrokerId, reason: String },
    /// A batch is stored.
    Acked { request: RequestId, acked: Acked },
    /// A batch was refused.
    Refused { request: RequestId, kind: ErrorKind, message: String },
    /// A sentinel said who leads, by partition index; asked or not.
    Routes(Vec<Option<LeaderRef>>),
    /// No sentinel answered, or not usefully.
    RoutesFailed { reason: String },
    /// The topic does not exist (any more).
    TopicGone { message: String },
    /// A sentinel numbered this producer, anew or for the first time.
    Identity(Identity),
    /// No sentinel did.
    IdentityFailed { reason: String },
    /// Time has passed. To come every few tens of milliseconds while [`Core::is_idle`](super::Core::is_idle) is false.
    Tick,
}

/// What to do about it.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Open the stream to this broker; answered by `Connected` or `Disconnected`.
    Connect(BrokerId),
    /// Put a batch on a stream that is up; answered by `Acked`, `Refused` or the stream's `Disconnected`.
    Send(Send),
    /// Tell the application.
    Complete(BatchId, Result<Acked, SendError>),
    /// Give up the stream to this broker, which counts as broken from now on; no event of it is to follow.
    Disconnect(BrokerId),
    /// Ask for routes; answered by `Routes`, `RoutesFailed` or `TopicGone`.
    Refresh { unreachable: Vec<BrokerId> },
    /// Ask for a producer id, or for the next epoch of this one; answered by `Identity` or `IdentityFailed`.
    Identify(Option<Identity>),
}

/// One batch for one stream.
#[derive(Debug, PartialEq)]
pub(crate) struct Send {
    pub(crate) request: RequestId,
    pub(crate) broker: BrokerId,
    pub(crate) partition: PartitionIndex,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) batch: BatchId,
    /// Absent without idempotence.
    pub(crate) sequence: Option<(Identity, u32)>,
}

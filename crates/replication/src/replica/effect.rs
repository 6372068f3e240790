//! What a replica orders its shell to do, and why it refuses.

use goulette_types::{BrokerId, LeaderEpoch, Offset};

#[cfg(doc)]
use crate::Replica;
use crate::{
    controller::Proposal,
    leader::FreshRead,
    message::{Refused, Stream, ToFollower, ToLeader},
};

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this to a follower, on that stream if it still stands.
    ToFollower {
        /// The follower.
        broker: BrokerId,
        /// What to say.
        message: ToFollower,
    },
    /// Say this to the leader, on that stream if it still stands.
    ToLeader {
        /// The leader.
        leader: BrokerId,
        /// What to say.
        message: ToLeader,
    },
    /// From now on send the follower every durable batch from `from` on, on this stream, until it breaks or this replica
    /// leads no longer. What the log has below `committed` is sent with the newest `committed`.
    Feed {
        /// The follower.
        broker: BrokerId,
        /// The stream.
        stream: Stream,
        /// The first offset to send.
        from: Offset,
    },
    /// See to it that there is a stream to this broker, and call [`Replica::stream_opened`] with it (again, after each
    /// reconnect, while [`Replica::follows`] names the broker).
    Follow {
        /// The leader.
        leader: BrokerId,
    },
    /// Cut the log to `to`, then call [`Replica::truncated`] once that is durable; no append may overtake it. With
    /// `restart` nothing is kept, and the log starts at `to`.
    Truncate {
        /// The new end.
        to: Offset,
        /// Whether the log is to start there, empty.
        restart: bool,
    },
    /// `committed` has risen: tell consumers, waiters and (as leader) followers.
    Committed(Offset),
    /// This replica leads from now on.
    Leads(LeaderEpoch),
    /// This replica leads no longer: waiters end as unknown.
    Resigned(LeaderEpoch),
    /// Hand this to the leader sentinel. Its answer is the state that results, if any; there is nothing to do about
    /// refusals and timeouts.
    Propose(Proposal),
    /// Fresh reads below this one may be answered.
    Fresh {
        /// The first that may not.
        below: FreshRead,
    },
    /// The stream's handshake must begin anew: call [`Replica::stream_opened`] after a pause.
    Refused {
        /// The stream.
        stream: Stream,
        /// Why.
        why: Refused,
    },
    /// This replica does nothing more until a newer leader epoch; a person has to look.
    Stopped(StopReason),
    /// The store doubts its ISR and lacks this replica's report, or does not know what this replica has seen: register
    /// anew, with what [`Replica::report`] says.
    ReportWanted,
    /// The metadata names an epoch that this log has already seen: it is late, or has gone back.
    Stale {
        /// The epoch in the metadata.
        given: LeaderEpoch,
        /// The highest that this replica has seen.
        seen: LeaderEpoch,
    },
}

/// Why a replica does nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StopReason {
    /// The leader's log and this one part below what is committed here, and no unclean election explains it.
    #[error("the leader's log parts at {cut}, below what is committed here up to {committed}")]
    BelowCommitted {
        /// Where they part.
        cut: Offset,
        /// What is committed here.
        committed: Offset,
    },
    /// This replica counts as in sync, but lacks what is committed: its disk has lost data and takes a new storage id.
    #[error("this disk has lost what was committed")]
    LostData,
}

/// Why a batch from the leader is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// It was sent in another epoch.
    #[error("the batch was sent in leader epoch {given}, not in {current}")]
    OtherEpoch {
        /// The batch's.
        given: LeaderEpoch,
        /// This replica's.
        current: LeaderEpoch,
    },
    /// There is no handshake on that stream, or this replica does not follow.
    #[error("no handshake on this stream")]
    NotFollowing,
    /// It does not continue the log, or its epoch is older than the last one.
    #[error("the batch starts at {given}, the log ends at {expected}")]
    Gap {
        /// The log's end.
        expected: Offset,
        /// The batch's base.
        given: Offset,
    },
}

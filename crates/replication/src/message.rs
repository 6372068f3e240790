//! What leader and follower of one partition say to each other.

use goulette_types::{Incarnation, LeaderEpoch, Offset};

use crate::state::{LogEnd, Member};

/// One connection between two brokers, as both ends number it. No two streams between two processes share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub u64);

/// A batch as far as replication cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchFacts {
    /// Its first offset.
    pub base: Offset,
    /// Behind its last offset.
    pub end: Offset,
    /// The epoch in which it was first written.
    pub epoch: LeaderEpoch,
}

/// The leader's answer to a follower that told its last (epoch, end): KIP-101 and KIP-279.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// The highest epoch of the leader's log at or below the one asked, and its end; `None` if it keeps none.
    pub shared: Option<LogEnd>,
    /// The leader's first kept offset: a follower that has less starts there, empty.
    pub start: Offset,
    /// The leader's durable end.
    pub end: Offset,
}

/// Follower to leader, always with the leader epoch that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromFollower {
    /// Begins a handshake, or goes on with one: where the follower's log stands, or (KIP-279) stood at an older epoch.
    Hello {
        /// The follower with its disk.
        member: Member,
        /// Its start.
        incarnation: Incarnation,
        /// Its last epoch at or below the one that the leader named, and its end there.
        last: LogEnd,
    },
    /// The cut is durable; ends count from now on.
    Confirm {
        /// The follower's durable end.
        end: Offset,
    },
    /// All below is on the follower's stable storage. Sent on every rise, and at least every second.
    Durable {
        /// The follower's durable end.
        end: Offset,
    },
    /// The answer to [`FromLeader::Ping`].
    Pong {
        /// The round asked about.
        round: u64,
    },
}

/// Leader to follower, always with the leader epoch. Batches travel beside these, see [`BatchFacts`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromLeader {
    /// The answer to a [`FromFollower::Hello`].
    Cut(Cut),
    /// All below is committed.
    Committed(Offset),
    /// Asks whether the follower still follows in this epoch, for a read that must be fresh.
    Ping {
        /// The round.
        round: u64,
    },
    /// The last message was refused.
    Refused(Refused),
}

/// Why a leader does not take a follower's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// The message was meant for another epoch than that in which the partition is led here, if it is.
    #[error("the message is meant for leader epoch {given}, not for {current:?}")]
    OtherEpoch {
        /// The message's.
        given: LeaderEpoch,
        /// The leader's; none if it does not lead.
        current: Option<LeaderEpoch>,
    },
    /// The broker is no replica of the partition.
    #[error("not a replica of this partition")]
    NotReplica,
    /// No handshake on this stream in this epoch: begin with one.
    #[error("no handshake on this stream in this epoch")]
    NoHandshake,
    /// The follower claims what the leader does not hold.
    #[error("an end of {given} lies behind the leader's end {end}")]
    BeyondEnd {
        /// The follower's.
        given: Offset,
        /// The leader's durable end.
        end: Offset,
    },
    /// The follower's end went back without a handshake.
    #[error("the end went back from {before} to {given}")]
    WentBack {
        /// The follower's.
        given: Offset,
        /// What it said before.
        before: Offset,
    },
    /// The follower counts as in sync but lacks what is committed: its disk has lost data, it must take a new storage id.
    #[error("an in-sync replica that ends at {given} has lost what is committed up to {committed}")]
    LostData {
        /// The follower's.
        given: Offset,
        /// The leader's committed end.
        committed: Offset,
    },
}

/// A message on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToLeader {
    /// The stream that it belongs to.
    pub stream: Stream,
    /// The epoch that it is meant for.
    pub leader_epoch: LeaderEpoch,
    /// What it says.
    pub body: FromFollower,
}

/// A message on its way to a follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToFollower {
    /// The stream that it belongs to.
    pub stream: Stream,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// What it says.
    pub body: FromLeader,
}

//! The agreement among members, as the server needs it: one log that all apply in the same order.
//!
//! [`Consensus`] is the door that requests take; behind it stands raft (`crate::raft`). What is agreed comes back through
//! [`StateMachine`], on every member in the same order. The two meet only here, so that neither knows the other.
//!
//! The way of a write: a service hands a request to `Node::request`, which numbers it, remembers
//! who waits for that number, and calls [`Consensus::propose`]. When the entry is committed, every member's
//! [`StateMachine::apply`] carries it out; on the member where somebody waits for the number, the waiter gets the
//! response. So a follower's client is answered from the follower's own state: it reads its own writes.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;

/// A member's id, as etcd computes it; never 0.
pub type MemberId = u64;

/// A place in the log of what was agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The term of the leader that proposed the entry there.
    pub term: u64,
    /// The entry's number; the first is 1, 0 is before all.
    pub index: u64,
}

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term that this member has seen.
    pub term: u64,
    /// Who leads in it; `None` while nobody is known to.
    pub leader: Option<MemberId>,
}

/// What a member knows of the agreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsensusStatus {
    /// Who leads, in which term.
    pub leadership: Leadership,
    /// The index up to which entries are agreed.
    pub committed: u64,
    /// Up to where they are applied here.
    pub applied: u64,
    /// Whether this member only learns and has no vote.
    pub is_learner: bool,
}

/// Why a proposal did not reach the log. Only [`ProposeError::Unknown`] may still be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody leads: not proposed.
    #[error("no leader")]
    NoLeader,
    /// This member stops: not proposed.
    #[error("server stopped")]
    Stopped,
    /// It was sent to a leader that was lost since: it may be carried out or not.
    #[error("the leader was lost before it answered")]
    Unknown,
}

/// Why freshness could not be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads.
    #[error("no leader")]
    NoLeader,
    /// Leadership changed while it was asked.
    #[error("leader changed")]
    LeaderChanged,
    /// No quorum answered in time.
    #[error("no quorum answered in time")]
    Timeout,
    /// This member stops.
    #[error("server stopped")]
    Stopped,
}

/// A change of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a member with a vote, or without (`is_learner`).
    Add(MemberRaft),
    /// Removes a member.
    Remove(MemberId),
    /// Gives a learner a vote.
    Promote(MemberId),
    /// Changes where a member's peers find it.
    Update(MemberRaft),
}

/// What the agreement knows of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRaft {
    /// Its id.
    pub id: MemberId,
    /// The URLs of its peer port.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// Why a change of members or of the leader was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The request is refused with one of etcd's errors.
    #[error(transparent)]
    Refused(#[from] crate::EtcdError),
    /// It was proposed and not carried out in time: it may still be.
    #[error("the change was not carried out in time")]
    Unknown,
}

/// Agreement with the other members. Every call ends within the request timeout.
#[tonic::async_trait]
pub trait Consensus: Send + Sync {
    /// Hands an encoded `InternalRaftRequest` to the leader's log, from any member. Returns when the leader has taken it
    /// (committed or not): its result arrives through [`StateMachine::apply`].
    async fn propose(&self, request: Bytes) -> Result<(), ProposeError>;

    /// Returns when this member has applied everything that was committed when the call began: what is read then is
    /// linearizable. Calls that wait at the same time share one round.
    async fn read_index(&self) -> Result<(), ReadError>;

    /// What this member knows now; cheap.
    fn status(&self) -> ConsensusStatus;

    /// Follows who leads. Leaving a leadership is told before another member's leadership is.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Changes the members; returns when the change is committed and applied here.
    async fn change_members(&self, change: MemberChange) -> Result<(), ChangeError>;

    /// Gives the leadership, which this member must hold, to another one.
    async fn transfer_leader(&self, to: MemberId) -> Result<(), ChangeError>;

    /// A connection to the peer port of a member, for requests that only the leader can answer (leases).
    fn peer(&self, member: MemberId) -> Option<tonic::transport::Channel>;

    /// The highest index that a member is known to hold, and whether it was heard of lately; on the leader only.
    fn progress(&self, member: MemberId) -> Option<MemberProgress>;

    /// How long this member has had a connection to another one without a break; none if it has none now.
    fn connected_for(&self, member: MemberId) -> Option<Duration>;

    /// Stops taking part; returns when nothing more will be applied.
    async fn shutdown(&self);
}

/// How far a member is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// The highest index that it holds durably.
    pub matched: u64,
    /// Whether it has answered within the last election timeout.
    pub is_active: bool,
}

/// One agreed entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its place.
    pub position: LogPosition,
    /// What it orders.
    pub payload: Payload,
}

/// What an entry orders.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// An encoded `InternalRaftRequest`.
    Request(Bytes),
    /// The members from here on. Those that are absent and were present count as removed for good.
    Members {
        /// The configuration in the words of the consensus, kept for it unread.
        configuration: Bytes,
        /// All members.
        members: Vec<MemberRaft>,
    },
}

/// What the agreed entries change: the store, as the consensus sees it.
///
/// All calls block (they touch the disk), and come from one thread at a time except [`StateMachine::snapshot`] and the
/// getters. An error is final: the member must stop, and what it acknowledged is in the log.
pub trait StateMachine: Send + Sync {
    /// The last entry that was applied. After a crash this may be earlier than before it: the log from
    /// [`StateMachine::durable`] on must be there to be applied again.
    fn applied(&self) -> LogPosition;

    /// The last applied entry that survives a crash: the log before it may go.
    fn durable(&self) -> LogPosition;

    /// The configuration of the last [`Payload::Members`] with its position; `None` before the first.
    fn configuration(&self) -> Option<(LogPosition, Bytes)>;

    /// Carries out entries in order and wakes those who wait for their results. Entries at or before
    /// [`StateMachine::applied`] are a mistake of the caller. The effects of all of them and the new position become
    /// visible at once, and durable together, now or later.
    fn apply(&self, entries: Vec<Committed>) -> io::Result<()>;

    /// Makes everything applied durable.
    fn sync(&self) -> io::Result<LogPosition>;

    /// A view of the state as of now, to be sent to a member that lags too far behind.
    fn snapshot(&self) -> io::Result<Box<dyn StateSnapshot>>;

    /// Replaces the state by one that [`StateSnapshot::write`] wrote, atomically and durably. Watchers and leases
    /// continue from it.
    fn install(&self, from: &mut dyn Read) -> io::Result<LogPosition>;
}

/// A frozen view of the state.
pub trait StateSnapshot: Send {
    /// The last entry in it.
    fn position(&self) -> LogPosition;

    /// As [`StateMachine::configuration`] in it.
    fn configuration(&self) -> Option<(LogPosition, Bytes)>;

    /// Writes it out, with checksums.
    fn write(&self, to: &mut dyn Write) -> io::Result<()>;
}

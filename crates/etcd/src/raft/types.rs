//! What openraft is told of our world, and its shapes on the wire and in the log.
//!
//! An index on the wire, in the log and in openraft counts from 0; etcd's, which clients see, from 1.

use std::{collections::BTreeSet, fmt};

use crate::consensus::{LogPosition, MemberRaft};
use bytes::Bytes;
use goulette_proto::raft as pb;
use openraft::{EntryPayload, impls::leader_id_std, vote::RaftLeaderId};

openraft::declare_raft_types!(
    /// The types of our consensus: opaque commands, members as etcd knows them, a term that is a plain number.
    pub(crate) TypeConfig:
        D = Command,
        R = (),
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>,
        AsyncRuntime = openraft::impls::TokioRuntime,
);

type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, EntryPayload<Command, u64, Member>>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Member>;

/// A command of the state machine, opaque here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.0.len())
    }
}

/// What raft knows of a member beside its id and whether it votes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where the other members reach it.
    pub(crate) peer_urls: Vec<String>,
    /// It was added as a voter, and becomes one as soon as it has caught up. To clients it is one already.
    pub(crate) joining: bool,
}

/// Bytes that should be a message of ours and are not.
#[derive(Debug, thiserror::Error)]
#[error("malformed raft message: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, voted_for: 0 }.to_committed(), index }
}

pub(crate) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id_from_pb(id: &pb::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn vote_from_pb(vote: Option<&pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("no vote"))?;
    let leader_id = LeaderId { term: vote.term, voted_for: vote.node };
    Ok(Vote { leader_id, committed: vote.committed })
}

pub(crate) fn member_to_pb(id: u64, member: &Member) -> pb::Member {
    pb::Member { id, peer_urls: member.peer_urls.clone(), joining: member.joining }
}

pub(crate) fn member_from_pb(member: pb::Member) -> (u64, Member) {
    let pb::Member { id, peer_urls, joining } = member;
    (id, Member { peer_urls, joining })
}

pub(crate) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let voters = membership.get_joint_config().iter();
    pb::Membership {
        voters: voters.map(|ids| pb::Voters { ids: ids.iter().copied().collect() }).collect(),
        members: membership.nodes().map(|(id, member)| member_to_pb(*id, member)).collect(),
    }
}

pub(crate) fn membership_from_pb(membership: pb::Membership) -> Result<Membership, Malformed> {
    let voters: Vec<BTreeSet<u64>> =
        membership.voters.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let members: std::collections::BTreeMap<_, _> = membership.members.into_iter().map(member_from_pb).collect();
    if voters.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, members).map_err(|_| Malformed("a voter that is no member"))
}

pub(crate) fn entry_to_pb(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(command) => Some(pb::entry::Payload::Command(command.0.clone())),
        EntryPayload::Membership(membership) => Some(pb::entry::Payload::Membership(membership_to_pb(membership))),
    };
    pb::Entry { id: Some(log_id_to_pb(&entry.log_id)), payload }
}

pub(crate) fn entry_from_pb(entry: pb::Entry) -> Result<Entry, Malformed> {
    let log_id = log_id_from_pb(&entry.id.ok_or(Malformed("an entry without an id"))?);
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Command(command)) => EntryPayload::Normal(Command(command)),
        Some(pb::entry::Payload::Membership(membership)) => EntryPayload::Membership(membership_from_pb(membership)?),
    };
    Ok(Entry { log_id, payload })
}

/// An id in the log as clients and the state machine see it: there the first index is 1.
pub(crate) fn position(id: &LogId) -> LogPosition {
    LogPosition { term: id.leader_id.term, index: id.index + 1 }
}

/// The id in the log of a position; none before the first entry.
pub(crate) fn at_position(position: LogPosition) -> Option<LogId> {
    position.index.checked_sub(1).map(|index| log_id(position.term, index))
}

/// The members as the state machine is told of them.
pub(crate) fn members_of(membership: &Membership) -> Vec<MemberRaft> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(&id, member): (&u64, &Member)| MemberRaft {
        id,
        peer_urls: member.peer_urls.clone(),
        is_learner: !voters.contains(&id) && !member.joining,
    };
    membership.nodes().map(member).collect()
}

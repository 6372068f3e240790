//! The running raft of one member, and what a leader does with it for itself and for others.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    ChangeMembers, Instant as _, LogIdOptionExt, ReadPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, LinearizableReadError, RaftError},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, ConnectError, Status};

use super::{
    machine::Machine,
    types::{Command, Member, StoredMembership, TypeConfig},
};
use crate::{
    EtcdError,
    consensus::{MemberChange, MemberId},
};

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// A change of members that another one is in the way of is tried again this often.
const CHANGE_RETRY: Duration = Duration::from_millis(20);
/// A learner has caught up when it holds this share of the leader's log, as in etcd.
const CAUGHT_UP_PERCENT: u64 = 90;

/// Why a leader did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not the leader (any more): nothing was done.
    NotLeader,
    /// May be done or not.
    Unknown,
    /// Refused with one of etcd's errors.
    Etcd(EtcdError),
}

const NOT_LEADER: &str = "not the leader";
const UNKNOWN: &str = "outcome unknown";

impl Refusal {
    pub(crate) fn to_status(self) -> Status {
        match self {
            Refusal::NotLeader => Status::aborted(NOT_LEADER),
            Refusal::Unknown => Status::unknown(UNKNOWN),
            Refusal::Etcd(error) => error.into(),
        }
    }

    /// What the leader said, or what its silence means.
    pub(crate) fn from_status(status: &Status) -> Self {
        let never_sent = std::iter::successors(status.source(), |&cause| cause.source())
            .any(|cause| cause.downcast_ref::<ConnectError>().is_some());
        match status.code() {
            Code::Aborted => Refusal::NotLeader,
            // A process that has died is no leader.
            _ if never_sent => Refusal::NotLeader,
            code => {
                let known =
                    EtcdError::ALL.iter().find(|error| error.code() == code && error.to_string() == status.message());
                known.map_or(Refusal::Unknown, |error| Refusal::Etcd(*error))
            }
        }
    }
}

pub(crate) struct Core {
    pub(crate) raft: Raft,
    pub(crate) cluster: u64,
    pub(crate) own: MemberId,
    pub(crate) election_timeout: Duration,
    /// How long a request may take.
    pub(crate) request_timeout: Duration,
    /// Members that were here and left, as far as this process saw.
    removed: Mutex<BTreeSet<MemberId>>,
    /// Which leader this member has heard of last, and when.
    heard: Mutex<Option<(MemberId, Instant)>>,
}

impl Core {
    pub(crate) fn new(raft: Raft, cluster: u64, own: MemberId, election_timeout: Duration) -> Self {
        let request_timeout = Duration::from_secs(5) + 2 * election_timeout;
        Self {
            raft,
            cluster,
            own,
            election_timeout,
            request_timeout,
            removed: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The members as of the last entry that says so, committed or not.
    pub(crate) fn membership(&self) -> Arc<StoredMembership> {
        self.raft.server_metrics().borrow_watched().membership_config.clone()
    }

    pub(crate) fn note_removed(&self, id: MemberId) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    pub(crate) fn was_removed(&self, id: MemberId) -> bool {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Entries, or a sign of life, came from a leader that this member follows.
    pub(crate) fn heard_leader(&self, leader: MemberId) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some((leader, Instant::now()));
    }

    /// Who leads, unless nothing has confirmed it for two election timeouts: openraft itself never stops believing in a
    /// leader before it has found another one.
    pub(crate) fn leader(&self, metrics: &Metrics) -> Option<MemberId> {
        let leader = metrics.current_leader?;
        let patience = 2 * self.election_timeout;
        let is_confirmed = if leader == self.own {
            let is_alone = metrics.membership_config.membership().voter_ids().all(|voter| voter == self.own);
            is_alone || metrics.last_quorum_acked.is_none_or(|acked| acked.elapsed() < patience)
        } else {
            let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.is_some_and(|(from, at)| from == leader && at.elapsed() < patience)
        };
        is_confirmed.then_some(leader)
    }

    /// As leader: appends a command, and returns when it is applied here.
    pub(crate) async fn append(&self, command: Bytes) -> Result<(), Refusal> {
        let written = timeout(self.request_timeout, self.raft.client_write(Command(command))).await;
        match written {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(Refusal::NotLeader),
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(Refusal::Unknown),
            Ok(Err(RaftError::Fatal(_))) => Err(Refusal::Etcd(EtcdError::Stopped)),
        }
    }

    /// As leader: the index (as clients count) that a linearizable read has to see, once a quorum has confirmed that
    /// this member still leads.
    pub(crate) async fn confirm_leadership(&self) -> Result<u64, Refusal> {
        let confirmed = timeout(self.election_timeout, self.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
        match confirmed {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index() + 1),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => Err(Refusal::NotLeader),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => Err(Refusal::Unknown),
            Ok(Err(RaftError::Fatal(_))) => Err(Refusal::Etcd(EtcdError::Stopped)),
        }
    }

    /// As leader: carries out a change of members; the index (as clients count) at which it stands.
    pub(crate) async fn change_members(&self, change: MemberChange) -> Result<u64, Refusal> {
        let deadline = Instant::now() + self.request_timeout;
        loop {
            let planned = self.plan(&change)?;
            let changed = timeout_at(deadline, self.raft.change_membership(planned, false)).await;
            match changed {
                Ok(Ok(done)) => return Ok(done.log_id.index + 1),
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => return Err(Refusal::NotLeader),
                Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                )))) if Instant::now() + CHANGE_RETRY < deadline => sleep(CHANGE_RETRY).await,
                Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::LearnerNotFound(_),
                )))) => return Err(Refusal::Etcd(EtcdError::MemberNotFound)),
                Ok(Err(RaftError::APIError(_))) | Err(_) => return Err(Refusal::Unknown),
                Ok(Err(RaftError::Fatal(_))) => return Err(Refusal::Etcd(EtcdError::Stopped)),
            }
        }
    }

    /// Whether the members agreed on are as the change wants them.
    pub(crate) fn is_done(&self, change: &MemberChange) -> bool {
        let metrics = self.metrics();
        let membership = metrics.committed_membership_config.membership();
        match change {
            _ if membership.get_joint_config().len() > 1 => false,
            MemberChange::Add(member) => membership.get_node(&member.id).is_some(),
            MemberChange::Remove(id) => membership.get_node(id).is_none(),
            MemberChange::Promote(id) => membership.voter_ids().any(|voter| voter == *id),
            MemberChange::Update(member) => {
                membership.get_node(&member.id).is_some_and(|known| known.peer_urls == member.peer_urls)
            }
        }
    }

    /// What openraft has to do for a change, in the membership as it is now.
    fn plan(&self, change: &MemberChange) -> Result<ChangeMembers<u64, Member>, Refusal> {
        let stored = self.membership();
        let membership = stored.membership();
        let is_voter = |id: &MemberId| membership.voter_ids().any(|voter| voter == *id);
        let found = |id: &MemberId| membership.get_node(id).ok_or(Refusal::Etcd(EtcdError::MemberNotFound));
        Ok(match change {
            MemberChange::Add(member) if membership.get_node(&member.id).is_some() => {
                return Err(Refusal::Etcd(EtcdError::MemberExist));
            }
            MemberChange::Add(member) => {
                // A voter comes in as a learner, and gets its vote when it has caught up: the quorum never rises by a
                // member that may not even be started.
                let node = Member { peer_urls: member.peer_urls.clone(), joining: !member.is_learner };
                ChangeMembers::AddNodes(BTreeMap::from([(member.id, node)]))
            }
            MemberChange::Remove(id) => {
                found(id)?;
                let gone = BTreeSet::from([*id]);
                if is_voter(id) { ChangeMembers::RemoveVoters(gone) } else { ChangeMembers::RemoveNodes(gone) }
            }
            MemberChange::Promote(id) => {
                let member = found(id)?;
                if is_voter(id) || member.joining {
                    return Err(Refusal::Etcd(EtcdError::MemberNotLearner));
                }
                if !self.has_caught_up(*id) {
                    return Err(Refusal::Etcd(EtcdError::LearnerNotReady));
                }
                ChangeMembers::AddVoterIds(BTreeSet::from([*id]))
            }
            MemberChange::Update(member) => {
                let joining = found(&member.id)?.joining;
                let node = Member { peer_urls: member.peer_urls.clone(), joining };
                ChangeMembers::SetNodes(BTreeMap::from([(member.id, node)]))
            }
        })
    }

    /// As leader: whether the member holds nearly all that this one does.
    pub(crate) fn has_caught_up(&self, id: MemberId) -> bool {
        let metrics = self.metrics();
        let matched = metrics.replication.as_ref().and_then(|replication| replication.get(&id).cloned().flatten());
        let last = metrics.last_log_index.map_or(0, |last| last + 1);
        matched.is_some() && matched.next_index() * 100 >= last * CAUGHT_UP_PERCENT
    }

    /// As leader: gives their votes to the voters that were added and have caught up since.
    pub(crate) async fn admit(&self) {
        let stored = self.membership();
        let membership = stored.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        for (&id, member) in membership.nodes() {
            if member.joining && !voters.contains(&id) && self.has_caught_up(id) {
                let admitted = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                // Refused while another change is under way: the next round tries again.
                let _ = timeout(self.request_timeout, self.raft.change_membership(admitted, false)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_proposed_may_be_proposed_again() {
        for refusal in [Refusal::NotLeader, Refusal::Unknown, Refusal::Etcd(EtcdError::Stopped)] {
            assert_eq!(Refusal::from_status(&refusal.to_status()), refusal);
        }
        let refused = Status::from_error(Box::new(ConnectError("connection refused".into())));
        assert_eq!(Refusal::from_status(&refused), Refusal::NotLeader);
        assert_eq!(Refusal::from_status(&Status::unavailable("broken pipe")), Refusal::Unknown);
    }
}

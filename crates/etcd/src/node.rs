//! One member, as its services see it: requests go to the consensus, results come back from the state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use goulette_logging::{error, warn};
use goulette_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, InternalRaftRequest, PutRequest, RequestHeader, RequestOp, ResponseHeader, TxnRequest,
    alarm_request::AlarmAction, request_op::Request,
};
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;

use crate::{
    EtcdError,
    auth::Caller,
    config::Config,
    consensus::{Consensus, Leadership, MemberId, ProposeError, ReadError},
    state::{Response, State},
    store::Failure,
};

/// Entries that may be agreed and not yet applied before requests are refused.
const BACKLOG_MAX: u64 = 5_000;
/// The bound of the store if none is set.
pub(crate) const QUOTA_DEFAULT: i64 = 2 << 30;
/// What a written key costs beside its bytes, as etcd counts.
const COST_KEY: i64 = 256;
/// What a lease costs, as etcd counts.
const COST_LEASE: i64 = 64;

/// A member.
pub struct Node {
    pub(crate) config: Config,
    pub(crate) state: Arc<State>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: MemberId,
    next_request: AtomicU64,
    /// Leaders that this member has seen come, for those who count.
    pub(crate) leader_changes: AtomicU64,
}

impl Node {
    pub(crate) fn new(
        config: Config,
        state: Arc<State>,
        consensus: Arc<dyn Consensus>,
        cluster_id: u64,
        member_id: MemberId,
    ) -> Self {
        // As in etcd: member, milliseconds, count. So no number is used twice, not even across restarts.
        let milliseconds = state.env.clock.wall_ms() as u64 & 0xff_ffff_ffff;
        let next_request = AtomicU64::new(member_id << 48 | milliseconds << 8);
        Self { config, state, consensus, cluster_id, member_id, next_request, leader_changes: AtomicU64::new(0) }
    }

    /// The header of an answer, with the store's current revision unless one is given.
    pub(crate) fn header(&self, given: Option<ResponseHeader>) -> Option<ResponseHeader> {
        let revision = given.map_or(0, |header| header.revision);
        let revision = if revision == 0 { self.state.store.revision() } else { revision };
        Some(self.header_at(revision))
    }

    /// The header of an answer of exactly this revision.
    pub(crate) fn header_at(&self, revision: i64) -> ResponseHeader {
        let raft_term = self.leadership().term;
        ResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id, revision, raft_term }
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leadership(&self) -> Leadership {
        self.consensus.status().leadership
    }

    /// Whether this member leads.
    pub(crate) fn leads(&self) -> bool {
        self.leadership().leader == Some(self.member_id)
    }

    /// A number that no other request of the cluster has; never 0.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed).max(1)
    }

    /// The monotonic time of leases and logins.
    pub(crate) fn now(&self) -> Duration {
        self.state.env.clock.now()
    }

    /// Who asks; nobody while nobody must say. Waits until this member knows the token.
    ///
    /// # Errors
    /// [`EtcdError::InvalidAuthToken`].
    pub(crate) async fn asker(&self, metadata: &MetadataMap) -> Result<Caller, EtcdError> {
        if !self.state.auth.state().is_enabled() {
            return Ok(Caller::default());
        }
        let token = metadata.get("token").or_else(|| metadata.get("authorization"));
        let Some(token) = token.and_then(|token| token.to_str().ok()) else { return Ok(Caller::default()) };
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        if let Some(index) = self.state.auth.index_of(token) {
            self.wait_applied(index).await?;
        }
        self.state.auth.caller(self.now(), self.state.env.clock.wall_ms(), token)
    }

    /// Waits until the entry at `index` is applied here; at once if it is not agreed yet.
    async fn wait_applied(&self, index: u64) -> Result<(), EtcdError> {
        if index > self.consensus.status().committed {
            return Ok(());
        }
        let deadline = Instant::now() + self.config.request_timeout();
        match timeout_at(deadline, self.state.wait_applied(index)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(EtcdError::TimeoutWaitAppliedIndex),
        }
    }

    /// Returns when this member has applied what was agreed when the call began.
    ///
    /// # Errors
    /// [`EtcdError::Timeout`] without a quorum, [`EtcdError::LeaderChanged`], [`EtcdError::Stopped`].
    pub(crate) async fn read_barrier(&self) -> Result<(), EtcdError> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            match timeout_at(deadline, self.consensus.read_index()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(ReadError::NoLeader)) => self.wait_leader(deadline).await?,
                Ok(Err(ReadError::LeaderChanged)) => return Err(EtcdError::LeaderChanged),
                Ok(Err(ReadError::Stopped)) => return Err(EtcdError::Stopped),
                Ok(Err(ReadError::Timeout)) | Err(_) => return Err(EtcdError::Timeout),
            }
        }
    }

    /// Waits until somebody leads.
    pub(crate) async fn wait_leader(&self, deadline: Instant) -> Result<(), EtcdError> {
        let mut leadership = self.consensus.leadership();
        let leads = async { leadership.wait_for(|leadership| leadership.leader.is_some()).await.is_ok() };
        match timeout_at(deadline, leads).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(EtcdError::Stopped),
            Err(_) => Err(EtcdError::Timeout),
        }
    }

    /// Returns when there was no leader for three election timeouts; never if nobody wants to know.
    pub(crate) async fn leader_lost(&self, is_wanted: bool) {
        if !is_wanted {
            return std::future::pending().await;
        }
        let mut leadership = self.consensus.leadership();
        loop {
            if leadership.wait_for(|leadership| leadership.leader.is_none()).await.is_err() {
                return;
            }
            let grace = 3 * self.config.election_timeout;
            let back = async { leadership.wait_for(|leadership| leadership.leader.is_some()).await.is_ok() };
            if tokio::time::timeout(grace, back).await != Ok(true) {
                return;
            }
        }
    }

    /// Has a request agreed and carried out; answers what it came to here.
    ///
    /// # Errors
    /// What the request is refused with; [`EtcdError::Timeout`] and [`EtcdError::TimeoutDueToLeaderFail`] leave open
    /// whether it is carried out.
    pub(crate) async fn request(
        &self,
        asker: &Caller,
        mut request: InternalRaftRequest,
    ) -> Result<Response, EtcdError> {
        let status = self.consensus.status();
        if status.committed > self.state.applied_index() + BACKLOG_MAX {
            return Err(EtcdError::TooManyRequests);
        }
        let id = self.next_id();
        request.header = Some(RequestHeader { id, username: asker.user.clone(), auth_revision: asker.revision });
        let bytes = request.encode_to_vec();
        if bytes.len() > self.config.max_request_bytes {
            return Err(EtcdError::RequestTooLarge);
        }
        let bytes = Bytes::from(bytes);
        let deadline = Instant::now() + self.config.request_timeout();
        let mut waiting = self.state.waiters.wait(id);
        let proposed = async {
            loop {
                let term = self.leadership().term;
                match self.consensus.propose(bytes.clone()).await {
                    // What was not proposed can be tried again; what may have been is only waited for.
                    Err(ProposeError::NoLeader) => self.wait_leader(deadline).await?,
                    Err(ProposeError::Stopped) => return Err(EtcdError::Stopped),
                    Err(ProposeError::Unknown) => return Err(self.lost_with_its_leader(term).await),
                    Ok(()) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            applied = timeout_at(deadline, waiting.result()) => match applied {
                Ok(Some(applied)) => applied,
                Ok(None) => Err(EtcdError::Stopped),
                Err(_) => Err(EtcdError::Timeout),
            },
            refused = proposed => refused,
        }
    }

    /// Returns when a leader of a later term has been found, and all that it had agreed by then is applied here: what was
    /// proposed in `term` and has not come by then was most likely lost with its leader.
    async fn lost_with_its_leader(&self, term: u64) -> EtcdError {
        let mut leadership = self.consensus.leadership();
        let is_later = |leadership: &Leadership| leadership.leader.is_some() && leadership.term > term;
        if leadership.wait_for(is_later).await.is_err() {
            return EtcdError::Stopped;
        }
        match self.read_barrier().await {
            Ok(()) => EtcdError::TimeoutDueToLeaderFail,
            Err(error) => error,
        }
    }

    /// Refuses what would take the store beyond its quota, and raises the alarm that keeps it so.
    pub(crate) async fn check_quota(&self, cost: i64) -> Result<(), EtcdError> {
        let quota = match self.config.quota_backend_bytes {
            0 => QUOTA_DEFAULT,
            quota => quota,
        };
        let total = i64::try_from(self.state.store.size().total).unwrap_or(i64::MAX);
        if cost == 0 || quota < 0 || total.saturating_add(cost) < quota {
            return Ok(());
        }
        warn!("the store has {total} bytes of {quota} allowed: it takes no more writes until space is freed");
        let alarm = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: self.member_id,
            alarm: AlarmType::Nospace as i32,
        };
        // Whether or not it is raised, this request is refused.
        let request = InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() };
        let _ = self.request(&Caller::default(), request).await;
        Err(EtcdError::NoSpace)
    }
}

/// What a write costs, as etcd counts.
pub(crate) fn cost_of_put(put: &PutRequest) -> i64 {
    COST_KEY + put.key.len() as i64 + put.value.len() as i64
}

/// What a transaction may cost at most.
pub(crate) fn cost_of_txn(txn: &TxnRequest) -> i64 {
    let cost = |ops: &[RequestOp]| -> i64 {
        let of = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(put)) => cost_of_put(put),
            Some(Request::RequestTxn(nested)) => cost_of_txn(nested),
            _ => 0,
        };
        ops.iter().map(of).sum()
    };
    cost(&txn.success).max(cost(&txn.failure))
}

/// What a lease costs.
pub(crate) const fn cost_of_lease() -> i64 {
    COST_LEASE
}

impl From<Failure> for EtcdError {
    /// A lost store is a stopped server: whoever asks goes elsewhere.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refused) => refused,
            Failure::Fatal(lost) => {
                error!("{lost}");
                EtcdError::Stopped
            }
        }
    }
}

//! One member's raft, started, and the door that the server takes to it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use goulette_env::Env;
use goulette_logging::warn;
use goulette_proto::raft as pb;
use openraft::{Instant as _, LogIdOptionExt};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::transport::Channel;

use super::{
    core::{Core, Raft, Refusal},
    log::LogStore,
    machine::Machine,
    network::Network,
    peers::{MESSAGE_BYTES_MAX, Peers, Use},
    read_index,
    service::{PeerService, change_to_pb},
    start::{Bootstrap, RaftOptions, RaftStartError, begin, config_of, open_log},
    watching::{self, ROUND},
};
use crate::{
    EtcdError,
    consensus::{
        ChangeError, Consensus, ConsensusStatus, Leadership, MemberChange, MemberId, MemberProgress, MemberRaft,
        ProposeError, ReadError, StateMachine,
    },
};

/// How long a follower's disk may take before the same entries are sent again.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stop waits for raft to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a member ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RaftEnd {
    /// It was removed from the cluster.
    Removed,
    /// Log or state failed; nothing more is acknowledged.
    Failed(String),
}

/// A member's raft. Dropping it without [`Consensus::shutdown`] is safe, as any end is.
pub struct RaftNode {
    core: Arc<Core>,
    peers: Arc<Peers>,
    env: Env,
    dir: PathBuf,
    log: LogStore,
    leadership: watch::Receiver<Leadership>,
    applied: watch::Receiver<u64>,
    end: watch::Receiver<Option<RaftEnd>>,
    readers: mpsc::Sender<oneshot::Sender<read_index::Round>>,
    tasks: Mutex<JoinSet<()>>,
}

impl RaftNode {
    /// Opens log and state, and begins to take part. The peer port must be served
    /// ([`peer_service`](Self::peer_service)) by the time other members are to find this one.
    ///
    /// # Errors
    /// See [`RaftStartError`].
    pub async fn start(
        env: Env,
        options: RaftOptions,
        state: Arc<dyn StateMachine>,
    ) -> Result<Arc<Self>, RaftStartError> {
        let config = config_of(&options)?;
        let RaftOptions { dir, cluster, member: own, bootstrap, election_timeout, tls, .. } = options;
        let log = open_log(&env, &dir, own).await?;
        let pristine = log.is_pristine() && state.applied().index == 0;

        let peers = Peers::new(cluster, own, election_timeout, tls);
        let machine = Machine::new(env.clone(), state, log.durable());
        let applied = machine.applied();
        let network = Network { peers: peers.clone(), append_timeout: APPEND_TIMEOUT };
        let raft = Raft::new(own, Arc::new(config), network, log.clone(), machine).await;
        let raft = raft.map_err(|error| RaftStartError::State(error.to_string()))?;
        if let (true, Bootstrap::New(members)) = (pristine, &bootstrap) {
            begin(&raft, members).await?;
        }
        let core = Arc::new(Core::new(raft, cluster, own, election_timeout));
        let voters: Vec<MemberId> = core.membership().membership().voter_ids().collect();
        if voters == [own] {
            // There is nobody to wait for.
            core.raft.trigger().elect(false).await.map_err(|error| RaftStartError::State(error.to_string()))?;
        }

        let (to_leadership, leadership) = watch::channel(watching::leadership_of(&core));
        let (to_end, end) = watch::channel(None);
        let (readers, waiting) = mpsc::channel(read_index::WAITING_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(watching::watch_raft(core.clone(), peers.clone(), to_leadership, to_end.clone()));
        tasks.spawn(read_index::run(core.clone(), peers.clone(), leadership.clone(), waiting));
        tasks.spawn(watching::admit_voters(core.clone(), leadership.clone()));
        tasks.spawn(watching::ask_members(core.clone(), peers.clone(), leadership.clone(), to_end));
        let tasks = Mutex::new(tasks);
        Ok(Arc::new(Self { core, peers, env, dir, log, leadership, applied, end, readers, tasks }))
    }

    /// The service that other members call, for the server on the peer port.
    pub fn peer_service(&self) -> pb::raft_server::RaftServer<PeerService> {
        let service = PeerService::new(self.core.clone(), self.env.clone(), self.dir.clone());
        pb::raft_server::RaftServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Becomes something when this member has ended by itself.
    pub fn ended(&self) -> watch::Receiver<Option<RaftEnd>> {
        self.end.clone()
    }

    /// The log's facts for metrics.
    pub fn log_stats(&self) -> goulette_wal::WalStats {
        self.log.stats()
    }

    /// The first index (as clients count) that the log still holds.
    pub fn log_start(&self) -> u64 {
        self.log.start() + 1
    }

    /// The members as of the last entry that says so.
    pub fn members(&self) -> Vec<MemberRaft> {
        super::types::members_of(self.core.membership().membership())
    }

    /// Whether a change of members is under way: until it is done, both the old and the new ones have to agree.
    pub fn is_changing_members(&self) -> bool {
        let metrics = self.core.metrics();
        metrics.membership_config.get_joint_config().len() > 1
            || metrics.membership_config != metrics.committed_membership_config
    }

    /// Waits until somebody leads; none at the deadline.
    async fn wait_for_leader(&self, deadline: Instant) -> Option<MemberId> {
        let mut leadership = self.leadership.clone();
        let led = timeout_at(deadline, leadership.wait_for(|leadership| leadership.leader.is_some())).await;
        led.ok()?.ok()?.leader
    }

    /// Waits until `leader` does not lead any more.
    async fn leader_lost(&self, leader: MemberId) {
        let mut leadership = self.leadership.clone();
        // The other side of the channel ends with this member.
        let _ = leadership.wait_for(|leadership| leadership.leader != Some(leader)).await;
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        let mut applied = self.applied.clone();
        matches!(timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await, Ok(Ok(_)))
    }

    /// Waits until the members agreed on are as the change wants them, for one whose answer was lost with its leader.
    async fn wait_done(&self, change: &MemberChange, deadline: Instant) -> bool {
        while !self.core.is_done(change) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(ROUND).await;
        }
        true
    }

    /// Takes a change of members to another member, which leads.
    async fn ask_for_change(
        &self,
        leader: MemberId,
        request: pb::ChangeMembersRequest,
        deadline: Instant,
    ) -> Result<u64, Refusal> {
        let Some(mut client) = self.peers.client(leader, Use::Control) else { return Err(Refusal::NotLeader) };
        tokio::select! {
            answer = timeout_at(deadline, client.change_members(request)) => match answer {
                Ok(Ok(answer)) => Ok(answer.into_inner().index),
                Ok(Err(status)) => Err(Refusal::from_status(&status)),
                Err(_) => Err(Refusal::Unknown),
            },
            () = self.leader_lost(leader) => Err(Refusal::Unknown),
        }
    }

    /// Takes one proposal to whoever leads now.
    async fn propose_to(&self, leader: MemberId, request: Bytes, deadline: Instant) -> Result<(), Refusal> {
        if leader == self.core.own {
            return self.core.append(request).await;
        }
        let Some(mut client) = self.peers.client(leader, Use::Control) else { return Err(Refusal::NotLeader) };
        let proposing = timeout_at(deadline, client.propose(pb::ProposeRequest { command: request }));
        tokio::select! {
            answer = proposing => match answer {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(status)) => Err(match Refusal::from_status(&status) {
                    // It is the one that stops; this member goes on.
                    Refusal::Etcd(_) => Refusal::Unknown,
                    refusal => refusal,
                }),
                Err(_) => Err(Refusal::Unknown),
            },
            () = self.leader_lost(leader) => Err(Refusal::Unknown),
        }
    }
}

#[tonic::async_trait]
impl Consensus for RaftNode {
    async fn propose(&self, request: Bytes) -> Result<(), ProposeError> {
        let deadline = Instant::now() + self.core.request_timeout;
        loop {
            if self.end.borrow().is_some() {
                return Err(ProposeError::Stopped);
            }
            let leader = self.wait_for_leader(deadline).await.ok_or(ProposeError::NoLeader)?;
            match self.propose_to(leader, request.clone(), deadline).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Unknown) => return Err(ProposeError::Unknown),
                Err(Refusal::Etcd(_)) => return Err(ProposeError::Stopped),
                // It said that it did nothing: soon it, or we, will know who leads.
                Err(Refusal::NotLeader) => {
                    let _ = timeout(ROUND, self.leader_lost(leader)).await;
                }
            }
        }
    }

    async fn read_index(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + self.core.request_timeout;
        loop {
            if self.end.borrow().is_some() {
                return Err(ReadError::Stopped);
            }
            let Some(leader) = self.wait_for_leader(deadline).await else { return Err(ReadError::NoLeader) };
            let (reader, round) = oneshot::channel();
            if self.readers.send(reader).await.is_err() {
                return Err(ReadError::Stopped);
            }
            match timeout_at(deadline, round).await {
                Ok(Ok(Ok(index))) => {
                    return if self.wait_applied(index, deadline).await { Ok(()) } else { Err(ReadError::Timeout) };
                }
                Ok(Ok(Err(_))) if Instant::now() < deadline => {
                    let _ = timeout(ROUND, self.leader_lost(leader)).await;
                }
                Ok(Ok(Err(_))) | Err(_) => return Err(ReadError::Timeout),
                Ok(Err(_)) => return Err(ReadError::Stopped),
            }
        }
    }

    fn status(&self) -> ConsensusStatus {
        let metrics = self.core.metrics();
        let stored = self.core.membership();
        let is_voter = stored.membership().voter_ids().any(|voter| voter == self.core.own);
        ConsensusStatus {
            leadership: *self.leadership.borrow(),
            committed: metrics.local_committed.next_index(),
            applied: *self.applied.borrow(),
            is_learner: !is_voter,
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn change_members(&self, change: MemberChange) -> Result<(), ChangeError> {
        let deadline = Instant::now() + self.core.request_timeout;
        loop {
            let Some(leader) = self.wait_for_leader(deadline).await else {
                return Err(ChangeError::Refused(EtcdError::Timeout));
            };
            let changed = if leader == self.core.own {
                self.core.change_members(change.clone()).await
            } else {
                let request = pb::ChangeMembersRequest { change: Some(change_to_pb(&change)) };
                self.ask_for_change(leader, request, deadline).await
            };
            match changed {
                // A member that removed itself learns no more.
                Ok(_) if change == MemberChange::Remove(self.core.own) => return Ok(()),
                Ok(index) if self.wait_applied(index, deadline).await => return Ok(()),
                Err(Refusal::Unknown) if self.wait_done(&change, deadline).await => return Ok(()),
                Ok(_) | Err(Refusal::Unknown) => return Err(ChangeError::Unknown),
                Err(Refusal::Etcd(error)) => return Err(ChangeError::Refused(error)),
                Err(Refusal::NotLeader) => {
                    let _ = timeout(ROUND, self.leader_lost(leader)).await;
                }
            }
        }
    }

    async fn transfer_leader(&self, to: MemberId) -> Result<(), ChangeError> {
        if self.leadership.borrow().leader != Some(self.core.own) {
            return Err(ChangeError::Refused(EtcdError::NotLeader));
        }
        let stored = self.core.membership();
        if !stored.membership().voter_ids().any(|voter| voter == to) {
            return Err(ChangeError::Refused(EtcdError::BadLeaderTransferee));
        }
        if to == self.core.own {
            return Ok(());
        }
        let asked = self.core.raft.trigger().transfer_leader(to).await;
        asked.map_err(|_| ChangeError::Refused(EtcdError::Stopped))?;
        let mut leadership = self.leadership.clone();
        let led = leadership.wait_for(|leadership| leadership.leader == Some(to));
        match timeout(self.core.request_timeout, led).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ChangeError::Unknown),
        }
    }

    fn peer(&self, member: MemberId) -> Option<Channel> {
        self.peers.channel(member, Use::Control)
    }

    fn progress(&self, member: MemberId) -> Option<MemberProgress> {
        let metrics = self.core.metrics();
        if member == self.core.own {
            let matched = metrics.last_log_index.map_or(0, |last| last + 1);
            return metrics.replication.is_some().then_some(MemberProgress { matched, is_active: true });
        }
        let matched = metrics.replication.as_ref()?.get(&member)?.next_index();
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&member).cloned().flatten());
        let is_active = heard.is_some_and(|heard| heard.elapsed() < self.core.election_timeout);
        Some(MemberProgress { matched, is_active })
    }

    fn connected_for(&self, member: MemberId) -> Option<Duration> {
        self.peers.connected_for(member)
    }

    async fn shutdown(&self) {
        if timeout(STOP_DEADLINE, self.core.raft.shutdown()).await.is_err() {
            warn!("raft did not stop in {STOP_DEADLINE:?}");
        }
        self.tasks.lock().await.shutdown().await;
    }
}

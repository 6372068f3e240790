//! One member's raft, started, and the door that the server takes to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use goulette_env::Env;
use goulette_logging::{info, warn};
use goulette_proto::raft as pb;
use openraft::{
    Config, Instant as _, LogIdOptionExt, SnapshotPolicy, StepDownPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{InitializeError, RaftError},
};
use prost::Message;
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::transport::Channel;

use super::{
    core::{Core, Raft, Refusal},
    log::{LogError, LogStore},
    machine::Machine,
    network::Network,
    peers::{MESSAGE_BYTES_MAX, Peers, Use},
    read_index,
    service::{PeerService, change_to_pb, remove_leftovers},
    types::{Member, Membership},
};
use crate::{
    EtcdError,
    consensus::{
        ChangeError, Consensus, ConsensusStatus, Leadership, MemberChange, MemberId, MemberProgress, MemberRaft,
        ProposeError, ReadError, StateMachine,
    },
};

/// A whole state is sent in this time, or not at all.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a follower's disk may take before the same entries are sent again.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a leader looks whether a new voter has caught up.
const ROUND: Duration = Duration::from_millis(100);
/// How often the other members are asked whether they are there, and how soon again those who were not.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
const ASK_SOON: Duration = Duration::from_millis(50);
/// How long a stop waits for raft to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What can be set; plain data.
#[derive(Clone)]
pub struct RaftOptions {
    /// The folder of the log.
    pub dir: PathBuf,
    /// The cluster's id.
    pub cluster: u64,
    /// This member's id.
    pub member: MemberId,
    /// What is done if the folder is empty.
    pub bootstrap: Bootstrap,
    /// How often the leader shows that it lives; 100 ms by default.
    pub heartbeat: Duration,
    /// How long a leader may be silent before another one is elected; 1 s by default. At least five heartbeats.
    pub election_timeout: Duration,
    /// Entries after which the log is cut; 10,000 by default.
    pub snapshot_count: u64,
    /// Entries that are kept behind a cut, for members that are a little behind; 5,000 by default.
    pub catch_up_entries: u64,
    /// For connections to members whose URLs are encrypted.
    pub tls: Option<tokio_rustls::TlsConnector>,
}

/// How a member with an empty folder begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// It begins a cluster together with these members, itself among them. All of them are given the same list.
    New(Vec<MemberRaft>),
    /// A running cluster has added it, and will call.
    Join,
}

/// Why a member's raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// The options contradict each other.
    #[error("raft options: {0}")]
    Options(String),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The folder could not be prepared.
    #[error("cannot prepare {}", dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The log and the state do not fit together, or the state cannot be read.
    #[error("cannot start raft: {0}")]
    State(String),
}

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

        let (to_leadership, leadership) = watch::channel(leadership_of(&core));
        let (to_end, end) = watch::channel(None);
        let (readers, waiting) = mpsc::channel(read_index::WAITING_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_raft(core.clone(), peers.clone(), to_leadership, to_end.clone()));
        tasks.spawn(read_index::run(core.clone(), peers.clone(), leadership.clone(), waiting));
        tasks.spawn(admit_voters(core.clone(), leadership.clone()));
        tasks.spawn(ask_members(core.clone(), peers.clone(), leadership.clone(), to_end));
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

fn config_of(options: &RaftOptions) -> Result<Config, RaftStartError> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let (heartbeat, election) = (millis(options.heartbeat), millis(options.election_timeout));
    if heartbeat == 0 || election < 5 * heartbeat {
        return Err(RaftStartError::Options(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        )));
    }
    let config = Config {
        cluster_name: format!("{:x}", options.cluster),
        heartbeat_interval: heartbeat,
        // openraft waits for the lease (the maximum) and then for a random time between the two: together one and a half
        // to two election timeouts, as etcd's one to two.
        election_timeout_min: election / 2,
        election_timeout_max: election,
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        max_payload_entries: 1024,
        replication_lag_threshold: options.snapshot_count.max(options.catch_up_entries),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_count.max(1)),
        max_in_snapshot_log_to_keep: options.catch_up_entries,
        purge_batch_size: (options.snapshot_count / 4).clamp(1, 256),
        // Long enough to answer whoever asked for its removal.
        removed_leader_step_down: StepDownPolicy::After(election),
        broadcast_submitted_on_append: Some(true),
        enable_pre_vote: Some(true),
        backoff: "50ms 100ms 200ms ...500ms".into(),
        ..Config::default()
    };
    config.validate().map_err(|error| RaftStartError::Options(error.to_string()))
}

async fn open_log(env: &Env, dir: &Path, own: MemberId) -> Result<LogStore, RaftStartError> {
    let (env, dir) = (env.clone(), dir.to_owned());
    let opening = tokio::task::spawn_blocking(move || {
        let prepare = |dir: &Path| {
            env.disk.create_dir_all(dir)?;
            remove_leftovers(&env, dir)
        };
        prepare(&dir).map_err(|source| RaftStartError::Io { dir: dir.clone(), source })?;
        Ok(LogStore::open(&env, &dir.join("wal"), own)?)
    });
    opening.await.map_err(|error| RaftStartError::State(error.to_string()))?
}

/// The configuration in which all these members vote, in the words of the log: for a store that begins a cluster with a
/// state in it, applied up to index 1 of term 0.
pub fn initial_configuration(members: &[MemberRaft]) -> Bytes {
    let voters = vec![pb::Voters { ids: members.iter().map(|member| member.id).collect() }];
    let member =
        |member: &MemberRaft| pb::Member { id: member.id, peer_urls: member.peer_urls.clone(), joining: false };
    pb::Membership { voters, members: members.iter().map(member).collect() }.encode_to_vec().into()
}

/// Begins a cluster: every one of its first members writes the same first entry.
async fn begin(raft: &Raft, members: &[MemberRaft]) -> Result<(), RaftStartError> {
    let member = |member: &MemberRaft| (member.id, Member { peer_urls: member.peer_urls.clone(), joining: false });
    let members: BTreeMap<MemberId, Member> = members.iter().map(member).collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Another first member was faster, and has asked for our vote or sent us the entry.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(RaftStartError::State(error.to_string())),
    }
}

fn leadership_of(core: &Core) -> Leadership {
    let metrics = core.metrics();
    Leadership { term: metrics.current_term, leader: core.leader(&metrics) }
}

/// Tells of every change of leaders, keeps the addresses of the members, and notices the end.
async fn watch_raft(
    core: Arc<Core>,
    peers: Arc<Peers>,
    leadership: watch::Sender<Leadership>,
    end: watch::Sender<Option<RaftEnd>>,
) {
    let mut metrics = core.raft.metrics();
    let mut members: Option<Membership> = None;
    loop {
        let now = metrics.borrow_watched().clone();
        let leads = Leadership { term: now.current_term, leader: core.leader(&now) };
        leadership.send_if_modified(|known| {
            let changed = *known != leads;
            if changed && known.leader != leads.leader {
                info!(
                    "raft term {}: {}",
                    leads.term,
                    leads.leader.map_or("no leader".into(), |id| format!("led by {id:x}"))
                );
            }
            *known = leads;
            changed
        });
        let effective = now.membership_config.membership();
        peers.update(effective);
        let committed = now.committed_membership_config.membership();
        if members.as_ref() != Some(committed) {
            if let Some(before) = &members {
                let left = before.nodes().filter(|(id, _)| committed.get_node(id).is_none());
                left.for_each(|(id, _)| core.note_removed(*id));
            }
            members = Some(committed.clone());
        }
        if let Err(fatal) = &now.running_state {
            end.send_if_modified(|end| {
                let first = end.is_none();
                end.get_or_insert_with(|| RaftEnd::Failed(fatal.to_string()));
                first
            });
            return;
        }
        if core.was_removed(core.own) {
            end.send_replace(Some(RaftEnd::Removed));
        }
        // A leader is also lost by nothing happening.
        if let Ok(Err(_)) = timeout(ROUND, metrics.changed()).await {
            return;
        }
    }
}

/// As leader: admits new voters.
async fn admit_voters(core: Arc<Core>, leadership: watch::Receiver<Leadership>) {
    loop {
        sleep(ROUND).await;
        if leadership.borrow().leader == Some(core.own) {
            core.admit().await;
        }
    }
}

/// Asks every other member, again and again, whether it is there, and whether this one was removed: who is removed is
/// sent nothing any more, not even that.
async fn ask_members(
    core: Arc<Core>,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    end: watch::Sender<Option<RaftEnd>>,
) {
    let mut pause = ASK_SOON;
    loop {
        let stored = core.membership();
        let others = stored.membership().nodes().map(|(&id, _)| id).filter(|id| *id != core.own);
        let answers = join_all(others.map(|id| ask_member(&core, &peers, id))).await;
        // A leader that is removed learns it from its own log, and steps down first.
        if answers.contains(&Answer::Removed) && leadership.borrow().leader != Some(core.own) {
            end.send_replace(Some(RaftEnd::Removed));
            return;
        }
        // Who does not answer may just be starting.
        if answers.contains(&Answer::None) {
            sleep(pause).await;
            pause = (2 * pause).min(ASK_INTERVAL);
        } else {
            sleep(ASK_INTERVAL).await;
            pause = ASK_SOON;
        }
    }
}

/// What a member says to being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing.
    None,
    /// It is there.
    Here,
    /// It is there, and this member is not one any more.
    Removed,
}

async fn ask_member(core: &Core, peers: &Peers, id: MemberId) -> Answer {
    let Some(mut client) = peers.client(id, Use::Control) else { return Answer::None };
    let asked = timeout(core.election_timeout, client.members(pb::MembersRequest { member: core.own })).await;
    let answer = match asked {
        Ok(Ok(answer)) if answer.get_ref().cluster == core.cluster => Ok(answer.into_inner().removed),
        Ok(Ok(answer)) => Err(format!("it belongs to cluster {:x}", answer.get_ref().cluster)),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("nothing came in {:?}", core.election_timeout)),
    };
    let known = match answer {
        Ok(true) => Answer::Removed,
        Ok(false) => Answer::Here,
        Err(_) => Answer::None,
    };
    peers.asked(id, answer.map(|_| ()));
    known
}

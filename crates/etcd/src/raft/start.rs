//! What a member's raft starts from: its options, the log's folder, and, where nothing is there yet, the first configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use goulette_env::Env;
use goulette_proto::raft as pb;
use openraft::{
    Config, SnapshotPolicy, StepDownPolicy,
    errors::{InitializeError, RaftError},
};
use prost::Message;

use super::{
    core::Raft,
    log::{LogError, LogStore},
    service::remove_leftovers,
    types::Member,
};
use crate::consensus::{MemberId, MemberRaft};

/// A whole state is sent in this time, or not at all.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

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

pub(super) fn config_of(options: &RaftOptions) -> Result<Config, RaftStartError> {
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

pub(super) async fn open_log(env: &Env, dir: &Path, own: MemberId) -> Result<LogStore, RaftStartError> {
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
pub(super) async fn begin(raft: &Raft, members: &[MemberRaft]) -> Result<(), RaftStartError> {
    let member = |member: &MemberRaft| (member.id, Member { peer_urls: member.peer_urls.clone(), joining: false });
    let members: BTreeMap<MemberId, Member> = members.iter().map(member).collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Another first member was faster, and has asked for our vote or sent us the entry.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(RaftStartError::State(error.to_string())),
    }
}

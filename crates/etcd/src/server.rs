//! A member as a whole: its folder, its consensus, its ports, and the tasks that go with leading.
//!
//! [`EtcdServer::start`] returns when the ports are open; [`EtcdServer::ready`] when the cluster has taken this member's
//! name and it serves. [`EtcdServer::stop`] ends everything in order. Folder: `<data-dir>/LOCK`, `member/store/` and
//! `member/raft/`.

mod authority;
mod duties;
mod identity;
mod limits;
mod listener;
mod restore;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, middleware::map_response};
use goulette_env::{DiskLock, Env};
use goulette_logging::{error, info, warn};
use goulette_proto::etcd::{
    etcdserverpb::{
        auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
        maintenance_server::MaintenanceServer, watch_server::WatchServer,
    },
    v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::{service::Routes, transport::Server};

use crate::{
    auth::{Jwt, JwtError, TokenKind},
    config::{AuthToken, Config, Url},
    consensus::{Consensus, StateMachine},
    http,
    node::Node,
    raft::{RaftEnd, RaftNode, RaftOptions, RaftStartError},
    service::{
        AuthService, ClusterService, ElectionService, KvService, LeaseService, LockService, MaintenanceService,
        PeerLeaseService, WatchService,
    },
    state::{State, StateOptions},
    store::StoreError,
    tls::{Certificates, TlsError},
};
use listener::{Incoming, incoming};

pub use restore::{MakeError, restore};

/// What etcd adds to the largest request for the largest message.
const OVERHEAD_BYTES: usize = 512 << 10;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Clients with many watchers cancel many streams at once; the library takes more than 20 for an attack.
const RESET_STREAMS_MAX: usize = 10_000;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open calls and streams may take to end when the server stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder cannot be used.
    #[error("cannot use {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// It is the folder of another program.
    #[error(
        "{} holds the data of an etcd, which is laid out differently: save a snapshot of it (etcdctl snapshot save) and \
         restore that (goulette etcd restore)",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be used.
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    /// A port cannot be opened.
    #[error("cannot listen on {url}")]
    Listen {
        /// Where.
        url: String,
        /// Why not.
        source: io::Error,
    },
    /// A port cannot be encrypted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tokens cannot be signed.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// The flags contradict each other, or the cluster.
    #[error("{0}")]
    Config(String),
}

/// A running member.
pub struct EtcdServer {
    node: Arc<Node>,
    raft: Arc<RaftNode>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    ready: watch::Receiver<bool>,
    _lock: Box<dyn DiskLock>,
}

impl EtcdServer {
    /// Starts a member.
    ///
    /// # Errors
    /// [`StartError`]; nothing then runs any more.
    pub async fn start(config: Config, env: Env) -> Result<Self, StartError> {
        let opening = (config.clone(), env.clone());
        let opened = tokio::task::spawn_blocking(move || open_state(&opening.0, opening.1)).await;
        let (lock, state) = opened.map_err(|error| StartError::Config(error.to_string()))??;
        for name in &config.ignored {
            info!("--{name} has no effect here");
        }
        let (client_tls, peer_tls) = load_certificates(&config, &env).await?;
        let peer_connector = peer_tls.connector()?;
        let peers = listen(&config.listen_peer_urls, &peer_tls).await?;
        let clients = listen(&config.listen_client_urls, &client_tls).await?;
        let http_clients = listen(&config.listen_client_http_urls, &client_tls).await?;
        let watchers = listen(&config.listen_metrics_urls, &client_tls).await?;
        let identity = identity::find(&config, &state, &peer_connector).await?;
        let options = RaftOptions {
            dir: config.data_dir.join("member/raft"),
            cluster: identity.cluster,
            member: identity.member,
            bootstrap: identity.bootstrap,
            heartbeat: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            snapshot_count: config.snapshot_count,
            catch_up_entries: config.snapshot_catchup_entries,
            tls: Some(peer_connector),
        };
        let machine: Arc<dyn StateMachine> = Arc::clone(&state) as Arc<dyn StateMachine>;
        let raft = RaftNode::start(env, options, machine).await?;
        let consensus: Arc<dyn Consensus> = Arc::clone(&raft) as Arc<dyn Consensus>;
        let node = Arc::new(Node::new(config, state, consensus, identity.cluster, identity.member));

        let (stop, stopping) = watch::channel(false);
        let (to_ready, ready) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for incoming in peers {
            tasks.spawn(serve_peers(Arc::clone(&node), Arc::clone(&raft), incoming, stopping.clone()));
        }
        for incoming in clients {
            tasks.spawn(serve_clients(Arc::clone(&node), Arc::clone(&raft), incoming, stopping.clone()));
        }
        for incoming in http_clients {
            tasks.spawn(serve_http(http::routes(&node, &raft), incoming, stopping.clone()));
        }
        for incoming in watchers {
            tasks.spawn(serve_http(http::health_and_metrics(&node, &raft), incoming, stopping.clone()));
        }
        tasks.spawn(duties::lead(Arc::clone(&node), stopping.clone()));
        tasks.spawn(duties::end_leases(Arc::clone(&node), stopping.clone()));
        tasks.spawn(duties::compact(Arc::clone(&node), stopping.clone()));
        tasks.spawn(duties::publish(Arc::clone(&node), to_ready, stopping));
        Ok(Self { node, raft, stop, tasks, ready, _lock: lock })
    }

    /// The member, for whoever runs in the same process.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Returns when the cluster knows this member's name; false if it ends before.
    pub async fn ready(&self) -> bool {
        self.ready.clone().wait_for(|&ready| ready).await.is_ok()
    }

    /// Returns when the member has ended by itself, and why.
    pub async fn ended(&self) -> String {
        let mut ended = self.raft.ended();
        let end = ended.wait_for(Option::is_some).await.map(|end| (*end).clone());
        match end {
            Ok(Some(RaftEnd::Removed)) => "the member has been permanently removed from the cluster".to_owned(),
            Ok(Some(RaftEnd::Failed(why))) => why,
            Ok(None) | Err(_) => "raft has ended".to_owned(),
        }
    }

    /// Stops: hands the leadership over if another member is there, ends calls and streams, makes the store durable.
    pub async fn stop(mut self) {
        self.hand_over().await;
        let _ = self.stop.send(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
            // Watch streams end only when their clients let go.
            self.tasks.abort_all();
        }
        self.node.consensus.shutdown().await;
        let state = Arc::clone(&self.node.state);
        match tokio::task::spawn_blocking(move || state.sync()).await {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => error!("the store could not be synced: {failure}"),
            Err(failure) => error!("the store could not be synced: {failure}"),
        }
    }

    /// Gives the leadership to the member that is furthest, so that no election is needed.
    async fn hand_over(&self) {
        let node = &self.node;
        if !node.leads() {
            return;
        }
        let others =
            node.state.members.list().into_iter().filter(|other| other.id != node.member_id && !other.is_learner);
        let furthest = others
            .filter_map(|other| node.consensus.progress(other.id).map(|progress| (other.id, progress)))
            .filter(|(_, progress)| progress.is_active)
            .max_by_key(|(_, progress)| progress.matched);
        if let Some((to, _)) = furthest {
            let handing = node.consensus.transfer_leader(to);
            match tokio::time::timeout(node.config.election_timeout, handing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("the leadership could not be handed over: {error}"),
                Err(_) => warn!("the leadership could not be handed over in time"),
            }
        }
    }
}

fn open_state(config: &Config, env: Env) -> Result<(Box<dyn DiskLock>, Arc<State>), StartError> {
    let path = &config.data_dir;
    let unusable = |source| StartError::Folder { path: path.clone(), source };
    // To begin anew beside it would be to forget it.
    for theirs in ["member/snap/db", "member/wal"] {
        if env.disk.exists(&path.join(theirs)).map_err(unusable)? {
            return Err(StartError::Foreign { path: path.clone() });
        }
    }
    let folder = path.join("member/store");
    env.disk.create_dir_all(&folder).map_err(unusable)?;
    let lock = env.disk.lock(&path.join("LOCK")).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => StartError::Locked { path: path.clone() },
        _ => unusable(source),
    })?;
    let tokens = match &config.auth_token {
        AuthToken::Simple => TokenKind::Simple(config.auth_token_ttl),
        AuthToken::Jwt(options) => TokenKind::Jwt(Arc::new(Jwt::load(&*env.disk, options)?)),
    };
    let options = StateOptions { lease_ttl_min: config.lease_ttl_min(), tokens };
    Ok((lock, State::open(env, &folder, options)?))
}

async fn load_certificates(config: &Config, env: &Env) -> Result<(Certificates, Certificates), StartError> {
    let (config, disk) = (config.clone(), Arc::clone(&env.disk));
    let load = move || {
        let client = Certificates::load(&*disk, &config.client_tls, &config.listen_client_urls)?;
        let peer = Certificates::load(&*disk, &config.peer_tls, &config.listen_peer_urls)?;
        Ok::<_, TlsError>((client, peer))
    };
    let loaded = tokio::task::spawn_blocking(load).await.map_err(|error| StartError::Config(error.to_string()))?;
    Ok(loaded?)
}

async fn listen(urls: &[Url], certificates: &Certificates) -> Result<Vec<Incoming>, StartError> {
    let mut ports = Vec::new();
    for url in urls {
        let tls = if url.is_tls { Some(certificates.acceptor()?) } else { None };
        let listener = TcpListener::bind(url.address()).await;
        let listener = listener.map_err(|source| StartError::Listen { url: url.text.clone(), source })?;
        ports.push(incoming(listener, tls));
    }
    Ok(ports)
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stop| stop).await;
}

async fn serve_clients(node: Arc<Node>, raft: Arc<RaftNode>, incoming: Incoming, stopping: watch::Receiver<bool>) {
    let bytes_max = node.config.max_request_bytes + OVERHEAD_BYTES;
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let kv = KvServer::new(KvService { node: Arc::clone(&node) });
    let watches = WatchServer::new(WatchService { node: Arc::clone(&node) });
    let leases = LeaseServer::new(LeaseService { node: Arc::clone(&node) });
    let cluster = ClusterServer::new(ClusterService { node: Arc::clone(&node) });
    let maintenance = MaintenanceServer::new(MaintenanceService::new(Arc::clone(&node)));
    let auth = AuthServer::new(AuthService::new(Arc::clone(&node)));
    let locks = LockServer::new(LockService { node: Arc::clone(&node) });
    let elections = ElectionServer::new(ElectionService { node: Arc::clone(&node) });
    let http = if node.config.listen_client_http_urls.is_empty() { http::routes(&node, &raft) } else { Router::new() };
    let routes = Routes::from(http)
        .add_service(health_server)
        .add_service(kv.max_decoding_message_size(bytes_max))
        .add_service(watches.max_decoding_message_size(bytes_max))
        .add_service(leases.max_decoding_message_size(bytes_max))
        .add_service(cluster.max_decoding_message_size(bytes_max))
        .add_service(maintenance.max_decoding_message_size(bytes_max))
        .add_service(auth.max_decoding_message_size(bytes_max))
        .add_service(locks.max_decoding_message_size(bytes_max))
        .add_service(elections.max_decoding_message_size(bytes_max));
    let routes = Routes::from(routes.into_axum_router().layer(map_response(limits::as_etcd_says)));
    let server = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .max_concurrent_streams(node.config.max_concurrent_streams)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stopped(stopping));
    if let Err(error) = server.await {
        error!("the client port ended: {error}");
    }
}

/// Serves what is asked over HTTP alone.
async fn serve_http(routes: Router, incoming: Incoming, stopping: watch::Receiver<bool>) {
    let server = Server::builder().accept_http1(true).add_routes(Routes::from(routes));
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped(stopping)).await {
        error!("an HTTP port ended: {error}");
    }
}

async fn serve_peers(node: Arc<Node>, raft: Arc<RaftNode>, incoming: Incoming, stopping: watch::Receiver<bool>) {
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(raft.peer_service())
        .add_service(LeaseServer::new(PeerLeaseService { node: Arc::clone(&node) }))
        // A member that joins asks here which id it was given.
        .add_service(ClusterServer::new(ClusterService { node }))
        .serve_with_incoming_shutdown(incoming, stopped(stopping));
    if let Err(error) = server.await {
        error!("the peer port ended: {error}");
    }
}

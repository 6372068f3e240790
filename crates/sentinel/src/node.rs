//! A whole sentinel: opened, wired, served, stopped.

use std::{net::SocketAddr, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use goulette_env::Env;
use goulette_logging::{error, info, warn};
use goulette_meta::keys::SentinelRecord;
use goulette_proto::{
    FILE_DESCRIPTOR_SET,
    pb::{admin_server::AdminServer, cluster_server::ClusterServer, sentinel_server::SentinelServer},
};
use goulette_types::{ClusterId, Incarnation, Timestamp};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    Failure, SentinelOptions, StartError,
    backing::Backing,
    controller::{NewCluster, check_cluster},
    detector::Detector,
    election::Candidate,
    membership::Timing,
    metrics::Metrics,
    service::{Context, Counted, Leaders, SentinelService, admin::AdminService, cluster::ClusterService},
    state::State,
    watched::Watched,
};

/// How long a stop may take; what is not done then is cut off.
const STOP_DEADLINE: Duration = Duration::from_secs(8);
/// The largest message: a registration of 10,000 partitions has about 3 MB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Calls that one connection may have open.
const STREAMS_MAX: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server takes over one call at most; a controller's answer takes 20 s at most.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A running sentinel.
pub struct Sentinel {
    address: SocketAddr,
    cluster_id: ClusterId,
    state: Arc<State>,
    stopping: watch::Sender<bool>,
    resigning: watch::Sender<bool>,
    failure: watch::Receiver<Option<Failure>>,
    server: JoinHandle<()>,
    detector: JoinHandle<()>,
    candidate: Option<JoinHandle<()>>,
    controller: JoinHandle<()>,
    admin: Option<goulette_admin_http::AdminServer>,
}

impl Sentinel {
    /// Opens the store, loads the metadata, listens and serves. When it returns, clients can connect.
    ///
    /// # Errors
    /// [`StartError`]: a busy port, a folder in use or of another sentinel, metadata of a later version.
    pub async fn start(options: SentinelOptions, env: Env) -> Result<Self, StartError> {
        let mistakes = options.mistakes();
        if !mistakes.is_empty() {
            return Err(StartError::Options { mistakes });
        }
        let bind = |source| StartError::Bind { address: options.address, source };
        let listener = TcpListener::bind(options.address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        // Open early, to answer while the metadata is loaded; what it fails of is told last, as it matters least.
        let watched = Watched::open(&options).await;
        let opened = Backing::open(&options, &env).await?;
        let (watched, admin) = watched?;
        let me = SentinelRecord {
            id: options.id.clone(),
            address: options.advertise.clone().unwrap_or_else(|| address.to_string()),
            incarnation: Incarnation(env.random.next_id()),
            started_at: Timestamp(env.clock.wall_ms()),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let given = options.cluster_id;
        let new_cluster = NewCluster { id: given, replication_factor: options.default_replication_factor };
        let (controller, controller_handle, state) = opened.load(&env, &me, new_cluster).await?;
        let timing = Timing { session: options.session, heartbeat: options.heartbeat, tick: options.heartbeat / 4 };
        let (detector, detector_handle) =
            Detector::new(env.clone(), Arc::clone(&state), controller_handle.clone(), timing);
        let (stopping, stopped) = watch::channel(false);
        let context = Arc::new(Context {
            options: SentinelOptions { address, ..options },
            incarnation: me.incarnation,
            env: env.clone(),
            leaders: Leaders::default(),
            store: opened.store(),
            leases: opened.leases(),
            started_at_ms: me.started_at.0,
            state: Arc::clone(&state),
            controller: controller_handle,
            detector: detector_handle,
            stopping: stopped.clone(),
            streams: AtomicU64::new(1),
        });
        let metrics = Metrics::default();
        let (fail, failure) = watch::channel(None);
        let served = serve(listener, Arc::clone(&context), metrics.clone(), stopped.clone());
        // Others look whether this one answers as soon as it is registered, so it answers first.
        let server = tokio::spawn(report(fail.clone(), async move { served.await.err() }));
        let (resigning, resigned) = watch::channel(false);
        let candidate = opened.leases().map(|leases| {
            let candidate = Candidate::new(env.clone(), leases, Arc::clone(&state), me.clone());
            tokio::spawn(report(fail.clone(), candidate.run(resigned)))
        });
        let mut sentinel = Self {
            address,
            cluster_id: ClusterId(0),
            state,
            stopping,
            resigning,
            failure,
            server,
            detector: tokio::spawn(detector.run(stopped)),
            candidate,
            controller: tokio::spawn(report(fail, controller.run())),
            admin,
        };
        match sentinel.await_cluster(given).await {
            Ok(cluster_id) => sentinel.cluster_id = cluster_id,
            Err(error) => {
                sentinel.stop().await;
                return Err(error);
            }
        }
        watched.show(&context, &metrics, &env);
        info!("sentinel {} of cluster {} listens on {address}", me.id, sentinel.cluster_id);
        Ok(sentinel)
    }

    /// Waits until some sentinel has made the cluster, and checks that it is the one insisted on.
    async fn await_cluster(&self, given: Option<ClusterId>) -> Result<ClusterId, StartError> {
        let mut changes = self.state.changes();
        loop {
            changes.mark_unchanged();
            check_cluster(&self.state.catalog(), given)?;
            if let Some(cluster) = self.state.catalog().cluster() {
                return Ok(cluster.cluster_id);
            }
            tokio::select! {
                _ = changes.changed() => {}
                failure = self.failed() => return Err(StartError::Failed(failure)),
            }
        }
    }

    /// Whether it leads among the sentinels now.
    pub fn is_leader(&self) -> bool {
        self.state.leads()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin port, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(goulette_admin_http::AdminServer::address)
    }

    /// The cluster that it serves.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// Waits until it fails by itself: its metadata can no longer be written. Then it is to be stopped.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().expect("waited for"),
            // Nobody is left who could fail.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Stops in order: takes no new calls, finishes those that it has, closes the metadata. Within 10 s.
    pub async fn stop(self) {
        let deadline = Instant::now() + STOP_DEADLINE;
        self.stopping.send_replace(true);
        // The server first: while it answers calls, the controller has to work. Then others may lead.
        let mut tasks = vec![("server", self.server), ("detector", self.detector)];
        if let Some(candidate) = self.candidate {
            tasks.push(("candidate", candidate));
        }
        tasks.push(("controller", self.controller));
        for (name, mut task) in tasks {
            if name == "candidate" {
                self.resigning.send_replace(true);
            }
            if timeout_at(deadline, &mut task).await.is_err() {
                warn!("the {name} did not stop in time and is cut off");
                task.abort();
                let _ = timeout(Duration::from_secs(1), task).await;
            }
        }
        info!("sentinel stopped");
    }
}

/// Runs a task's work and tells if it failed.
async fn report(fail: watch::Sender<Option<Failure>>, work: impl Future<Output = Option<String>>) {
    if let Some(message) = work.await {
        fail.send_replace(Some(Failure { message }));
    }
}

async fn serve(
    listener: TcpListener,
    context: Arc<Context>,
    metrics: Metrics,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SentinelServer<SentinelService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are the compiler's own");
    let sentinel = SentinelServer::new(SentinelService(Arc::clone(&context)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let cluster = ClusterServer::new(ClusterService(Arc::clone(&context)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let served = Server::builder()
        .timeout(CALL_DEADLINE)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(Counted::new(sentinel, metrics.clone()))
        .add_service(Counted::new(cluster, metrics.clone()))
        .add_service(Counted::new(AdminServer::new(AdminService(context)), metrics))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            let _ = stopping.wait_for(|&stopping| stopping).await;
            health.set_not_serving::<SentinelServer<SentinelService>>().await;
        })
        .await;
    served.map_err(|failure| {
        let message = goulette_logging::Chain(&failure).to_string();
        error!("the server failed: {message}");
        message
    })
}

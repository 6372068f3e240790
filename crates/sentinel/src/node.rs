//! A whole sentinel: opened, wired, served, stopped.

use std::{net::SocketAddr, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use goulette_env::Env;
use goulette_logging::{error, info, warn};
use goulette_meta::LocalStore;
use goulette_mvcc::OpenError;
use goulette_proto::{
    FILE_DESCRIPTOR_SET,
    pb::{admin_server::AdminServer, sentinel_server::SentinelServer},
};
use goulette_types::ClusterId;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    Failure, SentinelOptions, StartError,
    controller::Controller,
    detector::Detector,
    identity,
    membership::Timing,
    metrics::Metrics,
    service::{Context, Counted, SentinelService, admin::AdminService},
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
    stopping: watch::Sender<bool>,
    failure: watch::Receiver<Option<Failure>>,
    server: JoinHandle<()>,
    detector: JoinHandle<()>,
    controller: JoinHandle<()>,
    admin: Option<goulette_admin_http::AdminServer>,
}

impl Sentinel {
    /// Opens the folder, loads the metadata, listens and serves. When it returns, clients can connect.
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
        let store = open(&options, &env).await?;
        let (watched, admin) = watched?;
        let (controller, controller_handle, state) =
            Controller::start(env.clone(), Arc::new(store), options.cluster_id, options.default_replication_factor)
                .await?;
        let cluster_id = state.catalog().cluster().expect("the controller has made it").cluster_id;
        let timing = Timing { session: options.session, heartbeat: options.heartbeat, tick: options.heartbeat / 4 };
        let (detector, detector_handle) =
            Detector::new(env.clone(), Arc::clone(&state), controller_handle.clone(), timing);
        let (stopping, stopped) = watch::channel(false);
        let id = options.id.clone();
        let context = Arc::new(Context {
            options: SentinelOptions { address, ..options },
            cluster_id,
            started_at_ms: env.clock.wall_ms(),
            state,
            controller: controller_handle,
            detector: detector_handle,
            stopping: stopped.clone(),
            streams: AtomicU64::new(1),
        });
        let metrics = Metrics::default();
        watched.show(&context, &metrics, &env);
        let (fail, failure) = watch::channel(None);
        let serve = serve(listener, context, metrics, stopped.clone());
        let sentinel = Self {
            address,
            cluster_id,
            stopping,
            failure,
            server: tokio::spawn(report(fail.clone(), async move { serve.await.err() })),
            detector: tokio::spawn(detector.run(stopped)),
            controller: tokio::spawn(report(fail, controller.run())),
            admin,
        };
        info!("sentinel {id} of cluster {cluster_id} listens on {address}");
        Ok(sentinel)
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
    pub async fn stop(mut self) {
        let deadline = Instant::now() + STOP_DEADLINE;
        self.stopping.send_replace(true);
        // The server first: while it answers calls, the controller has to work.
        for (name, task) in
            [("server", &mut self.server), ("detector", &mut self.detector), ("controller", &mut self.controller)]
        {
            if timeout_at(deadline, &mut *task).await.is_err() {
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

async fn open(options: &SentinelOptions, env: &Env) -> Result<LocalStore, StartError> {
    let (folder, id, disk) = (options.data_dir.clone(), options.id.clone(), Arc::clone(&env.disk));
    let opening = spawn_blocking(move || {
        identity::check(&*disk, &folder, &id)?;
        let store = LocalStore::open(&*disk, &folder).map_err(|error| match error {
            OpenError::Locked { folder } => StartError::FolderInUse { folder },
            other => StartError::Open(other),
        })?;
        // Under the store's lock, so that two starts do not both take the folder.
        identity::claim(&*disk, &folder, &id)?;
        Ok(store)
    });
    opening.await.expect("opening does not panic, and the runtime is running")
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

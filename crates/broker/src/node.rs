//! The broker as a whole: how its parts are wired, started and stopped.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use goulette_admin_http::AdminServer;
use goulette_env::{Env, VolumeKind};
use goulette_log::{
    FlushError, Identity, JoinError, Log, OpenError, QuarantinedRange, REMEMBERED_BATCHES, RecoveryReport,
    RetentionEvent, SpaceEvent,
};
use goulette_logging::{error, info, warn};
use goulette_replication::{Member, ReplicaOptions};
use goulette_types::{BrokerId, ClusterId, Incarnation, PartitionId};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    BrokerOptions, StartError, StopReason,
    budget::Budget,
    error::RequestError,
    groups::Groups,
    lifecycle::{Lifecycle, Phase},
    metrics::Metrics,
    partition::Partition,
    reads::DiskReads,
    registry::Registry,
    replication::{Hub, hand_over, propose, repair, tick},
    sentinel_link::{SentinelLink, endpoint},
    server,
    watched::Watched,
};

/// How long a stopping broker gives connections to send what is in their buffers, and to close.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a starting broker waits for a data directory that is in use, and how often it looks.
const IN_USE_PATIENCE: Duration = Duration::from_secs(5);
const IN_USE_RETRY: Duration = Duration::from_millis(20);

/// A running broker. [`stop`](Self::stop) it: dropped, it cuts everything off, as a crash would.
pub struct Broker {
    node: Arc<Node>,
    address: SocketAddr,
    server: JoinHandle<()>,
    link: JoinHandle<()>,
    background: [JoinHandle<()>; 3],
    admin: Option<AdminServer>,
}

/// What all parts of a broker share.
pub(crate) struct Node {
    options: BrokerOptions,
    address: String,
    pub(crate) env: Env,
    pub(crate) log: Log,
    pub(crate) incarnation: Incarnation,
    pub(crate) started_at_ms: u64,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) registry: Registry,
    pub(crate) hub: Arc<Hub>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) budget: Budget,
    pub(crate) metrics: Metrics,
    pub(crate) disk_reads: DiskReads,
    /// Places for streams and calls.
    pub(crate) calls: Arc<Semaphore>,
}

impl Broker {
    /// Recovers the data, listens, and registers at a sentinel.
    ///
    /// Returns once the first attempt to register is over. If no sentinel answered, the broker tries on by itself; until
    /// it is registered, its health is `NOT_SERVING` and requests are answered with `Unavailable`.
    ///
    /// # Errors
    /// Everything that a retry would not mend; then nothing is left running.
    pub async fn start(options: BrokerOptions, env: Env) -> Result<Broker, StartError> {
        if options.batches_in_flight as usize > REMEMBERED_BATCHES {
            return Err(StartError::BatchesInFlight { given: options.batches_in_flight });
        }
        let sentinels = sentinels(&options)?;
        // Open early, to answer while the data is recovered; what it fails of is told last, as it matters least.
        let watched = Watched::open(&options).await;
        let log = open_when_free(&options, &env).await?;
        let opened = listen(options.listen).await.and_then(|listening| Ok((listening, watched?)));
        let ((listener, address), (watched, admin)) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Nothing was written: whether it closes cleanly changes nothing.
                let _ = spawn_blocking(move || log.close()).await;
                return Err(error);
            }
        };
        let node = Arc::new(Node::new(options, env, log, address));
        node.hub.attach(&node);
        watched.show(&node);
        let failing: Weak<Node> = Arc::downgrade(&node);
        node.log.on_poison(Box::new(move |reason| {
            if let Some(node) = failing.upgrade() {
                node.fail(StopReason::Poisoned(reason.to_owned()));
            }
        }));
        let server = tokio::spawn(server::serve(Arc::clone(&node), listener));
        let (settled, first_attempt) = oneshot::channel();
        let link = SentinelLink::new(Arc::clone(&node), sentinels, settled);
        let background = [
            tokio::spawn(tick(Arc::clone(&node))),
            tokio::spawn(propose(Arc::clone(&node))),
            tokio::spawn(repair(Arc::clone(&node))),
        ];
        let damaged = Arc::clone(&node.hub);
        node.log.on_quarantine(Arc::new(move |range| {
            say_of_damage(range);
            damaged.note_damage();
        }));
        let broker = Broker { background, link: tokio::spawn(link.run()), node, address, server, admin };
        info!("broker {} listens on {address}", broker.node.options.id);

        // An error means that the link has ended, and the lifecycle says why.
        let _ = first_attempt.await;
        if let Phase::Failed(reason) = broker.node.lifecycle.phase() {
            let _ = broker.stop().await;
            return Err(StartError::Stopped(reason));
        }
        Ok(broker)
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin port, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::address)
    }

    /// Resolves if the broker has to stop by itself, with the reason. It has stopped serving then; what is left is to
    /// [`stop`](Self::stop) it and to exit.
    pub fn stopped(&self) -> impl Future<Output = StopReason> + Send + use<> {
        let mut phase = self.node.lifecycle.watch();
        async move {
            loop {
                if let Phase::Failed(reason) = &*phase.borrow_and_update() {
                    return reason.clone();
                }
                if phase.changed().await.is_err() {
                    // Stopped as it was told to: never by itself.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Stops: takes nothing more, finishes what was accepted, syncs and closes the log. What is not finished within the
    /// deadline of the options is cut off.
    ///
    /// # Errors
    /// If the log could not be closed cleanly. What was acknowledged is durable all the same.
    pub async fn stop(mut self) -> Result<(), FlushError> {
        let options = &self.node.options;
        if self.node.lifecycle.phase() == Phase::Serving {
            hand_over(&self.node).await;
        }
        let deadline = Instant::now() + options.stop_deadline;
        if self.node.lifecycle.stop() {
            info!("broker {} stops", options.id);
        }
        // Its own deadlines are short.
        let _ = (&mut self.link).await;
        let drained = async {
            tokio::select! {
                _ = &mut self.server => {}
                () = self.node.idle() => {}
            }
        };
        if timeout_at(deadline, drained).await.is_err() {
            warn!("cuts off what has not ended within {} s", options.stop_deadline.as_secs());
        }
        self.server.abort();
        let node = Arc::clone(&self.node);
        spawn_blocking(move || node.log.close()).await.expect("closing the log does not panic")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.node.lifecycle.stop();
        self.link.abort();
        self.server.abort();
        self.background.iter().for_each(JoinHandle::abort);
    }
}

/// Opens the data directory, if need be once nobody else has it: a broker that was killed keeps its lock until the
/// kernel has finished the syncs that it was waiting for, and who starts the next one at once is no offender.
async fn open_when_free(options: &BrokerOptions, env: &Env) -> Result<Log, OpenError> {
    let deadline = Instant::now() + IN_USE_PATIENCE;
    let mut told = false;
    loop {
        let opened = {
            let (options, env) = (options.clone(), env.clone());
            spawn_blocking(move || open(&options, &env)).await.expect("opening the log does not panic")
        };
        match opened {
            Err(OpenError::Locked { dir }) if Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    let patience = IN_USE_PATIENCE.as_secs();
                    warn!("{} is in use, perhaps by a broker that is ending: waits up to {patience} s", dir.display());
                }
                sleep(IN_USE_RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// Opens the data directory: whose it is, then what is in it. Blocks on the disk, as long as the recovery takes.
fn open(options: &BrokerOptions, env: &Env) -> Result<Log, OpenError> {
    Identity::open(env, &options.data_dir, &options.id)?;
    let began = env.clock.now();
    let (log, report) = Log::open(env.clone(), &options.data_dir, options.log.clone())?;
    let took_ms = env.clock.now().saturating_sub(began).as_millis() as u64;
    let RecoveryReport { entries, bytes, torn, lost, set_aside } = report;
    let partitions = log.partitions().len();
    info!(took_ms, partitions, entries, bytes, torn, "recovered {}", options.data_dir.display());
    if let Some(lost) = lost {
        warn!("acknowledged records may be lost here, and the directory has a new storage id: {lost}");
    }
    for path in set_aside {
        warn!("set aside what nothing refers to, nothing of it was deleted: {}", path.display());
    }
    warn_of_volume(env, options);
    log.on_retention(Arc::new(say));
    let broker = options.id.clone();
    log.on_quarantine(Arc::new(say_of_damage));
    log.on_space(Arc::new(move |event| say_of_space(&broker, event)));
    Ok(log)
}

/// Says so where the data lies on something that cannot keep what this broker promises.
fn warn_of_volume(env: &Env, options: &BrokerOptions) {
    let dir = options.data_dir.display();
    match env.disk.volume_kind(&options.data_dir) {
        Ok(VolumeKind::Memory) => warn!(
            "{dir} is on a file system in memory: a restart of the machine loses all of it, acknowledged or not; give a              -data on a disk"
        ),
        Ok(VolumeKind::Network) => warn!(
            "{dir} is on a network file system: whether what it says to have synced is durable, and whether it tells of              failed writes, is up to its server; give a -data on a disk of this machine"
        ),
        Ok(VolumeKind::Disk) | Err(_) => {}
    }
}

/// What retention did goes to the log file.
fn say(event: &RetentionEvent) {
    match event {
        RetentionEvent::Removed { partition, topic, fragments, bytes, start } => {
            info!(
                fragments,
                bytes, "{topic}/{} starts at offset {start} now: the oldest records went", partition.index
            );
        }
        RetentionEvent::Suspended { jump_ms } => warn!(
            "the wall clock jumped by {jump_ms} ms: nothing is removed by age until it has jumped back, or the broker is \
             started again"
        ),
        RetentionEvent::Resumed => info!("the wall clock is back: records are removed by age again"),
    }
}

/// The disk has lost something: somebody has to act.
fn say_of_damage(range: &QuarantinedRange) {
    let QuarantinedRange { partition, topic, file, bytes, offsets, reason } = range;
    error!(
        "{} is damaged in its bytes {}..{}: the offsets {}..{} of {topic}/{} cannot be read, all others can: {reason}",
        file.display(),
        bytes.start,
        bytes.end,
        offsets.start,
        offsets.end,
        partition.index
    );
}

/// When the disk fills, somebody has to act.
fn say_of_space(broker: &BrokerId, event: &SpaceEvent) {
    match event {
        SpaceEvent::Refusing { free, below } => error!(
            free,
            below, "the disk of broker {broker} is full: nothing is stored until there is space; reading goes on"
        ),
        SpaceEvent::Accepting { free } => info!(free, "the disk of broker {broker} has space again"),
    }
}

impl Node {
    fn new(options: BrokerOptions, env: Env, log: Log, bound: SocketAddr) -> Self {
        let registry = Registry::default();
        let incarnation = Incarnation(env.random.next_id());
        let storage = log.identity().expect("the identity was made before the log was opened").storage;
        let member = Member { broker: options.id.clone(), storage };
        let hub = Hub::new(
            Arc::clone(&env.clock),
            member,
            incarnation,
            ReplicaOptions { lag_max: options.replica_lag_max, ..ReplicaOptions::default() },
        );
        log.partitions().into_iter().for_each(|partition| {
            registry.add(partition, &hub);
        });
        Self {
            hub,
            address: if options.advertise.is_empty() { bound.to_string() } else { options.advertise.clone() },
            incarnation,
            started_at_ms: u64::try_from(env.clock.wall_ms()).unwrap_or(0),
            lifecycle: Lifecycle::new(),
            registry,
            groups: Arc::default(),
            budget: Budget::new(options.produce_bytes_max),
            metrics: Metrics::new(),
            disk_reads: DiskReads::new(options.disk_reads_max),
            calls: Arc::new(Semaphore::new(options.calls_max as usize)),
            options,
            env,
            log,
        }
    }

    pub(crate) fn options(&self) -> &BrokerOptions {
        &self.options
    }

    /// The address that clients and sentinels dial.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn identity(&self) -> Identity {
        self.log.identity().expect("the identity was made before the log was opened")
    }

    /// Takes the sentinel's cluster for the broker's own, durably; from then on refuses any other.
    pub(crate) async fn join_cluster(self: &Arc<Self>, cluster: ClusterId) -> Result<(), JoinError> {
        let node = Arc::clone(self);
        spawn_blocking(move || node.log.join_cluster(cluster)).await.expect("storing the cluster does not panic")
    }

    /// A partition that a request names.
    ///
    /// # Errors
    /// Not held here. Whether it exists at all is for the sentinels to say: the route is to be refreshed.
    pub(crate) fn partition(&self, id: PartitionId) -> Result<Arc<Partition>, RequestError> {
        let found = self.registry.get(id);
        if found.as_ref().is_none_or(|partition| partition.led().is_err()) {
            self.ready()?;
        }
        found.ok_or_else(|| RequestError::NotLeader { partition: id.to_string() })
    }

    /// Resolves some time after the last of our streams and calls has ended: then their last words have been sent, and
    /// what is open still (a watcher of the health, an idle connection) is not waited for.
    async fn idle(&self) {
        let all = self.options.calls_max;
        let _all = self.calls.acquire_many(all).await.expect("the semaphore is never closed");
        sleep(LAST_WORDS).await;
    }

    /// # Errors
    /// The broker has not come so far, or is past it.
    pub(crate) fn ready(&self) -> Result<(), RequestError> {
        match self.lifecycle.phase() {
            Phase::Starting => Err(RequestError::Starting),
            Phase::Serving => Ok(()),
            Phase::Stopping | Phase::Failed(_) => Err(RequestError::Stopping),
        }
    }

    /// What was assigned is in force.
    pub(crate) fn serve(&self) {
        if self.lifecycle.serve() {
            info!("broker {} serves", self.options.id);
        }
    }

    /// Must not go on. Leads nothing from here on; the owner of the broker hears of it by [`Broker::stopped`].
    pub(crate) fn fail(&self, reason: StopReason) {
        if matches!(reason, StopReason::LostData(_))
            && let Err(error) = self.log.renew_storage_id()
        {
            error!("cannot give the data directory a new storage id: {error}");
        }
        if self.lifecycle.fail(reason.clone()) {
            error!("broker {} must stop: {reason}", self.options.id);
        }
        self.registry.all().iter().for_each(|partition| partition.resign());
    }
}

fn sentinels(options: &BrokerOptions) -> Result<Vec<(String, tonic::transport::Endpoint)>, StartError> {
    if options.sentinels.is_empty() {
        return Err(StartError::NoSentinel);
    }
    let dial = |address: &String| match endpoint(address) {
        Some(endpoint) => Ok((address.clone(), endpoint)),
        None => Err(StartError::SentinelAddress { address: address.clone() }),
    };
    options.sentinels.iter().map(dial).collect()
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listening = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listening.await.map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
        _ => StartError::Listen { address, source },
    })
}

//! The handle that producers, consumers and admin calls share: the sentinels, and one control connection per broker.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use goulette_env::{Clock, Random, RealClock, RealRandom};
use goulette_proto::{
    pb::{self, broker_client::BrokerClient, sentinel_client::SentinelClient},
    status::KIND_TRAILER,
};
use goulette_types::{BrokerId, ErrorKind, Offset, PartitionIndex, Timestamp, TopicName};
use tokio::time::Instant;
use tonic::{Code, Response, Status, transport::Channel};

use crate::{Backoff, ClientError, TopicRoutes, connection, error::reason_of, routes::RouteCache};

/// How a client finds its cluster, and how long it waits for an answer.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Addresses of sentinels, `host:port`: any one that answers will do. Default: `127.0.0.1:50052`.
    pub sentinels: Vec<String>,
    /// How long to wait for a connection. Default 3 s.
    pub connect_timeout: Duration,
    /// How long to wait for the answer of one unary call. Default 10 s.
    pub rpc_timeout: Duration,
    /// How long a unary call to a partition's leader is repeated while there is none, or it is away. Default 30 s.
    pub retry_timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// How often producers and consumers ask where their topic's partitions are although nothing is wrong: so they learn
    /// of partitions that were added. Default 30 s.
    pub refresh_interval: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            sentinels: vec!["127.0.0.1:50052".to_owned()],
            connect_timeout: Duration::from_secs(3),
            rpc_timeout: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(30),
            backoff: Backoff::default(),
            refresh_interval: Duration::from_secs(30),
        }
    }
}

impl ClientOptions {
    /// Options for these sentinels: one address, or several with commas between them.
    pub fn for_sentinels(addresses: &str) -> Self {
        let sentinels = addresses.split(',').map(|address| address.trim().to_owned()).collect();
        Self { sentinels, ..Self::default() }
    }
}

/// What a partition holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// The first kept offset.
    pub start: Offset,
    /// The end of what can be read.
    pub committed: Offset,
}

/// A cluster, as its users see it. Cheap to clone; clones share connections and routes.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: ClientOptions,
    sentinels: Vec<Sentinel>,
    /// The one that answered last is asked first.
    preferred: AtomicUsize,
    /// Whether the last call reached any sentinel: a change is worth a line in the log, a repetition is not.
    reachable: AtomicBool,
    /// Control connections by address.
    brokers: Mutex<HashMap<String, Channel>>,
    /// Brokers that the last attempt at a stream did not reach.
    unreachable: Mutex<HashSet<BrokerId>>,
    routes: RouteCache,
    clock: RealClock,
    random: RealRandom,
}

struct Sentinel {
    address: String,
    channel: Channel,
}

impl Client {
    /// A client of the cluster that these sentinels belong to. Dials nobody yet.
    ///
    /// # Errors
    /// [`ClientError::Address`] if an address is not `host:port`.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        if options.sentinels.is_empty() {
            return Err(ClientError::Address { address: String::new() });
        }
        let dial = |address: &String| {
            Ok(Sentinel { address: address.clone(), channel: connection::control(address, &options)? })
        };
        let sentinels = options.sentinels.iter().map(dial).collect::<Result<Vec<_>, ClientError>>()?;
        let shared = Shared {
            sentinels,
            preferred: AtomicUsize::new(0),
            reachable: AtomicBool::new(true),
            brokers: Mutex::default(),
            unreachable: Mutex::default(),
            routes: RouteCache::default(),
            clock: RealClock::new(),
            random: RealRandom,
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// [`new`](Self::new), and makes sure that a sentinel answers.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with all the addresses if none does.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let client = Self::new(options)?;
        client.admin().any_sentinel_info().await?;
        Ok(client)
    }

    /// What this client was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.shared.options
    }

    /// Where the topic's partitions are: as last heard, or asked for now. With `create` the sentinel makes the topic if
    /// it is absent, provided that it allows it.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown topic; [`ClientError::Unreachable`] without a sentinel.
    pub async fn routes(&self, topic: &TopicName, create: bool) -> Result<Arc<TopicRoutes>, ClientError> {
        self.shared.routes.get(self, topic, create).await
    }

    /// [`routes`](Self::routes) for a producer or consumer that begins: asked for now, if a sentinel is reachable.
    pub(crate) async fn newest_routes(&self, topic: &TopicName, create: bool) -> Result<Arc<TopicRoutes>, ClientError> {
        self.shared.routes.newest(self, topic, create).await
    }

    /// Asks a sentinel anew, because `stale` turned out to be wrong. Callers that come with the same routes share one
    /// call. `unreachable` names brokers that did not answer: the sentinel looks for itself, and may elect others.
    ///
    /// # Errors
    /// As [`routes`](Self::routes); the routes known so far stay in use.
    pub async fn refresh_routes(
        &self,
        stale: &TopicRoutes,
        unreachable: Vec<String>,
    ) -> Result<Arc<TopicRoutes>, ClientError> {
        self.shared.routes.refresh(self, stale, unreachable).await
    }

    /// Calls one sentinel after the other, the one that answered last first, until one answers.
    pub(crate) async fn sentinel_call<T, F>(
        &self,
        call: impl Fn(SentinelClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.any_sentinel(|channel| call(connection::sentinel(channel))).await
    }

    /// [`sentinel_call`](Self::sentinel_call) for whichever service, by the bare connection.
    pub(crate) async fn any_sentinel<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let shared = &*self.shared;
        let first = shared.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..shared.sentinels.len() {
            let index = (first + step) % shared.sentinels.len();
            let sentinel = &shared.sentinels[index];
            match call(sentinel.channel.clone()).await {
                Ok(response) => {
                    shared.preferred.store(index, Ordering::Relaxed);
                    self.note_sentinels(None);
                    return Ok(response.into_inner());
                }
                Err(status) if try_elsewhere(&status) => last = Some(status),
                Err(status) => {
                    self.note_sentinels(None);
                    return Err(ClientError::refused(&status));
                }
            }
        }
        let status = last.expect("there is at least one sentinel, and each was asked");
        if answered(&status) {
            return Err(ClientError::refused(&status));
        }
        let reason = reason_of(&status);
        let addresses: Vec<_> = shared.sentinels.iter().map(|sentinel| &*sentinel.address).collect();
        let addresses = addresses.join(",");
        self.note_sentinels(Some((&addresses, &reason)));
        Err(ClientError::Unreachable { role: "sentinel", addresses, reason })
    }

    /// One line in the log per change of state.
    fn note_sentinels(&self, failure: Option<(&str, &str)>) {
        let before = self.shared.reachable.swap(failure.is_none(), Ordering::Relaxed);
        match failure {
            Some((addresses, reason)) if before => tracing::warn!("no sentinel is reachable at {addresses}: {reason}"),
            None if !before => tracing::info!("a sentinel is reachable again"),
            _ => {}
        }
    }

    /// The control connection to a broker (or, for the services that they share, a sentinel).
    pub(crate) fn control(&self, address: &str) -> Result<Channel, ClientError> {
        let mut brokers = lock(&self.shared.brokers);
        if let Some(channel) = brokers.get(address) {
            return Ok(channel.clone());
        }
        let channel = connection::control(address, self.options())?;
        brokers.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Calls the partition's leader over its control connection; again, after a pause and with new routes, as long as
    /// that may help and [`ClientOptions::retry_timeout`] has not passed.
    pub(crate) async fn leader_call<T, F>(
        &self,
        routes: &TopicRoutes,
        partition: PartitionIndex,
        call: impl Fn(BrokerClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.options().retry_timeout;
        let mut failures = 0;
        loop {
            let routes = self.routes(&routes.topic, false).await?;
            let mut unreachable = Vec::new();
            let result = match routes.leader(partition) {
                Ok(leader) => {
                    let result = call(connection::broker(self.control(&leader.address)?)).await;
                    let result = result.map_err(|status| call_error("broker", &leader.address, &status));
                    if matches!(result, Err(ClientError::Unreachable { .. })) {
                        unreachable.push(leader.broker.to_string());
                    }
                    result
                }
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(response) => return Ok(response.into_inner()),
                Err(error) => error,
            };
            failures += 1;
            let pause = self.pause(failures);
            // A broker may not have heard of a new topic yet. If it is gone, the sentinel will say so.
            let may_help = error.kind().is_retriable() || error.kind() == ErrorKind::NotFound;
            if !may_help || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            match self.refresh_routes(&routes, unreachable).await {
                Err(gone) if gone.kind() == ErrorKind::NotFound => return Err(gone),
                // Without a sentinel the routes known so far may do.
                _ => {}
            }
        }
    }

    /// What the partition holds, as its leader says.
    pub(crate) async fn list_offsets(
        &self,
        routes: &TopicRoutes,
        partition: PartitionIndex,
    ) -> Result<PartitionOffsets, ClientError> {
        let request = pb::ListOffsetsRequest {
            topic_id: routes.id.to_bytes().to_vec().into(),
            partition: partition.0,
            timestamp_ms: None,
        };
        let call = |mut broker: BrokerClient<Channel>| {
            let request = request.clone();
            async move { broker.list_offsets(request).await }
        };
        let answer = self.leader_call(routes, partition, call).await?;
        Ok(PartitionOffsets { start: Offset(answer.start), committed: Offset(answer.committed) })
    }

    /// One line in the log per change of a broker's state, as streams find it.
    pub(crate) fn note_broker(&self, broker: &BrokerId, failure: Option<&str>) {
        let mut unreachable = lock(&self.shared.unreachable);
        match failure {
            Some(reason) => {
                if unreachable.insert(broker.clone()) {
                    tracing::warn!("lost broker {broker}, will try again: {reason}");
                }
            }
            None => {
                if unreachable.remove(broker) {
                    tracing::info!("found broker {broker} again");
                }
            }
        }
    }

    /// The wall clock, for records without a timestamp of their own.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(self.shared.clock.wall_ms())
    }

    /// 64 random bits: jitter, ids, where to start.
    pub(crate) fn random(&self) -> u64 {
        self.shared.random.next_u64()
    }

    /// The pause after `failures` failed attempts in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.options().backoff.pause(failures, self.random())
    }
}

/// What a failed call to the peer at `address` means.
pub(crate) fn call_error(role: &'static str, address: &str, status: &Status) -> ClientError {
    if answered(status) || !try_elsewhere(status) {
        return ClientError::refused(status);
    }
    ClientError::Unreachable { role, addresses: address.to_owned(), reason: reason_of(status) }
}

/// Whether the peer itself said so; else it is what the transport made of a failure.
fn answered(status: &Status) -> bool {
    status.metadata().contains_key(KIND_TRAILER)
}

/// Whether another sentinel may do better: this one is not reachable, or not ready.
fn try_elsewhere(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        // What the transport makes of its own timeout, and of a connection that broke during the call.
        Code::Cancelled | Code::Unknown | Code::Internal => !answered(status),
        _ => false,
    }
}

/// Locks, also after a panic elsewhere: the maps behind these locks are whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The broker's one connection to the cluster: it registers at a sentinel, beats, and hands on what it is told to lead.
//!
//! When the connection breaks, the broker goes on with what it has, and registers anew at the next sentinel that
//! answers: registering the same incarnation again changes nothing but brings all assignments, so that nothing missed
//! in between has to be made up for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use goulette_log::JoinError;
use goulette_logging::{debug, info, warn};
use goulette_proto::{
    PROTOCOL_VERSION,
    pb::{self, sentinel_client::SentinelClient},
    status::{kind_of, leader_of},
};
use goulette_types::{ClusterId, ErrorKind, Revision};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{
    applier::{Applier, Update},
    farewell,
    lifecycle::{StopReason, StopSignal},
    node::Node,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it lives, and how long the answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));
/// What a sentinel may ask for.
const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 20..=60_000;
/// How often in a row the broker goes where a sentinel sends it, before it takes its own list again.
const REDIRECTIONS_MAX: u32 = 3;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A message from a sentinel: 10,000 assignments with their settings fit well.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Says once how the first attempt to register went: done, or not yet. A refusal is told by the lifecycle.
pub(crate) type Settled = oneshot::Sender<()>;

/// Keeps the broker registered, until it stops.
pub(crate) struct SentinelLink {
    node: Arc<Node>,
    stop: StopSignal,
    sentinels: Vec<(String, Endpoint)>,
    applier: Applier,
    /// All assignments up to here are in force.
    applied: Revision,
    settled: Option<Settled>,
    state: State,
    backoff: Duration,
    /// The sentinel that another one has named as the one that leads, and how often in a row one has.
    redirected: Option<(String, Endpoint)>,
    redirections: u32,
    /// A sentinel may count on this start of the broker: it has been asked to, and was not told the end.
    introduced: bool,
}

/// What the log was told last: one line per change, none per attempt.
#[derive(PartialEq, Eq)]
enum State {
    Unknown,
    Registered,
    Lost,
}

/// Why a session with a sentinel ended.
enum End {
    /// The broker stops.
    Stopping,
    /// The sentinel refuses this broker for good.
    Refused(StopReason),
    /// The sentinel does not know this broker any more.
    Forgotten,
    /// Not reachable, not ready, or gone.
    Lost(String),
    /// Another sentinel leads: this one names its address.
    Elsewhere(String),
}

/// The address as something to dial.
pub(crate) fn endpoint(address: &str) -> Option<Endpoint> {
    let (host, port) = address.rsplit_once(':')?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return None;
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(
        endpoint
            .connect_timeout(CONNECT_DEADLINE)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true),
    )
}

impl SentinelLink {
    pub(crate) fn new(node: Arc<Node>, sentinels: Vec<(String, Endpoint)>, settled: Settled) -> Self {
        Self {
            stop: node.lifecycle.signal(),
            applier: Applier::new(Arc::clone(&node)),
            node,
            sentinels,
            applied: Revision(0),
            settled: Some(settled),
            state: State::Unknown,
            backoff: BACKOFF_FIRST,
            redirected: None,
            redirections: 0,
            introduced: false,
        }
    }

    /// Runs until the broker stops, and takes leave.
    pub(crate) async fn run(mut self) {
        self.keep_registered().await;
        if self.introduced {
            farewell::to_any(&self.node, &self.sentinels).await;
        }
    }

    async fn keep_registered(&mut self) {
        let mut turn = 0;
        loop {
            let (address, endpoint) = match self.redirected.take() {
                Some(leader) => leader,
                None => self.sentinels[turn % self.sentinels.len()].clone(),
            };
            match self.session(&address, endpoint).await {
                End::Elsewhere(leader) => {
                    debug!("sentinel {address} does not lead, the one at {leader} does");
                    if self.redirections < REDIRECTIONS_MAX
                        && let Some(endpoint) = self::endpoint(&leader)
                    {
                        self.redirections += 1;
                        self.redirected = Some((leader, endpoint));
                        continue;
                    }
                    self.report_loss(&address, "it names one that does not lead either");
                }
                End::Stopping => return,
                End::Refused(reason) => {
                    self.introduced = false;
                    return self.node.fail(reason);
                }
                End::Forgotten => info!("sentinel {address} does not know this broker any more: registers anew"),
                End::Lost(reason) => self.report_loss(&address, &reason),
            }
            self.redirections = 0;
            turn += 1;
            let all_tried = turn % self.sentinels.len() == 0;
            if all_tried && let Some(settled) = self.settled.take() {
                let _ = settled.send(());
            }
            // Half of it at random, so that the brokers of a cluster do not come back all at once.
            let jitter = self.node.env.random.next_u64() % (self.backoff.as_millis() as u64 / 2 + 1);
            let pause = self.backoff / 2 + Duration::from_millis(jitter);
            if all_tried {
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
            tokio::select! {
                () = self.stop.stopping() => return,
                () = sleep(pause) => {}
            }
        }
    }

    fn report_loss(&mut self, address: &str, reason: &str) {
        match self.state {
            State::Lost => debug!("sentinel {address}: {reason}"),
            State::Unknown => warn!("cannot register at sentinel {address} yet, and tries on: {reason}"),
            State::Registered => warn!("lost sentinel {address}, goes on with what it leads and tries on: {reason}"),
        }
        self.state = State::Lost;
    }

    /// One connection, from the registration to its end.
    async fn session(&mut self, address: &str, endpoint: Endpoint) -> End {
        let channel = tokio::select! {
            () = self.stop.stopping() => return End::Stopping,
            connected = timeout(CONNECT_DEADLINE, endpoint.connect()) => match connected {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return End::Lost(format!("cannot connect: {}", deepest(&error))),
                Err(_) => return End::Lost("cannot connect: no answer".to_owned()),
            },
        };
        let mut client = SentinelClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let registered = match self.register(&mut client).await {
            Ok(registered) => registered,
            Err(end) => return end,
        };
        self.backoff = BACKOFF_FIRST;
        self.node.hub.set_sentinel(Some(client.clone()));
        let period = registered.heartbeat_ms.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        if self.state != State::Registered {
            info!("registered at sentinel {address} with {} partitions to lead", registered.assignments.len());
            self.state = State::Registered;
        }
        let pb::RegisterBrokerResponse { revision, assignments, deleted_topics, .. } = registered;
        self.applier.submit(Update::new(&self.node, revision, true, assignments, &deleted_topics));
        let end = self.beat(&mut client, Duration::from_millis(period.into())).await;
        self.node.hub.set_sentinel(None);
        end
    }

    async fn register(&mut self, client: &mut SentinelClient<Channel>) -> Result<pb::RegisterBrokerResponse, End> {
        let request = registration(&self.node);
        self.introduced = true;
        let response = tokio::select! {
            () = self.stop.stopping() => return Err(End::Stopping),
            response = timeout(CALL_DEADLINE, client.register_broker(request)) => response,
        };
        let response = match response {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(refusal(&status)),
            Err(_) => return Err(End::Lost("no answer to the registration".to_owned())),
        };
        let cluster = ClusterId::try_from(response.cluster_id.as_ref())
            .map_err(|error| End::Lost(format!("the sentinel's cluster id: {error}")))?;
        match self.node.join_cluster(cluster).await {
            Ok(()) => Ok(response),
            Err(JoinError::OtherCluster(error)) => Err(End::Refused(StopReason::OtherCluster(error))),
            Err(error) => Err(End::Lost(format!("cannot store the cluster id: {error}"))),
        }
    }

    async fn beat(&mut self, client: &mut SentinelClient<Channel>, period: Duration) -> End {
        // Few: a beat that cannot be sent for lack of room is not worth sending later.
        let (beats, outbound) = mpsc::channel(4);
        let opened = timeout(CALL_DEADLINE, client.heartbeat(ReceiverStream::new(outbound)));
        let mut orders = tokio::select! {
            () = self.stop.stopping() => return End::Stopping,
            opened = opened => match opened {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return refusal(&status),
                Err(_) => return End::Lost("no answer to the heartbeat".to_owned()),
            },
        };
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let may_read = !self.applier.is_full();
            tokio::select! {
                () = self.node.hub.wants_registration() => return End::Forgotten,
                () = self.stop.stopping() => {
                    self.introduced = !farewell::by_session(&self.node, client).await;
                    return End::Stopping;
                }
                _ = ticks.tick() => self.send_beat(&beats),
                revision = self.applier.applied() => {
                    self.applied = revision;
                    self.node.serve();
                    if let Some(settled) = self.settled.take() {
                        let _ = settled.send(());
                    }
                    // At once: somebody waits for this partition to have a leader.
                    self.send_beat(&beats);
                }
                order = orders.message(), if may_read => match order {
                    Ok(Some(order)) if order.register => return End::Forgotten,
                    Ok(Some(order)) => {
                        let pb::HeartbeatResponse { revision, assignments, deleted_topics, .. } = order;
                        if !assignments.is_empty() || !deleted_topics.is_empty() {
                            self.applier.submit(Update::new(&self.node, revision, false, assignments, &deleted_topics));
                        }
                    }
                    Ok(None) => return End::Lost("it ended the heartbeat".to_owned()),
                    Err(status) => return refusal(&status),
                },
            }
        }
    }

    fn send_beat(&self, beats: &mpsc::Sender<pb::HeartbeatRequest>) {
        let oldest_unsynced = self.node.log.oldest_unsynced().unwrap_or_default();
        let _ = beats.try_send(pb::HeartbeatRequest {
            id: self.node.options().id.to_string(),
            incarnation: self.node.incarnation.to_bytes().to_vec().into(),
            revision_applied: self.applied.0,
            oldest_unsynced_ms: oldest_unsynced.as_millis() as u64,
        });
    }
}

/// Whether a failed call means that this broker must not go on, or only that this sentinel is no help now.
fn refusal(status: &Status) -> End {
    let (kind, message) = (kind_of(status), status.message().to_owned());
    if kind == ErrorKind::NotLeader
        && let Some(leader) = leader_of(status)
    {
        return End::Elsewhere(leader);
    }
    match kind {
        ErrorKind::Conflict | ErrorKind::Fenced | ErrorKind::Invalid | ErrorKind::Unsupported => {
            End::Refused(StopReason::Refused { kind, message })
        }
        _ => End::Lost(message),
    }
}

/// The cause behind all causes: "Connection refused" rather than "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What a broker tells of itself when it registers.
pub(crate) fn registration(node: &Node) -> pb::RegisterBrokerRequest {
    let (identity, held) = (node.identity(), node.registry.all());
    pb::RegisterBrokerRequest {
        id: node.options().id.to_string(),
        address: node.address().to_owned(),
        incarnation: node.incarnation.to_bytes().to_vec().into(),
        storage_id: identity.storage.to_bytes().to_vec().into(),
        cluster_id: identity.cluster.map(|id| id.to_bytes().to_vec()).unwrap_or_default().into(),
        protocol_version: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replicates: true,
        rack: node.options().rack.clone().unwrap_or_default(),
        weight: node.options().weight,
        sentinels: node.options().sentinels.iter().collect::<BTreeSet<_>>().len() as u32,
        held: held.iter().map(|partition| partition.held()).collect(),
        producer_id_max: held
            .iter()
            .filter_map(|partition| partition.log().highest_producer())
            .max()
            .map_or(0, |id| id.0),
    }
}

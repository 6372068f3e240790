//! Where the orders of partitions meet the streams.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use goulette_env::Clock;
use goulette_proto::pb::sentinel_client::SentinelClient;
use goulette_replication::{Member, ReplicaOptions, Stream, ToFollower, ToLeader, controller::Proposal};
use goulette_types::{BrokerId, Incarnation, PartitionId};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use tonic::transport::Channel;

use super::{
    Feed, StreamKind,
    outbox::Outbox,
    pull::{self, Wish},
    push::Order,
};
use crate::{lifecycle::StopReason, node::Node, partition::Partition, sync::lock};

/// The sentinel at which the broker is registered.
pub(crate) type SentinelAt = Option<SentinelClient<Channel>>;

/// What is wanted of a stream to a leader.
type Link = Arc<Outbox<Wish>>;

/// Where a broker was last said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAddress {
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
}

/// Shared by all partitions of a broker. It knows the node only by a weak reference.
pub(crate) struct Hub {
    clock: Arc<dyn Clock>,
    member: Member,
    incarnation: Incarnation,
    replica_options: ReplicaOptions,
    runtime: Handle,
    node: OnceLock<Weak<Node>>,
    next_stream: AtomicU64,
    /// The follower's ends of streams that stand.
    pulls: Mutex<HashMap<Stream, Arc<Outbox<Wish>>>>,
    /// The leader's ends.
    pushes: Mutex<HashMap<Stream, Arc<Outbox<Order>>>>,
    links: Mutex<HashMap<(BrokerId, StreamKind), Link>>,
    addresses: Mutex<HashMap<BrokerId, PeerAddress>>,
    pub(super) proposals: Outbox<(Arc<Partition>, Proposal)>,
    sentinel: watch::Sender<SentinelAt>,
    handing_over: AtomicBool,
    /// Something was quarantined.
    damage: Notify,
    /// The sentinel wants to hear what is held here.
    registering: Notify,
}

impl Hub {
    /// To be [attached](Self::attach) to its node before a partition has a role.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        member: Member,
        incarnation: Incarnation,
        replica_options: ReplicaOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            replica_options,
            clock,
            member,
            incarnation,
            runtime: Handle::current(),
            node: OnceLock::new(),
            next_stream: AtomicU64::new(1),
            pulls: Mutex::default(),
            pushes: Mutex::default(),
            links: Mutex::default(),
            addresses: Mutex::default(),
            proposals: Outbox::new(),
            sentinel: watch::Sender::new(None),
            handing_over: AtomicBool::new(false),
            damage: Notify::new(),
            registering: Notify::new(),
        })
    }

    pub(crate) fn attach(&self, node: &Arc<Node>) {
        let attached = self.node.set(Arc::downgrade(node));
        assert!(attached.is_ok(), "a hub has one node");
    }

    pub(super) fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// This broker, with its disk.
    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(crate) fn replica_options(&self) -> ReplicaOptions {
        self.replica_options
    }

    /// Runs what may wait for the disk.
    pub(crate) fn run_blocking(&self, act: impl FnOnce() + Send + 'static) {
        self.runtime.spawn_blocking(act);
    }

    /// Does something after a pause, if the broker lives then.
    pub(crate) fn later(&self, pause: Duration, act: impl FnOnce() + Send + 'static) {
        self.runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            act();
        });
    }

    /// The broker must not go on. Told later: partitions that resign then are not held by the caller any more.
    pub(crate) fn fail(&self, reason: StopReason) {
        let node = self.node();
        self.runtime.spawn_blocking(move || node.inspect(|node| node.fail(reason)));
    }

    // Peers.

    /// Notes where a broker is.
    pub(crate) fn note_address(&self, broker: BrokerId, at: PeerAddress) {
        lock(&self.addresses).insert(broker, at);
    }

    pub(super) fn address(&self, broker: &BrokerId) -> Option<PeerAddress> {
        lock(&self.addresses).get(broker).cloned()
    }

    /// A number for a stream; no two of this process share one.
    pub(super) fn number_stream(&self) -> Stream {
        Stream(self.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Something was quarantined: it may be had from another replica.
    pub(crate) fn note_damage(&self) {
        self.damage.notify_one();
    }

    /// Waits until something is quarantined.
    pub(super) async fn damaged(&self) {
        self.damage.notified().await;
    }

    // The follower's side.

    /// Has a partition follow a leader on one of the two streams, which are opened if they are not.
    pub(crate) fn follow(&self, partition: Arc<Partition>, leader: &BrokerId, kind: StreamKind) {
        let mut links = lock(&self.links);
        let link = links.entry((leader.clone(), kind)).or_insert_with(|| {
            let wishes = Arc::new(Outbox::new());
            if let Some(node) = self.node() {
                self.runtime.spawn(pull::run(node, leader.clone(), kind, Arc::clone(&wishes)));
            }
            wishes
        });
        link.push(Wish::Follow(partition));
    }

    /// As [`follow`](Self::follow), after a pause, if the partition follows that leader still.
    pub(crate) fn follow_later(&self, partition: Arc<Partition>, leader: BrokerId, pause: Duration) {
        self.later(pause, move || {
            if partition.follows(&leader) {
                let kind = partition.stream_kind();
                let hub = Arc::clone(partition.hub());
                hub.follow(partition, &leader, kind);
            }
        });
    }

    pub(super) fn open_pull(&self, stream: Stream, wishes: Arc<Outbox<Wish>>) {
        lock(&self.pulls).insert(stream, wishes);
    }

    pub(super) fn close_pull(&self, stream: Stream) {
        lock(&self.pulls).remove(&stream);
    }

    pub(crate) fn say_to_leader(&self, id: PartitionId, message: ToLeader) {
        if let Some(wishes) = lock(&self.pulls).get(&message.stream) {
            wishes.push(Wish::Say(id, message));
        }
    }

    // The leader's side.

    pub(super) fn open_push(&self, stream: Stream, orders: Arc<Outbox<Order>>) {
        lock(&self.pushes).insert(stream, orders);
    }

    pub(super) fn close_push(&self, stream: Stream) {
        lock(&self.pushes).remove(&stream);
    }

    pub(crate) fn say_to_follower(&self, id: PartitionId, message: ToFollower) {
        if let Some(orders) = lock(&self.pushes).get(&message.stream) {
            orders.push(Order::Say(id, message));
        }
    }

    /// A feed on a stream, unless that is closed.
    pub(crate) fn feed(&self, id: PartitionId, broker: BrokerId, stream: Stream) -> Option<Arc<Feed>> {
        let outbox = Arc::clone(lock(&self.pushes).get(&stream)?);
        Some(Feed::new(id, broker, stream, outbox))
    }

    // Sentinels.

    /// The sentinel at which the broker is registered now; none while it is at none.
    pub(crate) fn set_sentinel(&self, sentinel: SentinelAt) {
        self.sentinel.send_replace(sentinel);
    }

    /// The sentinel wants to hear what is held here.
    pub(crate) fn register_anew(&self) {
        self.registering.notify_one();
    }

    /// Waits until the broker is to register anew.
    pub(crate) async fn wants_registration(&self) {
        self.registering.notified().await;
    }

    pub(super) fn sentinel(&self) -> watch::Receiver<SentinelAt> {
        self.sentinel.subscribe()
    }

    pub(crate) fn propose(&self, partition: Arc<Partition>, proposal: Proposal) {
        self.proposals.push((partition, proposal));
    }

    /// Whether the broker gives its leaderships away: nothing more is appended where another can take over.
    pub(crate) fn hands_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }

    pub(super) fn set_handing_over(&self, handing_over: bool) {
        self.handing_over.store(handing_over, Ordering::Release);
    }
}

//! The leader's end of a stream: one task that answers handshakes and pushes what its followers lack.
//!
//! Partitions mark their feeds when there is something to send; the task sends frames of up to 1 MiB that hold whatever all
//! its partitions have, while the follower's credit lasts. On the in-sync stream only what is in memory is sent: a follower
//! that needs more is told to take the catch-up stream, and back.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use goulette_log::ReadError;
use goulette_logging::{debug, info, warn};
use goulette_proto::{
    PROTOCOL_VERSION,
    convert::partition_id,
    pb::{self, dismissed::Reason},
};
use goulette_records::Batch;
use goulette_replication::{FromFollower, FromLeader, Member, Refused, Stream, ToFollower, ToLeader};
use goulette_types::{BrokerId, ClusterId, Incarnation, LeaderEpoch, Offset, PartitionId, StorageId};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Feed, StreamKind, outbox::Outbox, wire};
use crate::{error::RequestError, lifecycle::StopSignal, node::Node, partition::Partition};

/// A frame holds batches up to this many bytes, or one larger batch.
const FRAME_BYTES: u32 = 1 << 20;
/// Frames that may wait for the network.
const FRAMES_WAITING: usize = 2;
/// How long a follower may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// What partitions want of a stream.
pub(crate) enum Order {
    Say(PartitionId, ToFollower),
    /// Begin to feed.
    Feed(Arc<Feed>),
    /// There is something to send.
    Marked(Arc<Feed>),
}

/// The frames of one stream.
pub(crate) type Frames = ReceiverStream<Result<pb::ReplicateResponse, Status>>;

/// Opens a stream: the follower says who it is, and then the stream lives by itself.
///
/// # Errors
/// The follower speaks a newer protocol, belongs to another cluster, or means another broker or another start of this one.
pub(crate) async fn push(
    node: Arc<Node>,
    mut inbound: Streaming<pb::ReplicateRequest>,
) -> Result<Frames, RequestError> {
    let first = tokio::time::timeout(HELLO_DEADLINE, inbound.message()).await;
    let invalid = |reason: &str| RequestError::Invalid(reason.to_owned());
    let first = match first {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Err(invalid("the stream ended before it was opened")),
        Ok(Err(status)) => return Err(RequestError::Invalid(status.message().to_owned())),
        Err(_) => return Err(invalid("the stream was not opened in time")),
    };
    let hello = first.hello.as_ref().ok_or_else(|| invalid("the first request must say who follows"))?;
    let peer = Peer::parse(&node, hello)?;
    let (frames, outbound) = mpsc::channel(FRAMES_WAITING);
    let welcome = pb::Welcome { protocol_version: PROTOCOL_VERSION };
    let welcome = pb::ReplicateResponse { welcome: Some(welcome), ..Default::default() };
    frames.try_send(Ok(welcome)).map_err(|_| RequestError::Internal("a new channel has room".to_owned()))?;
    let stream = node.hub.number_stream();
    let orders = Arc::new(Outbox::new());
    node.hub.open_push(stream, Arc::clone(&orders));
    debug!("broker {} follows on the {:?} stream", peer.member.broker, peer.kind);
    let mut pusher = Pusher {
        stop: node.lifecycle.signal(),
        node,
        peer,
        stream,
        orders,
        handles: HashMap::new(),
        seats: HashMap::new(),
        ready: VecDeque::new(),
        credit: 0,
        frame: pb::ReplicateResponse::default(),
        frame_bytes: 0,
        resume_at: Instant::now(),
    };
    pusher.receive(first);
    tokio::spawn(pusher.run(inbound, frames));
    Ok(ReceiverStream::new(outbound))
}

struct Peer {
    member: Member,
    incarnation: Incarnation,
    kind: StreamKind,
}

impl Peer {
    fn parse(node: &Node, hello: &pb::Hello) -> Result<Self, RequestError> {
        if hello.protocol_version > PROTOCOL_VERSION {
            return Err(RequestError::NewerProtocol { given: hello.protocol_version, known: PROTOCOL_VERSION });
        }
        let id = |bytes: &[u8], what: &str| {
            ClusterId::try_from(bytes)
                .map(|id| id.0)
                .map_err(|_| RequestError::Invalid(format!("{what} is not 16 bytes")))
        };
        let cluster = ClusterId(id(&hello.cluster_id, "the cluster id")?);
        let own = node.identity().cluster;
        if own != Some(cluster) {
            let own = own.map_or("none".to_owned(), |own| own.to_string());
            return Err(RequestError::OtherCluster { given: cluster.to_string(), own });
        }
        let broker: BrokerId = hello
            .broker
            .parse()
            .map_err(|error: goulette_types::NameError| RequestError::Invalid(error.to_string()))?;
        let meant = (hello.leader.as_str(), id(&hello.leader_incarnation, "the leader's incarnation")?);
        if meant != (node.options().id.as_str(), node.incarnation.0) {
            return Err(RequestError::OtherBroker { given: hello.leader.clone(), own: node.options().id.to_string() });
        }
        Ok(Self {
            member: Member { broker, storage: StorageId(id(&hello.storage_id, "the storage id")?) },
            incarnation: Incarnation(id(&hello.incarnation, "the incarnation")?),
            kind: hello.stream().into(),
        })
    }
}

struct Pusher {
    node: Arc<Node>,
    stop: StopSignal,
    peer: Peer,
    stream: Stream,
    orders: Arc<Outbox<Order>>,
    /// Which partition a handle stands for.
    handles: HashMap<u32, PartitionId>,
    /// One for each partition that is followed here.
    seats: HashMap<PartitionId, Seat>,
    /// Those that have something to send.
    ready: VecDeque<PartitionId>,
    /// Bytes that may still be sent. A batch that exceeds what is left is sent whole, and the rest is owed.
    credit: i64,
    /// What is to be sent next, and the bytes of the batches in it.
    frame: pb::ReplicateResponse,
    frame_bytes: usize,
    /// On the catch-up stream no batch is read before.
    resume_at: Instant,
}

struct Seat {
    handle: u32,
    epoch: LeaderEpoch,
    partition: Arc<Partition>,
    feed: Option<Arc<Feed>>,
    next: Offset,
    committed_sent: Offset,
    start_sent: Offset,
    positions_sent: u64,
    ping: u64,
    /// It is in `ready`.
    queued: bool,
}

#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Event {
    Orders(Vec<Order>),
    Request(Result<Option<pb::ReplicateRequest>, Status>),
    Sent(bool),
    /// More may be read.
    Resumed,
    Stopping,
}

impl Pusher {
    async fn run(
        mut self,
        mut inbound: Streaming<pb::ReplicateRequest>,
        frames: mpsc::Sender<Result<pb::ReplicateResponse, Status>>,
    ) {
        let orders = Arc::clone(&self.orders);
        loop {
            self.fill().await;
            let waits = !self.ready.is_empty() && self.resume_at > Instant::now();
            let has_frame = self.frame != pb::ReplicateResponse::default();
            let event = tokio::select! {
                biased;
                () = self.stop.stopping() => Event::Stopping,
                request = inbound.message() => Event::Request(request),
                permit = frames.reserve(), if has_frame => match permit {
                    Ok(permit) => {
                        permit.send(Ok(std::mem::take(&mut self.frame)));
                        Event::Sent(true)
                    }
                    Err(_) => Event::Sent(false),
                },
                orders = orders.take(), if !has_frame => Event::Orders(orders),
                () = sleep_until(self.resume_at), if waits => Event::Resumed,
            };
            match event {
                Event::Orders(orders) => orders.into_iter().for_each(|order| self.obey(order)),
                Event::Request(Ok(Some(request))) => self.receive(request),
                Event::Sent(true) => self.frame_bytes = 0,
                Event::Resumed => {}
                Event::Request(_) | Event::Sent(false) | Event::Stopping => break,
            }
        }
        self.node.hub.close_push(self.stream);
        for seat in self.seats.values() {
            seat.partition.stream_closed(&self.peer.member.broker, self.stream);
        }
        debug!("broker {} follows on the {:?} stream no longer", self.peer.member.broker, self.peer.kind);
    }

    /// The follower says something.
    fn receive(&mut self, request: pb::ReplicateRequest) {
        self.credit = self.credit.saturating_add(credit(request.credit_bytes));
        for handle in request.leave {
            if let Some(id) = self.handles.remove(&handle) {
                self.seats.remove(&id);
            }
        }
        for follow in request.follow {
            self.follow(follow);
        }
        for joined in request.joined {
            self.hear(joined.handle, FromFollower::Confirm { end: wire::offset(joined.end) });
        }
        for durable in request.durable {
            self.hear(durable.handle, FromFollower::Durable { end: wire::offset(durable.end) });
            if durable.pong > 0 {
                self.hear(durable.handle, FromFollower::Pong { round: durable.pong });
            }
            if let Some(seat) = self.seat(durable.handle)
                && let Some(feed) = &seat.feed
            {
                seat.partition.positions_reported(feed, durable.positions.min(seat.positions_sent));
            }
        }
    }

    fn seat(&mut self, handle: u32) -> Option<&mut Seat> {
        self.seats.get_mut(self.handles.get(&handle)?).filter(|seat| seat.handle == handle)
    }

    fn follow(&mut self, follow: pb::Follow) {
        let pb::Follow { handle, topic_id, partition, leader_epoch, last, .. } = follow;
        let epoch = LeaderEpoch(leader_epoch);
        let found = partition_id(&topic_id, partition).ok().and_then(|id| self.node.registry.get(id));
        let Some(partition) = found else {
            self.frame.dismissed.push(wire::dismissed(handle, &Refused::OtherEpoch { given: epoch, current: None }));
            return;
        };
        let id = partition.id();
        let known = self.seat(handle).is_some_and(|seat| seat.epoch == epoch);
        if !known {
            self.handles.insert(handle, id);
            let seat = Seat {
                handle,
                epoch,
                partition: Arc::clone(&partition),
                feed: None,
                next: Offset::ZERO,
                committed_sent: Offset::ZERO,
                start_sent: Offset::ZERO,
                positions_sent: 0,
                ping: 0,
                queued: false,
            };
            if let Some(before) = self.seats.insert(id, seat).filter(|before| before.handle != handle) {
                self.handles.remove(&before.handle);
            }
        }
        let last = wire::log_end(&last.unwrap_or_default());
        let (member, incarnation) = (self.peer.member.clone(), self.peer.incarnation);
        self.hear(handle, FromFollower::Hello { member, incarnation, last });
    }

    fn hear(&mut self, handle: u32, body: FromFollower) {
        let stream = self.stream;
        let Some(seat) = self.seat(handle) else { return };
        let (partition, leader_epoch) = (Arc::clone(&seat.partition), seat.epoch);
        partition.hear_follower(&self.peer.member.broker, ToLeader { stream, leader_epoch, body });
    }

    /// A partition wants something.
    fn obey(&mut self, order: Order) {
        match order {
            Order::Say(id, message) => self.say(id, message),
            Order::Feed(feed) => {
                let Some((_, from)) = feed.start() else { return };
                let Some(seat) = self.seats.get_mut(&feed.id()) else { return };
                seat.next = from;
                // With its cut the follower got all positions, and it has joined since.
                let (partition, has) = (Arc::clone(&seat.partition), seat.positions_sent);
                seat.feed = Some(Arc::clone(&feed));
                seat.queue(&mut self.ready);
                partition.positions_reported(&feed, has);
            }
            Order::Marked(feed) => {
                feed.unmark();
                if let Some(seat) = self.seats.get_mut(&feed.id()) {
                    seat.queue(&mut self.ready);
                }
            }
        }
    }

    fn say(&mut self, id: PartitionId, message: ToFollower) {
        // What was meant for an earlier handshake must not end a later one.
        let epoch = match message.body {
            FromLeader::Refused(Refused::OtherEpoch { given, .. }) => given,
            _ => message.leader_epoch,
        };
        let Some(seat) = self.seats.get_mut(&id).filter(|seat| seat.epoch == epoch) else { return };
        match message.body {
            FromLeader::Cut(cut) => {
                let snapshot = seat.partition.positions_since(0);
                seat.positions_sent = snapshot.version;
                self.frame.cuts.push(pb::Cut {
                    handle: seat.handle,
                    common: cut.shared.map(wire::epoch_end),
                    start: cut.start.0,
                    end: cut.end.0,
                    positions: snapshot.positions,
                    positions_version: snapshot.version,
                });
            }
            FromLeader::Ping { round } => {
                seat.ping = round;
                seat.queue(&mut self.ready);
            }
            FromLeader::Refused(why) => {
                let handle = seat.handle;
                info!("refuses broker {} as a follower of {}: {why}", self.peer.member.broker, seat.partition);
                self.frame.dismissed.push(wire::dismissed(handle, &why));
                self.forget(id);
            }
            FromLeader::Committed(_) => seat.queue(&mut self.ready),
        }
    }

    fn forget(&mut self, id: PartitionId) {
        if let Some(seat) = self.seats.remove(&id) {
            self.handles.remove(&seat.handle);
        }
    }

    fn dismiss(&mut self, id: PartitionId, reason: Reason, message: String) {
        if let Some(seat) = self.seats.get(&id) {
            self.frame.dismissed.push(pb::Dismissed { handle: seat.handle, reason: reason.into(), message });
            self.forget(id);
        }
    }

    /// Puts into the frame what the partitions have, as far as it fits. What is read for the catch-up stream pays for the
    /// next: what is said besides batches does not wait for it.
    async fn fill(&mut self) {
        // Those that came meanwhile belong into this frame.
        for order in self.orders.drain() {
            self.obey(order);
        }
        let mut bytes = 0;
        let mut looks = self.ready.len();
        let may_read = self.resume_at <= Instant::now();
        while looks > 0 && self.frame_bytes < FRAME_BYTES as usize {
            looks -= 1;
            let Some(id) = self.ready.pop_front() else { break };
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            seat.queued = false;
            let Some(feed) = seat.feed.clone() else { continue };
            if seat.partition.led_in(seat.epoch).is_err() {
                continue;
            }
            let room = (FRAME_BYTES as usize - self.frame_bytes) as u32;
            let read = match self.credit > 0 && may_read {
                true => read(&self.node, self.peer.kind, &seat.partition, seat.next, room).await,
                false => Read::Batches(Vec::new()),
            };
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            match read {
                Read::Batches(batches) => {
                    let sent: usize = batches.iter().map(Batch::encoded_bytes).sum();
                    bytes += sent;
                    self.frame_bytes += sent;
                    self.credit -= sent as i64;
                    if let Some(last) = batches.last() {
                        seat.next = last.next_offset();
                    }
                    let more = seat.next < seat.partition.log().end();
                    if let Some(pushed) = seat.pushed(batches) {
                        self.frame.pushed.push(pushed);
                    }
                    if more {
                        seat.queue(&mut self.ready);
                    }
                    drop(feed);
                }
                Read::OtherStream(reason) => self.dismiss(id, reason, String::new()),
                Read::Failed(error) => {
                    let message = format!("cannot read {} for its follower: {error}", seat.partition);
                    warn!("{message}");
                    self.dismiss(id, Reason::Unreadable, message);
                }
            }
        }
        if self.peer.kind == StreamKind::CatchUp && bytes > 0 {
            let rate = self.node.options().catch_up_bytes_per_second.max(1);
            self.resume_at = Instant::now() + Duration::from_secs_f64(bytes as f64 / f64::from(rate));
        }
    }
}

impl Seat {
    fn queue(&mut self, ready: &mut VecDeque<PartitionId>) {
        if !std::mem::replace(&mut self.queued, true) {
            ready.push_back(self.partition.id());
        }
    }

    /// What the follower does not know yet; none if it knows all.
    fn pushed(&mut self, batches: Vec<Batch>) -> Option<pb::Pushed> {
        let (committed, start) = (self.partition.committed(), self.partition.log().start());
        let positions = self.partition.positions_since(self.positions_sent);
        let news = !batches.is_empty()
            || committed > self.committed_sent
            || start > self.start_sent
            || positions.version > self.positions_sent
            || self.ping > 0;
        if !news {
            return None;
        }
        (self.committed_sent, self.start_sent, self.positions_sent) = (committed, start, positions.version);
        Some(pb::Pushed {
            handle: self.handle,
            batches: batches.iter().map(wire::batch_to_wire).collect(),
            committed: committed.0,
            start: start.0,
            positions: positions.positions,
            positions_version: positions.version,
            ping: std::mem::take(&mut self.ping),
        })
    }
}

enum Read {
    Batches(Vec<Batch>),
    /// What is next is not for this stream.
    OtherStream(Reason),
    Failed(String),
}

async fn read(node: &Node, kind: StreamKind, partition: &Partition, next: Offset, bytes_max: u32) -> Read {
    let log = partition.log();
    if next >= log.end() && kind == StreamKind::InSync {
        return Read::Batches(Vec::new());
    }
    match (log.read_cached(next, Offset::MAX, bytes_max), kind) {
        (Some(batches), StreamKind::InSync) => Read::Batches(batches),
        (None, StreamKind::InSync) => Read::OtherStream(Reason::Behind),
        (Some(_), StreamKind::CatchUp) => Read::OtherStream(Reason::CaughtUp),
        (None, StreamKind::CatchUp) => {
            let log = Arc::clone(log);
            match node.disk_reads.run(move || log.read(next, Offset::MAX, bytes_max)).await {
                Ok(Ok(batches)) => Read::Batches(batches),
                // It begins anew at the start.
                Ok(Err(error @ ReadError::Trimmed { .. })) => Read::Failed(error.to_string()),
                Ok(Err(error)) => Read::Failed(error.to_string()),
                Err(error) => Read::Failed(error.to_string()),
            }
        }
    }
}

fn credit(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

//! The follower's end: one task for each leader and stream.
//!
//! It dials, names the partitions that it follows there, takes what is pushed into their logs, and reports what is durable,
//! once per group of the WAL. When the log has no room the leader is not read from; when the connection breaks, all handshakes
//! begin anew on the next one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use goulette_log::AppendError;
use goulette_logging::{debug, info, warn};
use goulette_proto::{
    PROTOCOL_VERSION,
    pb::{self, dismissed::Reason, replication_client::ReplicationClient},
};
use goulette_replication::{Cut, FollowError, FromFollower, FromLeader, Refused, Stream, ToFollower, ToLeader};
use goulette_types::{BrokerId, ErrorKind, LeaderEpoch, Offset, PartitionId};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{PeerAddress, StreamKind, outbox::Outbox, wire};
use crate::{
    lifecycle::StopSignal,
    node::Node,
    partition::{Partition, Untaken},
    sentinel_link::endpoint,
};

const OPEN_DEADLINE: Duration = Duration::from_secs(3);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The pause before a full log is asked again.
const LOG_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of batches that the leader may have under way to us.
const CREDIT_BYTES: u64 = 16 << 20;
/// Credit is given back in pieces of at least so much.
const CREDIT_STEP: u64 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What partitions want of a link.
pub(super) enum Wish {
    /// To follow here, with a new handshake.
    Follow(Arc<Partition>),
    Say(PartitionId, ToLeader),
    /// The positions of a version are durable.
    Positions(PartitionId, u64),
    /// Something from the leader could not be stored: the handshakes are to begin anew.
    Broken,
}

/// Keeps a stream to a leader while any partition follows there, until the broker stops.
pub(super) async fn run(node: Arc<Node>, leader: BrokerId, kind: StreamKind, wishes: Arc<Outbox<Wish>>) {
    let mut link = Link { stop: node.lifecycle.signal(), node, leader, kind, wishes, members: HashMap::new() };
    let mut backoff = BACKOFF_FIRST;
    loop {
        if !link.wait_for_members().await {
            return;
        }
        match link.session().await {
            End::Stopping => return,
            End::Lost { reason, opened } => {
                debug!("the {:?} stream to broker {} ended: {reason}", link.kind, link.leader);
                backoff = if opened { BACKOFF_FIRST } else { (backoff * 2).min(BACKOFF_MAX) };
            }
        }
        tokio::select! {
            () = link.stop.stopping() => return,
            () = sleep(backoff) => {}
        }
    }
}

struct Link {
    node: Arc<Node>,
    stop: StopSignal,
    leader: BrokerId,
    kind: StreamKind,
    wishes: Arc<Outbox<Wish>>,
    members: HashMap<PartitionId, Arc<Partition>>,
}

enum End {
    Stopping,
    Lost { reason: String, opened: bool },
}

impl Link {
    /// Waits until a partition follows here; false when the broker stops.
    async fn wait_for_members(&mut self) -> bool {
        loop {
            let (leader, kind) = (self.leader.clone(), self.kind);
            self.members.retain(|_, partition| partition.follows(&leader) && partition.stream_kind() == kind);
            if !self.members.is_empty() {
                return !self.stop.is_stopping();
            }
            let wishes = tokio::select! {
                () = self.stop.stopping() => return false,
                wishes = self.wishes.take() => wishes,
            };
            for wish in wishes {
                if let Wish::Follow(partition) = wish {
                    self.members.insert(partition.id(), partition);
                }
            }
        }
    }

    async fn session(&mut self) -> End {
        let lost = |reason: String| End::Lost { reason, opened: false };
        let Some(at) = self.node.hub.address(&self.leader) else {
            return lost("nobody has said where it is".to_owned());
        };
        let (requests, outbound) = mpsc::channel(16);
        let hello =
            pb::ReplicateRequest { hello: Some(self.hello(&at)), credit_bytes: CREDIT_BYTES, ..Default::default() };
        let _ = requests.try_send(hello);
        let opened = tokio::select! {
            () = self.stop.stopping() => return End::Stopping,
            opened = timeout(OPEN_DEADLINE, open(&at.address, outbound)) => opened,
        };
        let inbound = match opened {
            Ok(Ok(inbound)) => inbound,
            Ok(Err((kind, reason))) => {
                if matches!(kind, ErrorKind::Unsupported | ErrorKind::Conflict) {
                    warn!("broker {} at {} does not let this one follow: {reason}", self.leader, at.address);
                }
                return lost(reason);
            }
            Err(_) => return lost("no answer".to_owned()),
        };
        let stream = self.node.hub.number_stream();
        // What was wanted of the stream before is wanted of this one.
        for wish in self.wishes.drain() {
            if let Wish::Follow(partition) = wish {
                self.members.insert(partition.id(), partition);
            }
        }
        self.node.hub.open_pull(stream, Arc::clone(&self.wishes));
        info!(
            "follows broker {} at {} on the {:?} stream, in {} partitions",
            self.leader,
            at.address,
            self.kind,
            self.members.len()
        );
        let mut session = Session {
            link: self,
            stream,
            requests,
            next_handle: 1,
            handles: HashMap::new(),
            seats: HashMap::new(),
            owed_credit: 0,
        };
        let end = session.run(inbound).await;
        self.node.hub.close_pull(stream);
        for partition in self.members.values() {
            partition.stream_closed(&self.leader, stream);
        }
        end
    }

    fn hello(&self, at: &PeerAddress) -> pb::Hello {
        let (node, identity) = (&self.node, self.node.identity());
        pb::Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: identity.cluster.map(|id| id.to_bytes().to_vec()).unwrap_or_default().into(),
            broker: node.options().id.to_string(),
            incarnation: node.incarnation.to_bytes().to_vec().into(),
            storage_id: node.hub.member().storage.to_bytes().to_vec().into(),
            stream: pb::ReplicationStream::from(self.kind).into(),
            leader: self.leader.to_string(),
            leader_incarnation: at.incarnation.to_bytes().to_vec().into(),
        }
    }
}

async fn open(
    address: &str,
    outbound: mpsc::Receiver<pb::ReplicateRequest>,
) -> Result<Streaming<pb::ReplicateResponse>, (ErrorKind, String)> {
    let endpoint = endpoint(address).ok_or_else(|| (ErrorKind::Invalid, format!("{address} cannot be dialled")))?;
    let endpoint = endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|error| (ErrorKind::Unavailable, error.to_string()))?;
    let mut client = ReplicationClient::new(channel).max_decoding_message_size(wire::MESSAGE_BYTES_MAX);
    let response = client.replicate(ReceiverStream::new(outbound)).await;
    let refused = |status: tonic::Status| (goulette_proto::status::kind_of(&status), status.message().to_owned());
    let mut inbound = response.map_err(refused)?.into_inner();
    match inbound.message().await.map_err(refused)? {
        Some(pb::ReplicateResponse { welcome: Some(_), .. }) => Ok(inbound),
        _ => Err((ErrorKind::Internal, "it does not answer as a broker does".to_owned())),
    }
}

/// One stream that stands.
struct Session<'a> {
    link: &'a mut Link,
    stream: Stream,
    requests: mpsc::Sender<pb::ReplicateRequest>,
    next_handle: u32,
    handles: HashMap<u32, Arc<Partition>>,
    seats: HashMap<PartitionId, Seat>,
    /// Credit that was used up and not given back.
    owed_credit: u64,
}

/// A partition on this stream.
struct Seat {
    handle: u32,
    /// Of the handshake that began last.
    epoch: LeaderEpoch,
    /// The version of the positions that are durable.
    positions: u64,
    /// The end that was reported last in this handshake; none before it is confirmed.
    reported: Option<Offset>,
}

impl Session<'_> {
    async fn run(&mut self, mut inbound: Streaming<pb::ReplicateResponse>) -> End {
        let mut stop = self.link.node.lifecycle.signal();
        let wishes = Arc::clone(&self.link.wishes);
        let mut request = pb::ReplicateRequest::default();
        for partition in self.link.members.values().cloned().collect::<Vec<_>>() {
            self.sit(partition, &mut request);
        }
        let lost = |reason: String| End::Lost { reason, opened: true };
        loop {
            if request != pb::ReplicateRequest::default() {
                let sent = tokio::select! {
                    () = stop.stopping() => return End::Stopping,
                    sent = self.requests.send(std::mem::take(&mut request)) => sent,
                };
                if sent.is_err() {
                    return lost("it takes nothing more".to_owned());
                }
            }
            tokio::select! {
                biased;
                () = stop.stopping() => return End::Stopping,
                wishes = wishes.take() => for wish in wishes {
                    match wish {
                        Wish::Follow(partition) => {
                            self.link.members.insert(partition.id(), Arc::clone(&partition));
                            self.sit(partition, &mut request);
                        }
                        Wish::Say(id, message) => self.say(id, message, &mut request),
                        Wish::Positions(id, version) => self.report_positions(id, version, &mut request),
                        Wish::Broken => return lost("something from the leader could not be stored".to_owned()),
                    }
                },
                frame = inbound.message() => match frame {
                    Ok(Some(frame)) => if let Err(reason) = self.take(frame, &mut stop, &mut request).await {
                        return lost(reason);
                    },
                    Ok(None) => return lost("it ended the stream".to_owned()),
                    Err(status) => return lost(status.message().to_owned()),
                },
            }
        }
    }

    /// Begins a handshake for a partition.
    fn sit(&mut self, partition: Arc<Partition>, request: &mut pb::ReplicateRequest) {
        if !partition.follows(&self.link.leader) || partition.stream_kind() != self.link.kind {
            return;
        }
        let id = partition.id();
        let handle = self.next_handle;
        self.next_handle += 1;
        if let Some(seat) = self.seats.insert(id, Seat { handle, epoch: LeaderEpoch(0), positions: 0, reported: None })
        {
            self.handles.remove(&seat.handle);
            request.leave.push(seat.handle);
        }
        self.handles.insert(handle, Arc::clone(&partition));
        partition.stream_opened(self.stream);
    }

    fn say(&mut self, id: PartitionId, message: ToLeader, request: &mut pb::ReplicateRequest) {
        if message.stream != self.stream {
            return;
        }
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let handle = seat.handle;
        match message.body {
            FromFollower::Hello { last, .. } => {
                (seat.epoch, seat.reported) = (message.leader_epoch, None);
                let start = self.handles.get(&handle).map_or(0, |partition| partition.log().start().0);
                request.follow.push(pb::Follow {
                    handle,
                    topic_id: id.topic.to_bytes().to_vec().into(),
                    partition: id.index.0,
                    leader_epoch: message.leader_epoch.0,
                    last: Some(wire::epoch_end(last)),
                    start,
                });
            }
            FromFollower::Confirm { end } => {
                seat.reported = Some(end);
                request.joined.push(pb::Joined { handle, end: end.0 });
            }
            FromFollower::Durable { end } => {
                seat.reported = Some(end);
                let durable = pb::Durable { handle, end: end.0, positions: seat.positions, pong: 0 };
                // Only the last one counts.
                match request.durable.last_mut().filter(|last| last.handle == handle && last.pong == 0) {
                    Some(last) => *last = durable,
                    None => request.durable.push(durable),
                }
            }
            FromFollower::Pong { round } => {
                let Some(end) = seat.reported else { return };
                request.durable.push(pb::Durable { handle, end: end.0, positions: seat.positions, pong: round });
            }
        }
    }

    fn report_positions(&mut self, id: PartitionId, version: u64, request: &mut pb::ReplicateRequest) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        seat.positions = seat.positions.max(version);
        // Before the handshake is confirmed the log may end where it is still to be cut: that is no end to report.
        let Some(end) = seat.reported else { return };
        request.durable.push(pb::Durable { handle: seat.handle, end: end.0, positions: seat.positions, pong: 0 });
    }

    async fn take(
        &mut self,
        frame: pb::ReplicateResponse,
        stop: &mut StopSignal,
        request: &mut pb::ReplicateRequest,
    ) -> Result<(), String> {
        for dismissed in frame.dismissed {
            self.dismissed(&dismissed);
        }
        for cut in frame.cuts {
            self.cut(cut)?;
        }
        for pushed in frame.pushed {
            self.owed_credit +=
                pushed.batches.iter().map(|batch| (batch.header.len() + batch.records.len()) as u64).sum::<u64>();
            self.pushed(pushed, stop).await?;
        }
        if self.owed_credit >= CREDIT_STEP {
            request.credit_bytes += std::mem::take(&mut self.owed_credit);
        }
        Ok(())
    }

    /// The partition of a handle that is in use, and the epoch of its handshake.
    fn seat(&self, handle: u32) -> Option<(Arc<Partition>, LeaderEpoch)> {
        let partition = self.handles.get(&handle)?;
        let seat = self.seats.get(&partition.id())?;
        Some((Arc::clone(partition), seat.epoch))
    }

    fn dismissed(&mut self, dismissed: &pb::Dismissed) {
        let Some((partition, leader_epoch)) = self.seat(dismissed.handle) else { return };
        self.handles.remove(&dismissed.handle);
        self.seats.remove(&partition.id());
        match wire::refused(dismissed.reason(), leader_epoch) {
            Some(why) => {
                if !matches!(why, Refused::OtherEpoch { .. }) {
                    info!("broker {} dismisses {partition} as a follower: {}", self.link.leader, dismissed.message);
                }
                let (stream, body) = (self.stream, FromLeader::Refused(why));
                partition.hear_leader(ToFollower { stream, leader_epoch, body });
            }
            None => {
                self.link.members.remove(&partition.id());
                let behind = dismissed.reason() == Reason::Behind;
                let kind = if behind { StreamKind::CatchUp } else { StreamKind::InSync };
                partition.change_stream(&self.link.leader, self.stream, kind);
            }
        }
    }

    /// The leader says where to cut. First the positions that come with it are stored: a follower that has joined has them.
    fn cut(&self, cut: pb::Cut) -> Result<(), String> {
        let Some((partition, leader_epoch)) = self.seat(cut.handle) else { return Ok(()) };
        let (start, end) = (wire::offset(cut.start), wire::offset(cut.end));
        let answer = Cut { shared: cut.common.as_ref().map(wire::log_end), start, end };
        let message = ToFollower { stream: self.stream, leader_epoch, body: FromLeader::Cut(answer) };
        let (wishes, version) = (Arc::clone(&self.link.wishes), cut.positions_version);
        let told = Arc::clone(&partition);
        store(&partition, &cut.positions, &self.link.wishes, move || {
            wishes.push(Wish::Positions(told.id(), version));
            told.hear_leader(message);
        })
    }

    async fn pushed(&mut self, pushed: pb::Pushed, stop: &mut StopSignal) -> Result<(), String> {
        let Some((partition, leader_epoch)) = self.seat(pushed.handle) else { return Ok(()) };
        let batches = wire::batches(pushed.batches).map_err(|error| format!("a batch of {partition}: {error}"))?;
        let mut left = &batches[..];
        while !left.is_empty() {
            let (taken, untaken) = partition.follow(self.stream, leader_epoch, left);
            left = &left[taken..];
            match untaken {
                None => {}
                // Another handshake is under way: what was sent before it is not wanted any more.
                Some(Untaken::Follow(FollowError::NotFollowing | FollowError::OtherEpoch { .. })) => return Ok(()),
                Some(Untaken::Follow(error)) => return Err(format!("{partition}: {error}")),
                Some(Untaken::Append(AppendError::Busy | AppendError::StorageFull { .. })) => tokio::select! {
                    () = stop.stopping() => return Ok(()),
                    () = sleep(LOG_PAUSE) => {}
                },
                Some(Untaken::Append(AppendError::Deleted(_))) => return Ok(()),
                Some(Untaken::Append(error)) => return Err(format!("{partition}: {error}")),
            }
        }
        if !pushed.positions.is_empty() {
            let (wishes, id, version) = (Arc::clone(&self.link.wishes), partition.id(), pushed.positions_version);
            store(&partition, &pushed.positions, &self.link.wishes, move || wishes.push(Wish::Positions(id, version)))?;
        }
        let said = |body| ToFollower { stream: self.stream, leader_epoch, body };
        partition.hear_leader(said(FromLeader::Committed(wire::offset(pushed.committed))));
        if pushed.ping > 0 {
            partition.hear_leader(said(FromLeader::Ping { round: pushed.ping }));
        }
        partition.follow_start(wire::offset(pushed.start));
        Ok(())
    }
}

/// Stores groups' positions, and does something when all of them are durable; at once if there are none.
fn store(
    partition: &Arc<Partition>,
    positions: &[pb::Position],
    wishes: &Arc<Outbox<Wish>>,
    then: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    let log = partition.log();
    let mut wanted = Vec::new();
    for position in positions {
        let group = position.group.parse().map_err(|error| format!("a group's name: {error}"))?;
        let offset = wire::offset(position.offset);
        if log.position(&group) != Some(offset) {
            wanted.push((group, offset));
        }
    }
    if wanted.is_empty() {
        then();
        return Ok(());
    }
    let left = Arc::new(AtomicUsize::new(wanted.len()));
    let then = Arc::new(std::sync::Mutex::new(Some(then)));
    for (group, offset) in wanted {
        let (left, then, wishes) = (Arc::clone(&left), Arc::clone(&then), Arc::clone(wishes));
        log.commit_position(
            &group,
            offset,
            Box::new(move |stored| match stored {
                Ok(()) => {
                    if left.fetch_sub(1, Ordering::AcqRel) == 1
                        && let Some(then) = crate::sync::lock(&then).take()
                    {
                        then();
                    }
                }
                Err(_) => wishes.push(Wish::Broken),
            }),
        );
    }
    Ok(())
}

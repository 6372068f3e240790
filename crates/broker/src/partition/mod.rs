//! A partition as the broker sees it: its log, its place among the replicas, and up to where it may be read.
//!
//! What is right is decided by the core of `goulette-replication`; here it has its shell: one lock a partition, taken once a
//! batch by who appends and once a group by the WAL's thread. What the core orders is carried out under the lock, and so in
//! order; nothing of it waits.

mod effects;
mod positions;
mod view;

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use goulette_log::{AppendError, Placed, Retention};
use goulette_proto::pb;
use goulette_records::Batch;
use goulette_replication::{
    BatchFacts, Effect, EpochStart, Epochs, FollowError, LogView, Outcome, PartitionState, ProduceRefusal, Replica,
    Report, Role, Stream, ToFollower, ToLeader, Waiters,
};
use goulette_types::{Acks, BrokerId, GroupName, LeaderEpoch, Offset, PartitionId, TopicName};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use positions::Positions;
pub(crate) use positions::Snapshot;
pub(crate) use view::View;

use crate::{
    budget::Charge,
    error::RequestError,
    replication::{Feed, Hub, StreamKind},
    sync::lock,
    topic_settings::TopicSettings,
};

/// How long a request waits for a new leader to know what is committed, or to hear that it leads still.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// Hears once what became of a batch. It must not block, and must not ask the partition anything.
pub(crate) type Answer = Box<dyn FnOnce(Result<Stored, RequestError>) + Send>;

/// A batch that has reached the level that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The first record's offset; none for a duplicate whose place is forgotten.
    pub(crate) base_offset: Option<Offset>,
    pub(crate) duplicate: bool,
    /// The level reached.
    pub(crate) acks: Acks,
}

/// A partition that this broker holds.
pub(crate) struct Partition {
    log: Arc<goulette_log::Partition>,
    hub: Arc<Hub>,
    /// Itself, for what is carried out later.
    me: Weak<Partition>,
    core: Mutex<Core>,
    view: watch::Sender<View>,
    /// How many partitions the topic has, as the newest assignment says; 0 before the first.
    topic_partitions: AtomicU32,
}

struct Core {
    replica: Replica,
    waiters: Waiters<Waiting>,
    /// The followers that are fed.
    feeds: Vec<Arc<Feed>>,
    positions: Positions,
    /// Reads that wait to be known as fresh, with their numbers.
    fresh: Vec<(goulette_replication::FreshRead, oneshot::Sender<()>)>,
    /// What the topic keeps while the partition is led here.
    retention: Retention,
    /// On which of the two streams it follows, or would.
    kind: StreamKind,
    /// How often in a row the leader that it follows has refused it.
    refusals: u32,
}

struct Waiting {
    base_offset: Option<Offset>,
    duplicate: bool,
    answer: Answer,
}

/// Why a leader's batch is not taken.
#[derive(Debug)]
pub(crate) enum Untaken {
    /// By the partition's place in the protocol.
    Follow(FollowError),
    /// By the log.
    Append(AppendError),
}

impl Partition {
    /// Looks after a partition of the log; it has no role before the first assignment.
    pub(crate) fn new(log: Arc<goulette_log::Partition>, hub: &Arc<Hub>) -> Arc<Self> {
        let (start, end, committed) = (log.start(), log.end(), log.noted_committed());
        let entries = log.epochs().into_iter().map(|entry| EpochStart { epoch: entry.epoch, start: entry.start });
        let epochs = Epochs::new(entries.collect()).expect("a log's epochs rise");
        let seen = LogView::opened(start, end, committed, epochs);
        let replica = Replica::new(hub.member().clone(), hub.incarnation(), seen, hub.replica_options());
        let (view, _) = watch::channel(View::new(replica.log().committed));
        let partition = Arc::new_cyclic(|me| Self {
            log,
            hub: Arc::clone(hub),
            me: Weak::clone(me),
            core: Mutex::new(Core {
                replica,
                waiters: Waiters::new(LeaderEpoch(0)),
                feeds: Vec::new(),
                positions: Positions::default(),
                fresh: Vec::new(),
                retention: Retention::FOREVER,
                kind: StreamKind::InSync,
                refusals: 0,
            }),
            view,
            topic_partitions: AtomicU32::new(0),
        });
        let listener = Weak::clone(&partition.me);
        partition.log.set_listener(Arc::new(move |end| {
            if let Some(partition) = listener.upgrade() {
                partition.durable(end);
            }
        }));
        partition
    }

    pub(crate) fn id(&self) -> PartitionId {
        self.log.id()
    }

    pub(crate) fn topic(&self) -> &TopicName {
        self.log.topic_name()
    }

    /// The log. Nobody writes batches to it but through the partition.
    pub(crate) fn log(&self) -> &Arc<goulette_log::Partition> {
        &self.log
    }

    /// How many partitions the topic has; known of a partition that is led here.
    pub(crate) fn topic_partitions(&self) -> u32 {
        self.topic_partitions.load(Ordering::Relaxed)
    }

    pub(crate) fn set_topic_partitions(&self, partitions: u32) {
        self.topic_partitions.store(partitions, Ordering::Relaxed);
    }

    /// Has the topic's settings in force; what is kept is the leader's affair alone.
    pub(crate) fn set_settings(&self, settings: &TopicSettings, own: goulette_log::Roll) {
        self.log.set_roll(settings.roll(own));
        let mut core = lock(&self.core);
        core.retention = settings.retention();
        if core.replica.role() == Role::Leader {
            self.log.set_retention(core.retention);
        }
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    // Metadata.

    /// Takes the partition's metadata, if it is newer than all that came before.
    pub(crate) fn assign(&self, state: PartitionState) {
        self.act(|core, now, effects| core.replica.update(now, state, effects));
    }

    /// Takes what the sentinel answered to a proposal; another leader's state comes as an assignment.
    pub(crate) fn settle_isr(&self, answer: &pb::IsrState) {
        self.act(|core, now, effects| {
            let Some(known) = core.replica.state().filter(|known| known.leader_epoch.0 == answer.leader_epoch) else {
                return;
            };
            match crate::assignment::with_isr(known.clone(), answer) {
                Ok(state) => core.replica.update(now, state, effects),
                Err(reason) => goulette_logging::warn!("an answer from the sentinel is ignored: {reason}"),
            }
        });
    }

    /// Leads and follows no longer, until a newer leader epoch comes.
    pub(crate) fn resign(&self) {
        self.act(|core, _, effects| {
            core.replica.step_down(effects);
        });
    }

    /// Ends all streams of this partition: its topic has been deleted.
    pub(crate) fn delete(&self) {
        self.view.send_modify(View::delete);
        self.resign();
    }

    /// What a sentinel is told of it at registration: with it the answer to a doubt, if there is one.
    pub(crate) fn held(&self) -> pb::Held {
        self.act(|core, _, _| {
            let report = core.replica.report();
            let (leader_epoch, partition_epoch) = core.replica.seen();
            let (mut held, log) = (self.named(), core.replica.log());
            (held.leader_epoch, held.partition_epoch) = (leader_epoch.0, partition_epoch.0);
            (held.log_epoch, held.end) = (log.epochs.last().0, log.durable.0);
            match report {
                Report::Ready(reported) => {
                    held.reported = true;
                    (held.doubt_leader_epoch, held.doubt_partition_epoch) =
                        (reported.answers.0.0, reported.answers.1.0);
                }
                // It is asked for again.
                Report::NotSettled => self.hub.register_anew(),
                Report::NotWanted => {}
            }
            held
        })
    }

    fn named(&self) -> pb::Held {
        pb::Held {
            topic_id: self.id().topic.to_bytes().to_vec().into(),
            topic: self.topic().to_string(),
            partition: self.id().index.0,
            ..Default::default()
        }
    }

    /// Whether another in-sync replica could lead it instead.
    pub(crate) fn has_successor(&self) -> bool {
        let core = lock(&self.core);
        core.replica.leader().is_some_and(|leader| leader.state().isr.len() > 1)
    }

    /// Others that may have what this one has lost: the leader, or the followers that are in sync.
    pub(crate) fn peers(&self) -> Vec<BrokerId> {
        let core = lock(&self.core);
        let Some(state) = core.replica.state() else { return Vec::new() };
        let leader = state.leader.iter().map(|leader| &leader.broker);
        let all = leader.chain(state.isr.iter().map(|member| &member.broker));
        let mut peers: Vec<BrokerId> = all.filter(|broker| **broker != self.hub.member().broker).cloned().collect();
        peers.dedup();
        peers
    }

    /// Time has passed.
    pub(crate) fn tick(&self) {
        let start = self.log.start();
        self.act(|core, now, effects| {
            if core.replica.log().start < start {
                core.replica.trimmed(start);
            }
            core.replica.tick(now, effects);
        });
    }

    // Leading.

    /// The epoch in which the partition is led here.
    ///
    /// # Errors
    /// Not led here, or deleted.
    pub(crate) fn led(&self) -> Result<LeaderEpoch, RequestError> {
        self.view.borrow().led(self)
    }

    /// As [`led`](Self::led), for a caller that believes in an epoch; 0 believes in any.
    ///
    /// # Errors
    /// As [`led`](Self::led); and when the epoch is another one, as the caller's route is old (or ours is).
    pub(crate) fn led_in(&self, believed: LeaderEpoch) -> Result<LeaderEpoch, RequestError> {
        let current = self.led()?;
        if believed != LeaderEpoch(0) && believed != current {
            return Err(RequestError::OtherEpoch { partition: self.to_string(), believed, current });
        }
        Ok(current)
    }

    /// Appends a producer's batch as the leader, and has `answer` told when `acks` is reached; at once, if nothing is to be
    /// reached. `charge` is held until the batch is durable here.
    ///
    /// # Errors
    /// Nothing was stored; the answer comes back untold.
    pub(crate) fn append(
        &self,
        believed: LeaderEpoch,
        acks: Acks,
        batch: Batch,
        charge: Arc<Charge>,
        answer: Answer,
    ) -> Result<(), (Answer, RequestError)> {
        let mut core = lock(&self.core);
        let epoch = match self.admit(&core, acks == Acks::All).and_then(|_| self.led_in(believed)) {
            Ok(epoch) => epoch,
            Err(refusal) => return Err((answer, refusal)),
        };
        // A batch that fails on its way has poisoned the engine, and that ends the leadership and all who wait.
        let placed = self.log.place(epoch, batch, Box::new(move |_| drop(charge)));
        let (end, waiting) = match placed {
            Ok(Placed::New(offsets)) => {
                let noted = core.replica.appended(offsets.start, offsets.end);
                assert!(noted, "the core knows of all that was appended");
                let waiting = Waiting { base_offset: Some(offsets.start), duplicate: false, answer };
                (offsets.end, waiting)
            }
            Ok(Placed::Duplicate { base_offset, durable_with }) => {
                (durable_with.plus(1), Waiting { base_offset, duplicate: true, answer })
            }
            Err(refusal) => return Err((answer, refusal.into())),
        };
        match core.waiters.wait(epoch, acks, end, waiting) {
            Ok(()) if core.replica.log().durable >= end => self.tell_reached(&mut core),
            Ok(()) => {}
            Err((outcome, waiting)) => waiting.tell(outcome, self),
        }
        Ok(())
    }

    fn admit(&self, core: &Core, all: bool) -> Result<LeaderEpoch, RequestError> {
        let epoch = core.replica.admit(all).map_err(|refusal| match refusal {
            ProduceRefusal::NotLeader => self.led().err().unwrap_or_else(|| self.not_leader()),
            ProduceRefusal::NotEnoughReplicas { in_sync, minimum } => {
                RequestError::NotEnoughReplicas { partition: self.to_string(), in_sync, minimum }
            }
        })?;
        let succeeded = core.replica.leader().is_some_and(|leader| leader.state().isr.len() > 1);
        if self.hub.hands_over() && succeeded {
            return Err(self.not_leader());
        }
        Ok(epoch)
    }

    fn not_leader(&self) -> RequestError {
        RequestError::NotLeader { partition: self.to_string() }
    }

    /// How many batches wait for their level.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.core).waiters.len()
    }

    /// All below is durable on every in-sync replica: the end that consumers see. Never behind an ack of level `all`.
    pub(crate) fn committed(&self) -> Offset {
        self.view.borrow().committed
    }

    /// Waits until the leader knows all that earlier leaders may have acknowledged, and nobody else can have been elected
    /// since the call: then what it says of its end and of positions is fresh.
    ///
    /// # Errors
    /// Not led here, or not known in time.
    pub(crate) async fn fresh(&self) -> Result<(), RequestError> {
        let fresh = self.act(|core, _, effects| {
            // Alone it is the only one who could be elected.
            if core.replica.leader().is_some_and(|leader| leader.state().replicas.len() == 1) {
                return Ok(None);
            }
            let read = core.replica.fresh_read(effects).ok_or_else(|| self.not_leader())?;
            let (tell, fresh) = oneshot::channel();
            core.fresh.push((read, tell));
            Ok::<_, RequestError>(Some(fresh))
        })?;
        let Some(fresh) = fresh else { return Ok(()) };
        match timeout(SETTLE_DEADLINE, fresh).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.not_leader()),
            Err(_) => Err(RequestError::NotFresh { partition: self.to_string() }),
        }
    }

    /// Stores a group's position on every in-sync replica.
    ///
    /// # Errors
    /// Not led here, too few in sync, or the outcome is unknown.
    pub(crate) async fn commit_position(
        self: &Arc<Self>,
        group: &GroupName,
        position: Offset,
    ) -> Result<(), RequestError> {
        let epoch = self.admit(&lock(&self.core), true)?;
        let (tell, outcome) = oneshot::channel();
        let (partition, named) = (Arc::clone(self), group.clone());
        self.log.commit_position(
            group,
            position,
            Box::new(move |stored| {
                // Whoever asked may have gone away; the position is stored all the same.
                match stored {
                    Ok(()) => partition.position_stored(epoch, named, tell),
                    Err(error) => _ = tell.send(Err(error.into())),
                }
            }),
        );
        outcome.await.unwrap_or_else(|_| Err(self.leadership_lost()))
    }

    fn position_stored(&self, epoch: LeaderEpoch, group: GroupName, tell: positions::Tell) {
        self.act(|core, _, _| {
            if core.replica.leader().is_some_and(|leader| leader.epoch() == epoch) {
                core.positions.stored(group, tell);
                core.feeds.iter().for_each(Feed::mark);
            }
        });
    }

    fn leadership_lost(&self) -> RequestError {
        RequestError::LeadershipLost { partition: self.to_string() }
    }

    /// What a follower must know of the groups' positions that has those of version `since`.
    pub(crate) fn positions_since(&self, since: u64) -> Snapshot {
        lock(&self.core).positions.since(since, &self.log)
    }

    /// A follower has the positions up to a version.
    pub(crate) fn positions_reported(&self, feed: &Feed, version: u64) {
        if feed.report_positions(version) {
            self.act(|_, _, _| {});
        }
    }

    /// A follower says something.
    pub(crate) fn hear_follower(&self, broker: &BrokerId, message: ToLeader) {
        self.act(|core, now, effects| core.replica.from_follower(now, broker, message, effects));
    }

    // Following.

    /// Whether it follows this broker.
    pub(crate) fn follows(&self, leader: &BrokerId) -> bool {
        lock(&self.core).replica.follows().is_some_and(|follows| follows.broker == *leader)
    }

    /// On which of the two streams it follows, or would.
    pub(crate) fn stream_kind(&self) -> StreamKind {
        lock(&self.core).kind
    }

    /// Follows on the other stream from now on, if it follows at all.
    pub(crate) fn change_stream(&self, leader: &BrokerId, closed: Stream, kind: StreamKind) {
        self.act(|core, _, effects| {
            core.replica.stream_closed(leader, closed);
            core.kind = kind;
            if let Some(leader) = core.replica.follows() {
                effects.push(Effect::Follow { leader: leader.broker.clone() });
            }
        });
    }

    pub(crate) fn stream_opened(&self, stream: Stream) {
        self.act(|core, _, effects| core.replica.stream_opened(stream, effects));
    }

    /// A stream broke, whoever followed on it.
    pub(crate) fn stream_closed(&self, peer: &BrokerId, stream: Stream) {
        self.act(|core, _, _| {
            core.replica.stream_closed(peer, stream);
            core.feeds.retain(|feed| feed.stream() != stream);
        });
    }

    /// The leader says something.
    pub(crate) fn hear_leader(&self, message: ToFollower) {
        self.act(|core, _, effects| core.replica.from_leader(message, effects));
    }

    /// Takes batches from the leader, one after the other; returns how many were taken, and why not the next one.
    pub(crate) fn follow(&self, stream: Stream, epoch: LeaderEpoch, batches: &[Batch]) -> (usize, Option<Untaken>) {
        let mut core = lock(&self.core);
        for (taken, batch) in batches.iter().enumerate() {
            let (base, end) = (batch.base_offset(), batch.next_offset());
            let facts = BatchFacts { base, end, epoch: batch.leader_epoch().unwrap_or_default() };
            if let Err(error) = core.replica.takes(stream, epoch, &facts) {
                return (taken, Some(Untaken::Follow(error)));
            }
            if let Err(error) = self.log.append_replica(batch.clone()) {
                return (taken, Some(Untaken::Append(error)));
            }
            if let Err(error) = core.replica.offer(stream, epoch, &facts) {
                unreachable!("asked under the same lock: {error}");
            }
        }
        (batches.len(), None)
    }

    /// The leader's log starts at `start`: so does this one, as far as whole fragments go.
    pub(crate) fn follow_start(self: &Arc<Self>, start: Offset) {
        if self.log.start() < start {
            let partition = Arc::clone(self);
            self.hub.run_blocking(move || {
                // Said again with the next frame.
                let _ = partition.log.advance_start(start);
            });
        }
    }

    // Reading.

    /// Follows the view from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    // The shell.

    /// The log's durable end has risen. On the WAL's thread, once per group.
    fn durable(&self, end: Offset) {
        self.act(|core, now, effects| {
            core.replica.durable(now, end, effects);
            core.feeds.iter().for_each(Feed::mark);
        });
    }

    /// Takes one step of the core and carries out what it orders.
    fn act<T>(&self, step: impl FnOnce(&mut Core, Duration, &mut Vec<Effect>) -> T) -> T {
        let mut core = lock(&self.core);
        let mut effects = Vec::new();
        let outcome = step(&mut core, self.hub.now(), &mut effects);
        for effect in effects {
            self.carry_out(&mut core, effect);
        }
        self.tell_reached(&mut core);
        outcome
    }

    /// Answers those whose level is reached.
    fn tell_reached(&self, core: &mut Core) {
        if !core.waiters.is_empty() {
            let (durable, committed) = (core.replica.log().durable, core.replica.log().committed);
            for (outcome, waiting) in core.waiters.reached(durable, committed) {
                waiting.tell(outcome, self);
            }
        }
        if let Some(leader) = core.replica.leader()
            && core.positions.has_waiters()
        {
            let others =
                leader.state().isr.iter().chain(leader.proposed()).filter(|member| *member != self.hub.member());
            let held = others.map(|member| {
                let feed = core.feeds.iter().find(|feed| *feed.broker() == member.broker);
                feed.map_or(0, |feed| feed.positions())
            });
            let held = held.min().unwrap_or(u64::MAX);
            core.positions.reached(held);
        }
    }
}

impl Waiting {
    fn tell(self, outcome: Outcome, partition: &Partition) {
        let Self { base_offset, duplicate, answer } = self;
        answer(match outcome {
            Outcome::Reached(acks) => Ok(Stored { base_offset, duplicate, acks }),
            Outcome::Unknown => Err(partition.leadership_lost()),
        });
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.topic(), self.id().index)
    }
}

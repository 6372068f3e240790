//! A partition as the broker sees it: its log, its place among the replicas, and up to where it may be read.
//!
//! What is right is decided by the core of `goulette-replication`; here it has its shell: one lock a partition, taken once a
//! batch by who appends and once a group by the WAL's thread. What the core orders is carried out under the lock, and so in
//! order; nothing of it waits. In `metadata`, `leading` and `following` are the steps, in `effects` what they bring about.

mod effects;
mod following;
mod leading;
mod metadata;
mod positions;
mod view;

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use goulette_log::Retention;
use goulette_replication::{Effect, EpochStart, Epochs, LogView, Outcome, Replica, Role, Waiters};
use goulette_types::{Acks, LeaderEpoch, Offset, PartitionId, TopicName};
use tokio::sync::{oneshot, watch};

pub(crate) use following::Untaken;
use positions::Positions;
pub(crate) use positions::Snapshot;
pub(crate) use view::View;

use crate::{
    error::RequestError,
    replication::{Feed, Hub, StreamKind},
    sync::lock,
    topic_settings::TopicSettings,
};

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

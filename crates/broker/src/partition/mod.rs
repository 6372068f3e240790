//! A partition as the broker sees it: its log, whether it is led here, and up to where it may be read.

mod leader;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use goulette_types::{LeaderEpoch, Offset, PartitionId, TopicName};
use tokio::sync::watch;

use leader::Leadership;
pub(crate) use leader::{Applied, Term};

use crate::{error::RequestError, sync::lock};

/// A partition that this broker holds.
pub(crate) struct Partition {
    log: Arc<goulette_log::Partition>,
    leadership: Mutex<Leadership>,
    view: watch::Sender<View>,
    /// How many partitions the topic has, as the newest assignment says; 0 before the first.
    topic_partitions: AtomicU32,
}

/// What a reader of a partition waits on. One change wakes all who wait, once per group of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// What was committed when the view changed last; see [`Partition::committed`].
    pub(crate) committed: Offset,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Another leads, or nobody.
    Idle,
    Leads(LeaderEpoch),
    Deleted,
}

impl Partition {
    /// Looks after a partition of the log; it is led from the first assignment on.
    pub(crate) fn new(log: Arc<goulette_log::Partition>) -> Arc<Self> {
        let (view, _) = watch::channel(View { committed: log.end(), role: Role::Idle });
        let leadership = Mutex::new(Leadership::new(stored_epoch(&log)));
        let listener = view.clone();
        log.set_listener(Arc::new(move |end| raise(&listener, end)));
        // What was stored between the reading of the end and the setting of the listener.
        raise(&view, log.end());
        Arc::new(Self { log, leadership, view, topic_partitions: AtomicU32::new(0) })
    }

    pub(crate) fn id(&self) -> PartitionId {
        self.log.id()
    }

    pub(crate) fn topic(&self) -> &TopicName {
        self.log.topic_name()
    }

    /// The log. Whoever writes to it asks [`led`](Self::led) first.
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

    /// Takes an assignment, if it is newer than all that came before.
    pub(crate) fn assign(&self, term: Term) -> Applied {
        let mut leadership = lock(&self.leadership);
        let applied = leadership.assign(term);
        self.show(&leadership);
        applied
    }

    /// Leads no longer, until a newer assignment comes.
    pub(crate) fn resign(&self) {
        let mut leadership = lock(&self.leadership);
        leadership.resign();
        self.show(&leadership);
    }

    /// Ends all streams of this partition: its topic has been deleted.
    pub(crate) fn delete(&self) {
        let mut leadership = lock(&self.leadership);
        leadership.resign();
        self.view.send_modify(|view| view.role = Role::Deleted);
    }

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

    /// All below is durable on every in-sync replica: the end that consumers see. With one replica it is the log's own
    /// durable end, which is never behind an ack; the view follows it once per group of the WAL.
    pub(crate) fn committed(&self) -> Offset {
        self.log.end()
    }

    /// Follows the view from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    fn show(&self, leadership: &Leadership) {
        let role = leadership.epoch().map_or(Role::Idle, Role::Leads);
        self.view.send_if_modified(|view| {
            let changes = view.role != role && view.role != Role::Deleted;
            if changes {
                view.role = role;
            }
            changes
        });
    }
}

impl View {
    /// The epoch in which `partition`, whose view this is, is led here.
    ///
    /// # Errors
    /// Not led here, or deleted.
    pub(crate) fn led(&self, partition: &Partition) -> Result<LeaderEpoch, RequestError> {
        match self.role {
            Role::Leads(epoch) => Ok(epoch),
            Role::Idle => Err(RequestError::NotLeader { partition: partition.to_string() }),
            Role::Deleted => Err(RequestError::Deleted { partition: partition.to_string() }),
        }
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.topic(), self.id().index)
    }
}

fn raise(view: &watch::Sender<View>, end: Offset) {
    view.send_if_modified(|view| {
        let rises = view.committed < end;
        if rises {
            view.committed = end;
        }
        rises
    });
}

/// The highest epoch in the log; none for an empty log, which any epoch may start.
fn stored_epoch(log: &goulette_log::Partition) -> Option<LeaderEpoch> {
    (log.end() > Offset::ZERO).then(|| log.last_epoch())
}

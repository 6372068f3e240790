//! Carries what the WAL has made durable over into the partitions' state: the one place where an append takes effect.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use goulette_types::{GroupName, Offset, PartitionId};
use goulette_wal::{Committed, Pending, Sink, WalError, WalPosition};

use crate::{
    append::{AppendDone, Appended},
    checkpoint::DeletedTopic,
    engine::Engine,
    error::AppendError,
    fragment::Stored,
    gatherer::Gatherer,
    lock,
    partition::Partition,
    retention::Removal,
    truncate::Cut,
};

/// What an entry of the WAL was for; comes back when it is durable.
pub(crate) enum Tag {
    Append(Box<Appending>),
    /// Batches that stand in their fragment already.
    Reference(Vec<Appending>),
    Create {
        partition: Arc<Partition>,
        done: ChangeDone,
    },
    Delete {
        topic: DeletedTopic,
        done: ChangeDone,
    },
    Position {
        partition: Arc<Partition>,
        group: GroupName,
        offset: Offset,
        done: PositionDone,
    },
    Remove {
        partition: Arc<Partition>,
        removal: Removal,
        done: ChangeDone,
    },
    Truncate {
        partition: Arc<Partition>,
        cut: Cut,
        done: ChangeDone,
    },
    Restart {
        partition: Arc<Partition>,
        start: Offset,
        fragment_next: u32,
        done: ChangeDone,
    },
}

impl Tag {
    /// The partition among whose entries it has its place in order.
    pub(crate) fn partition(&self) -> Option<PartitionId> {
        match self {
            Tag::Append(appending) => Some(appending.partition.id()),
            Tag::Reference(run) => run.first().map(|appending| appending.partition.id()),
            Tag::Position { partition, .. }
            | Tag::Remove { partition, .. }
            | Tag::Truncate { partition, .. }
            | Tag::Restart { partition, .. } => Some(partition.id()),
            Tag::Create { .. } | Tag::Delete { .. } => None,
        }
    }
}

/// A batch on its way through the WAL.
pub(crate) struct Appending {
    pub(crate) partition: Arc<Partition>,
    pub(crate) stored: Stored,
    pub(crate) done: AppendDone,
}

/// Hears that a change is durable, or that nobody knows.
pub(crate) type ChangeDone = Box<dyn FnOnce(Result<(), Arc<str>>) + Send>;

/// Called exactly once: when a group's position is durable, or with the reason why it may not be.
pub type PositionDone = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// The WAL's sink. Calls nobody else's code while it holds a lock, nor before a whole group has been applied.
pub(crate) struct Applier {
    engine: Arc<Engine>,
    gatherer: Gatherer,
    answers: Vec<Answer>,
    touched: Vec<Arc<Partition>>,
}

/// Somebody to be told.
pub(crate) enum Answer {
    Append(AppendDone, Appended),
    Change(ChangeDone),
    Position(PositionDone),
}

impl Applier {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { gatherer: Gatherer::new(engine.clone()), engine, answers: Vec::new(), touched: Vec::new() }
    }

    fn apply(&mut self, tag: Tag) {
        match tag {
            Tag::Append(appending) => self.apply_append(*appending),
            Tag::Reference(run) => run.into_iter().for_each(|appending| self.apply_append(appending)),
            Tag::Create { partition, done } => {
                self.engine.add(partition);
                self.answers.push(Answer::Change(done));
            }
            Tag::Delete { topic, done } => {
                for partition in self.engine.remove_topic(topic) {
                    // The flusher gives back what the partition holds.
                    self.engine.flush_queue.push_ready(partition);
                }
                self.answers.push(Answer::Change(done));
            }
            Tag::Position { partition, group, offset, done } => {
                partition.set_position(group, offset);
                self.answers.push(Answer::Position(done));
            }
            Tag::Remove { partition, removal, done } => {
                let removed = lock(partition.state()).remove_fragments(&removal);
                let bytes = removed.expect("what was there when the removal was ordered stays until it is applied");
                self.engine.note_removed(bytes);
                self.engine.quarantine.forget_fragments(&partition, removal.fragment);
                self.answers.push(Answer::Change(done));
            }
            Tag::Truncate { partition, cut, done } => {
                let bytes = lock(partition.state()).truncate(&cut);
                self.engine.note_removed(bytes);
                self.answers.push(Answer::Change(done));
            }
            Tag::Restart { partition, start, fragment_next, done } => {
                let bytes = lock(partition.state()).restart(start, fragment_next);
                self.engine.note_removed(bytes);
                self.engine.quarantine.forget_fragments(&partition, fragment_next);
                self.answers.push(Answer::Change(done));
            }
        }
    }

    fn apply_append(&mut self, Appending { partition, stored, done }: Appending) {
        let base_offset = Some(stored.batch.base_offset());
        self.answers.push(Answer::Append(done, Appended { base_offset, duplicate: false }));
        if partition.commit(stored, &mut self.answers) {
            self.touched.push(partition);
        }
    }
}

impl Sink<Tag> for Applier {
    fn gather(&mut self, pending: &mut VecDeque<Pending<Tag>>) -> Option<Duration> {
        self.gatherer.gather(pending)
    }

    fn committed(&mut self, entries: &mut Vec<Committed<Tag>>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (start, end) = (first.position, last.end);
        for entry in entries.drain(..) {
            self.apply(entry.tag);
        }
        self.engine.set_applied(end, bytes_between(start, end));
        for answer in self.answers.drain(..) {
            match answer {
                Answer::Append(done, appended) => done(Ok(appended)),
                Answer::Change(done) => done(Ok(())),
                Answer::Position(done) => done(Ok(())),
            }
        }
        for partition in self.touched.drain(..) {
            partition.announce(&self.engine);
        }
    }

    fn failed(&mut self, tags: Vec<Tag>, error: &WalError) {
        // The WAL's own message only wraps the reason.
        let reason = match error {
            WalError::Poisoned { reason } => reason.clone(),
            WalError::ClosedWhileFull => error.to_string().into(),
        };
        self.engine.poison(reason.clone());
        for tag in tags.into_iter().chain(self.gatherer.close()) {
            fail(tag, &reason);
        }
    }
}

/// Nobody knows what becomes of the entry.
pub(crate) fn fail(tag: Tag, reason: &Arc<str>) {
    let unknown = || AppendError::Poisoned { reason: reason.clone() };
    match tag {
        Tag::Append(appending) => (appending.done)(Err(unknown())),
        Tag::Reference(run) => run.into_iter().for_each(|appending| (appending.done)(Err(unknown()))),
        Tag::Position { done, .. } => done(Err(unknown())),
        Tag::Create { done, .. }
        | Tag::Delete { done, .. }
        | Tag::Remove { done, .. }
        | Tag::Truncate { done, .. }
        | Tag::Restart { done, .. } => done(Err(reason.clone())),
    }
}

/// Bytes of a group; its entries stand in one segment.
fn bytes_between(start: WalPosition, end: WalPosition) -> u64 {
    debug_assert_eq!(start.segment, end.segment);
    end.offset.saturating_sub(start.offset).into()
}

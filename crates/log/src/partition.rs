//! One partition's log: a sequence of batches, the newer part of them in memory, the older in fragments.
//!
//! Three ends follow each other, all moved under one short lock: `flushed <= end <= next`. Below `flushed` a batch is in
//! its fragment, below `end` it is durable in the WAL and can be read, below `next` it has an offset and is on its way.
//! The calls stand beside this file: [`append`](crate::append), [`read`](crate::read), [`flusher`](crate::flusher).

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use goulette_types::{GroupName, LeaderEpoch, Offset, PartitionId, ProducerId, TopicName};

use crate::{
    append::{Active, AppendDone, Appended},
    applier::Answer,
    checkpoint::{FragmentState, PartitionState},
    engine::Engine,
    epochs::{EpochStart, Epochs},
    error::{AppendError, FlushError},
    flusher::Urgency,
    fragment::{Fragment, Stored},
    handles::Handles,
    lock,
    options::Roll,
    producers::Producers,
    retention::Retention,
};

/// Called when the durable end rose, on the WAL's thread, once per group. It must not block.
pub type EndListener = Arc<dyn Fn(Offset) + Send + Sync>;

/// One partition; safe to use from several threads.
pub struct Partition {
    id: PartitionId,
    topic: TopicName,
    dir: PathBuf,
    engine: Arc<Engine>,
    state: Mutex<State>,
    /// Held by the one thread that writes to the fragments.
    pub(crate) flushing: Mutex<()>,
    listener: Mutex<Option<EndListener>>,
}

pub(crate) struct State {
    /// Appends are refused: the topic's deletion is on its way to the WAL.
    pub(crate) closing: bool,
    /// The deletion is durable.
    pub(crate) deleted: bool,

    // What was appended, durable or not.
    pub(crate) handles: Arc<Handles>,
    pub(crate) roll: Roll,
    pub(crate) retention: Retention,
    pub(crate) next: Offset,
    pub(crate) epochs: Epochs,
    pub(crate) producers: Producers,
    pub(crate) active: Option<Active>,
    pub(crate) fragment_next: u32,
    /// Fragments with lower numbers were begun before the last checkpoint or truncation that this state is from: entries of
    /// the WAL that name another one of them than the active one say nothing new.
    pub(crate) fragment_floor: u32,
    /// Appends wait: a truncation is on its way.
    pub(crate) truncating: bool,

    // What is durable.
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) committed: Offset,
    /// Replication says what is committed; if it does not, all that is durable is.
    pub(crate) replicated: bool,
    pub(crate) positions: BTreeMap<GroupName, Offset>,
    /// Without a gap up to `end`: all batches from `flushed` on, and before them those that are kept for readers.
    pub(crate) tail: VecDeque<Stored>,
    /// Retries of batches that are not durable yet.
    pub(crate) waiters: Vec<Waiter>,
    /// The partition is in the applier's list for this group.
    announced: bool,

    // What is in fragments.
    pub(crate) flushed: Offset,
    /// Bytes of the batches in `flushed..end`.
    pub(crate) unflushed_bytes: usize,
    pub(crate) queued: Option<Urgency>,
    /// Fragments that batches have their place in, but none below `flushed`; oldest first, behind all of `fragments`.
    pub(crate) begun: VecDeque<Arc<Fragment>>,
    /// Oldest first; each describes what is below `flushed`.
    pub(crate) fragments: Vec<Kept>,
    /// Below `start`; their files go behind the next checkpoint.
    pub(crate) removed: Vec<Arc<Fragment>>,
    /// Shorter than their files, which are cut behind the next checkpoint.
    pub(crate) cut: Vec<Arc<Fragment>>,
    /// The folder has names that were not made durable yet.
    pub(crate) names_unsynced: bool,
    /// Something is different from what the last checkpoint took.
    pub(crate) changed: bool,
}

/// A fragment, and what is valid of it.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) state: FragmentState,
    pub(crate) fragment: Arc<Fragment>,
}

/// A retry that is answered when its original is durable.
pub(crate) struct Waiter {
    pub(crate) durable_with: Offset,
    pub(crate) done: AppendDone,
    pub(crate) appended: Appended,
}

impl Partition {
    /// An empty partition.
    pub(crate) fn new(engine: Arc<Engine>, id: PartitionId, topic: TopicName) -> Self {
        let start = Offset::ZERO;
        let state = PartitionState {
            id,
            topic,
            start,
            next: start,
            committed: start,
            fragment_next: 0,
            fragments: Vec::new(),
            epochs: Vec::new(),
            producers: Vec::new(),
            positions: Vec::new(),
        };
        let partition = Self::restore(engine, state).expect("no epochs are in order");
        lock(&partition.state).changed = true;
        partition
    }

    /// A partition as a checkpoint describes it; none if its epochs are not in order.
    pub(crate) fn restore(engine: Arc<Engine>, state: PartitionState) -> Option<Self> {
        let dir = engine.topic_dir(state.id.topic, &state.topic).join(state.id.index.to_string());
        let fragments: Vec<_> = state
            .fragments
            .iter()
            .map(|&state| {
                let FragmentState { number, base, length, sealed, .. } = state;
                Kept {
                    state,
                    fragment: Arc::new(Fragment::existing(&engine.handles, &dir, number, base, length, sealed)),
                }
            })
            .collect();
        let active = fragments.last().filter(|last| !last.state.sealed).map(|last| Active {
            number: last.state.number,
            base: last.state.base,
            length: last.state.length,
            first_append: last.state.first_append,
        });
        let roll = engine.options.roll;
        let handles = engine.handles.clone();
        Some(Self {
            id: state.id,
            topic: state.topic,
            dir,
            engine,
            flushing: Mutex::default(),
            listener: Mutex::default(),
            state: Mutex::new(State {
                closing: false,
                deleted: false,
                handles,
                roll,
                retention: Retention::FOREVER,
                next: state.next,
                epochs: Epochs::from_entries(state.epochs)?,
                producers: Producers::from_states(state.producers),
                active,
                fragment_next: state.fragment_next,
                fragment_floor: state.fragment_next,
                truncating: false,
                start: state.start,
                end: state.next,
                committed: state.committed,
                replicated: false,
                positions: state.positions.into_iter().collect(),
                tail: VecDeque::new(),
                waiters: Vec::new(),
                announced: false,
                flushed: state.next,
                unflushed_bytes: 0,
                queued: None,
                begun: VecDeque::new(),
                fragments,
                removed: Vec::new(),
                cut: Vec::new(),
                names_unsynced: false,
                changed: false,
            }),
        })
    }

    /// The partition's id.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The topic's name.
    pub fn topic_name(&self) -> &TopicName {
        &self.topic
    }

    /// The first kept offset.
    pub fn start(&self) -> Offset {
        lock(&self.state).start
    }

    /// The durable end: the first offset that is not durable here. All before it, from the start on, can be read.
    pub fn end(&self) -> Offset {
        lock(&self.state).end
    }

    /// The epoch of the last appended batch; 0 in a partition that never had one.
    pub fn last_epoch(&self) -> LeaderEpoch {
        lock(&self.state).epochs.last().unwrap_or_default()
    }

    /// The epochs that wrote something, oldest first.
    pub fn epochs(&self) -> Vec<EpochStart> {
        lock(&self.state).epochs.entries().to_vec()
    }

    /// The highest producer id that the partition remembers.
    pub fn highest_producer(&self) -> Option<ProducerId> {
        lock(&self.state).producers.highest_id()
    }

    /// Bytes of the durable batches.
    pub fn bytes(&self) -> u64 {
        lock(&self.state).bytes()
    }

    /// Where a group goes on reading, as last made durable.
    pub fn position(&self, group: &GroupName) -> Option<Offset> {
        lock(&self.state).positions.get(group).copied()
    }

    /// All groups' positions, by name.
    pub fn positions(&self) -> Vec<(GroupName, Offset)> {
        lock(&self.state).positions.iter().map(|(group, &offset)| (group.clone(), offset)).collect()
    }

    /// Has the partition roll its fragments at other limits than the log's, from the next append on; none for the log's.
    /// Held in memory only: whoever leads the partition says it anew.
    pub fn set_roll(&self, roll: Option<Roll>) {
        lock(&self.state).roll = roll.unwrap_or(self.engine.options.roll);
    }

    /// Replaces the listener that is told of each rise of the durable end.
    pub fn set_listener(&self, listener: EndListener) {
        *lock(&self.listener) = Some(listener);
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn state(&self) -> &Mutex<State> {
        &self.state
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A batch is durable: it becomes readable. Returns true for the first one of a group.
    pub(crate) fn commit(&self, stored: Stored, answers: &mut Vec<Answer>) -> bool {
        let mut state = lock(&self.state);
        state.commit(stored);
        if !state.waiters.is_empty() {
            let end = state.end;
            for waiter in state.waiters.extract_if(.., |waiter| waiter.durable_with < end) {
                answers.push(Answer::Append(waiter.done, waiter.appended));
            }
        }
        !std::mem::replace(&mut state.announced, true)
    }

    /// A group is applied: tells the listener and the flusher.
    pub(crate) fn announce(self: &Arc<Self>, engine: &Engine) {
        let mut state = lock(&self.state);
        state.announced = false;
        let end = state.end;
        let urgency = state.wants_flush(engine.options.flush_bytes);
        drop(state);
        if let Some(urgency) = urgency {
            engine.flush_queue.push(self.clone(), urgency, engine.env.clock.now());
        }
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener(end);
        }
    }

    pub(crate) fn set_position(&self, group: GroupName, offset: Offset) {
        let mut state = lock(&self.state);
        state.positions.insert(group, offset);
        state.changed = true;
    }

    /// Refuses appends from now on, as the topic is about to be deleted; with `false` takes that back.
    pub(crate) fn set_closing(&self, closing: bool) {
        lock(&self.state).closing = closing;
    }

    /// The deletion is durable.
    pub(crate) fn mark_deleted(&self) {
        let mut state = lock(&self.state);
        (state.closing, state.deleted) = (true, true);
    }

    /// Answers the retries that wait: nobody knows what became of their originals.
    pub(crate) fn fail_waiters(&self, reason: &Arc<str>) {
        let waiters = std::mem::take(&mut lock(&self.state).waiters);
        for waiter in waiters {
            (waiter.done)(Err(AppendError::Poisoned { reason: reason.clone() }));
        }
    }

    /// Gives up batches below `next` that are in their fragment.
    pub(crate) fn forget_before(&self, next: Offset) {
        let mut state = lock(&self.state);
        let next = next.min(state.flushed);
        let count = state.tail.partition_point(|stored| stored.batch.next_offset() <= next);
        state.tail.drain(..count);
    }

    /// Cuts the last fragment to its valid bytes, as a former life may have left more.
    pub(crate) fn cut_last(&self) -> Result<(), FlushError> {
        let last = lock(&self.state).fragments.last().map(|kept| kept.fragment.clone());
        let Some(fragment) = last else { return Ok(()) };
        fragment.cut(&*self.engine.env.disk).map_err(|error| FlushError::io("cut", fragment.path(), &error))
    }

    /// If the last fragment has lost valid bytes, fills their place; if it has more than are valid, leaves them there for people
    /// to look at. In both cases goes on in another fragment.
    pub(crate) fn leave_damage(&self) -> Result<(), FlushError> {
        let last = lock(&self.state).fragments.last().cloned();
        let Some(Kept { fragment, state }) = last else { return Ok(()) };
        let disk = &*self.engine.env.disk;
        let sealed = fragment.is_longer(disk).and_then(|longer| {
            if longer && !state.sealed {
                fragment.note_sealed();
                return Ok(true);
            }
            let lost = fragment.pad(disk)?;
            if lost {
                fragment.seal(disk)?;
            }
            Ok(lost)
        });
        if sealed.map_err(|error| FlushError::io("mend", fragment.path(), &error))? {
            let mut state = lock(&self.state);
            state.active = None;
            state.names_unsynced = true;
            state.changed = true;
            state.fragments.last_mut().expect("it was there and stays").state.sealed = true;
        }
        Ok(())
    }

    /// Makes the partition's folder durable, with the folders above it.
    pub(crate) fn make_dir(&self) -> std::io::Result<()> {
        let disk = &*self.engine.env.disk;
        disk.create_dir_all(&self.dir)?;
        for dir in self.dir.ancestors().skip(1).take(3) {
            disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// Whether the next checkpoint has something to say of the partition.
    pub(crate) fn is_changed(&self) -> bool {
        lock(&self.state).changed
    }

    /// The state below `flushed`, which is what the fragments hold; none if the partition is deleted.
    pub(crate) fn capture(&self) -> Option<Captured> {
        let mut state = lock(&self.state);
        if state.deleted {
            return None;
        }
        let now = self.engine.wall();
        let expiry_ms = i64::try_from(self.engine.options.producer_expiry.as_millis()).unwrap_or(i64::MAX);
        let end = state.end;
        state.producers.expire(goulette_types::Timestamp(now.0.saturating_sub(expiry_ms)), end);
        let fragments = state.fragments.iter().map(|kept| kept.state).collect::<Vec<_>>();
        // What is not in its fragment yet is for another checkpoint.
        state.changed = state.flushed < state.end;
        Some(Captured {
            fragments: state.fragments.iter().map(|kept| kept.fragment.clone()).collect(),
            removed: state.removed.clone(),
            cut: state.cut.clone(),
            names_unsynced: std::mem::take(&mut state.names_unsynced),
            state: PartitionState {
                id: self.id,
                topic: self.topic.clone(),
                start: state.start,
                next: state.flushed,
                committed: state.committed.min(state.flushed),
                fragment_next: fragments.last().map_or(0, |last| last.number + 1).max(state.fragment_floor),
                fragments,
                epochs: state.epochs.before(state.flushed),
                producers: state.producers.before(state.flushed),
                positions: state.positions.iter().map(|(group, &offset)| (group.clone(), offset)).collect(),
            },
        })
    }
}

/// What a checkpoint takes of a partition, and what it must make durable first.
pub(crate) struct Captured {
    pub(crate) state: PartitionState,
    pub(crate) fragments: Vec<Arc<Fragment>>,
    /// What the state has no more: once it is durable their files may go.
    pub(crate) removed: Vec<Arc<Fragment>>,
    /// What the state has shorter: once it is durable their files may be cut.
    pub(crate) cut: Vec<Arc<Fragment>>,
    pub(crate) names_unsynced: bool,
}

impl State {
    /// A fragment that batches on their way have their place in.
    pub(crate) fn fragment(&self, number: u32) -> Option<Arc<Fragment>> {
        let last = self.fragments.last().map(|last| &last.fragment);
        self.begun.iter().chain(last).find(|fragment| fragment.number() == number).cloned()
    }

    /// Bytes of the durable batches.
    pub(crate) fn bytes(&self) -> u64 {
        self.fragments.iter().map(|kept| u64::from(kept.state.length)).sum::<u64>() + self.unflushed_bytes as u64
    }

    /// A batch that was noted as appended is durable.
    pub(crate) fn commit(&mut self, stored: Stored) {
        assert_eq!(stored.batch.base_offset(), self.end, "batches become durable in order");
        self.end = stored.batch.next_offset();
        if let Some(producer) = stored.batch.producer() {
            self.producers.settle(producer.id, self.end);
        }
        self.unflushed_bytes += stored.batch.encoded_bytes();
        self.changed = true;
        self.tail.push_back(stored);
    }

    /// Whether the flusher must be told anew that something waits.
    fn wants_flush(&mut self, flush_bytes: usize) -> Option<Urgency> {
        let urgency = if self.unflushed_bytes >= flush_bytes { Urgency::Ready } else { Urgency::Aging };
        if self.queued >= Some(urgency) {
            return None;
        }
        self.queued = Some(urgency);
        Some(urgency)
    }
}

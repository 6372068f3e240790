//! Appending: judge a batch, give it its place, hand it to the WAL; all in one critical section, so that the WAL's order
//! is the offsets' order.

use std::{ops::Range, path::Path, sync::Arc};

use goulette_records::{Batch, Header};
use goulette_types::{GroupName, LeaderEpoch, Offset, Timestamp};
use goulette_wal::{AppendError as WalRefusal, Entry, Payload};

use crate::{
    applier::{Appending, PositionDone, Tag},
    engine::Engine,
    entry::{Head, Kind},
    error::AppendError,
    fragment::{Fragment, Stored},
    lock,
    partition::{Partition, State, Waiter},
    producers::Verdict,
};

/// Called exactly once per append, on the WAL's thread or on the caller's own. It must not block.
pub type AppendDone = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// A batch that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first record's offset; none for a duplicate whose place is forgotten.
    pub base_offset: Option<Offset>,
    /// Whether it was a retry of a batch that had been appended before.
    pub duplicate: bool,
}

/// What became of a batch that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is on its way to the disk, with these offsets.
    New(Range<Offset>),
    /// It was appended before.
    Duplicate {
        /// The first record's offset, unless that is forgotten.
        base_offset: Option<Offset>,
        /// An offset of the original, or of a later batch: what is true of it is true of the original.
        durable_with: Offset,
    },
}

/// The fragment that batches are appended to, and how far it is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) number: u32,
    pub(crate) base: Offset,
    /// Bytes of all appended batches, durable or not.
    pub(crate) length: u32,
    /// When its first batch was appended.
    pub(crate) first_append: Timestamp,
}

impl Partition {
    /// Appends a batch at the partition's end, as the leader of `epoch`. Returns at once; `done` hears the outcome when
    /// the batch is durable as the WAL's sync policy defines it, or why it was not taken.
    ///
    /// Offsets follow the order of the calls. A batch of an idempotent producer that was appended before is answered
    /// with its first offset, and not before the original is durable. When `done` is called with success, the batch can
    /// be read.
    pub fn append(self: &Arc<Self>, epoch: LeaderEpoch, batch: Batch, done: AppendDone) {
        let mut state = lock(self.state());
        let (done, answer) = match self.judge(&state, epoch, &batch) {
            Ok(None) => match self.assign(&mut state, epoch, batch, done) {
                Ok(_) => return,
                Err((done, refusal)) => (done, Err(refusal)),
            },
            Ok(Some((durable_with, appended))) if durable_with >= state.end => {
                state.waiters.push(Waiter { durable_with, done, appended });
                return;
            }
            Ok(Some((_, appended))) => (done, Ok(appended)),
            Err(refusal) => (done, Err(refusal)),
        };
        drop(state);
        done(answer);
    }

    /// As [`append`](Self::append), for a caller that wants to know the offsets at once and waits by itself: `done` is
    /// called only for a batch that was placed, and never before this returns.
    ///
    /// # Errors
    /// Nothing was stored.
    pub fn place(self: &Arc<Self>, epoch: LeaderEpoch, batch: Batch, done: AppendDone) -> Result<Placed, AppendError> {
        let mut state = lock(self.state());
        match self.judge(&state, epoch, &batch)? {
            Some((durable_with, appended)) => Ok(Placed::Duplicate { base_offset: appended.base_offset, durable_with }),
            None => self.assign(&mut state, epoch, batch, done).map(Placed::New).map_err(|(_, refusal)| refusal),
        }
    }

    fn judge(
        &self,
        state: &State,
        epoch: LeaderEpoch,
        batch: &Batch,
    ) -> Result<Option<(Offset, Appended)>, AppendError> {
        self.check_open(state)?;
        state.check_epoch(epoch)?;
        state.judge(batch)
    }

    /// Gives a new batch the next offsets.
    fn assign(
        self: &Arc<Self>,
        state: &mut State,
        epoch: LeaderEpoch,
        mut batch: Batch,
        done: AppendDone,
    ) -> Result<Range<Offset>, (AppendDone, AppendError)> {
        batch.assign(state.next, epoch);
        let offsets = batch.base_offset()..batch.next_offset();
        self.hand_over(state, batch, epoch, done).map(|()| offsets)
    }

    /// Hands a batch that has its offset, which is the next one, and its epoch to the WAL.
    pub(crate) fn hand_over(
        self: &Arc<Self>,
        state: &mut State,
        batch: Batch,
        epoch: LeaderEpoch,
        done: AppendDone,
    ) -> Result<(), (AppendDone, AppendError)> {
        let engine = self.engine();
        let bytes = batch.encoded_bytes();
        if bytes > MAX_BATCH_BYTES {
            return Err((done, AppendError::TooLarge { bytes }));
        }
        if let Err(refusal) = engine.reserve(bytes) {
            return Err((done, refusal));
        }
        let appended = engine.wall();
        let active = state.place(bytes as u32, appended);
        let stored =
            Stored { batch: batch.clone(), fragment: active.number, position: active.length, appended, direct: false };
        let payload = append_payload(self, &stored, epoch);
        let tag = Tag::Append(Box::new(Appending { partition: self.clone(), stored, done }));
        match engine.append_to_wal(Entry { kind: Kind::Append as u8, payload, tag }) {
            Ok(()) => {
                state.note_appended(batch.header(), active, appended, self.dir());
                Ok(())
            }
            Err(refusal) => {
                engine.take_back(bytes);
                let error = refused(engine, &refusal, bytes);
                match refusal.into_inner().tag {
                    Tag::Append(appending) => Err((appending.done, error)),
                    _ => unreachable!("the tag that was handed in"),
                }
            }
        }
    }

    /// Stores a group's position: the offset of the first record that it has not processed. `done` hears when it is
    /// durable; from then on [`position`](Self::position) tells it.
    pub fn commit_position(self: &Arc<Self>, group: &GroupName, offset: Offset, done: PositionDone) {
        let engine = self.engine();
        let state = lock(self.state());
        let refusal = match self.check_open(&state).and_then(|()| self.check_groups(&state, group)) {
            Ok(()) => {
                let head = Head::of(self.id(), offset, engine.wall());
                let name = bytes::Bytes::copy_from_slice(group.as_str().as_bytes());
                let payload = Payload::new(&head.to_bytes()).with(name);
                let tag = Tag::Position { partition: self.clone(), group: group.clone(), offset, done };
                match engine.append_to_wal(Entry { kind: Kind::GroupPosition as u8, payload, tag }) {
                    Ok(()) => return,
                    Err(refusal) => {
                        let error = refused(engine, &refusal, 0);
                        match refusal.into_inner().tag {
                            Tag::Position { done, .. } => (done, error),
                            _ => unreachable!("the tag that was handed in"),
                        }
                    }
                }
            }
            Err(error) => (done, error),
        };
        drop(state);
        let (done, error) = refusal;
        done(Err(error));
    }

    /// Groups whose positions are on their way are not counted yet: there can be as many more as the WAL's queue holds.
    fn check_groups(&self, state: &State, group: &GroupName) -> Result<(), AppendError> {
        let groups = state.positions.len();
        if groups < self.engine().options.groups_max || state.positions.contains_key(group) {
            return Ok(());
        }
        Err(AppendError::TooManyGroups { partition: self.id(), groups })
    }

    pub(crate) fn check_open(&self, state: &State) -> Result<(), AppendError> {
        if let Some(reason) = self.engine().poisoned() {
            return Err(AppendError::Closed { reason });
        }
        if state.closing {
            return Err(AppendError::Deleted(self.id()));
        }
        if state.truncating {
            return Err(AppendError::Busy);
        }
        Ok(())
    }
}

/// A fragment's positions are 32 bits wide, and a batch stands in one fragment.
const MAX_BATCH_BYTES: usize = 1 << 30;

/// The WAL entry of a batch: nothing of its records is copied.
fn append_payload(partition: &Partition, stored: &Stored, epoch: LeaderEpoch) -> Payload {
    let head = Head {
        partition: partition.id(),
        fragment: stored.fragment,
        position: stored.position.into(),
        offset: stored.batch.base_offset(),
        epoch,
        appended: stored.appended,
    };
    let mut inline = [0; Head::BYTES + goulette_records::HEADER_BYTES];
    inline[..Head::BYTES].copy_from_slice(&head.to_bytes());
    inline[Head::BYTES..].copy_from_slice(&stored.batch.header_bytes());
    Payload::new(&inline).with(stored.batch.records().clone())
}

fn refused(engine: &Engine, refusal: &WalRefusal<Entry<Tag>>, bytes: usize) -> AppendError {
    match refusal {
        WalRefusal::Busy(_) => AppendError::Busy,
        WalRefusal::StorageFull(_) => engine.out_of_space(),
        WalRefusal::TooLarge(_) => AppendError::TooLarge { bytes },
        WalRefusal::Poisoned(_) | WalRefusal::Closed(_) => AppendError::Closed { reason: engine.why_closed() },
    }
}

impl State {
    pub(crate) fn check_epoch(&self, given: LeaderEpoch) -> Result<(), AppendError> {
        match self.epochs.last() {
            Some(current) if given < current => Err(AppendError::Fenced { given, current }),
            _ => Ok(()),
        }
    }

    /// Judges a batch by its producer: nothing if it is new, else what a duplicate is answered, and the offset that must
    /// be durable before that.
    fn judge(&self, batch: &Batch) -> Result<Option<(Offset, Appended)>, AppendError> {
        let Some(producer) = batch.producer() else { return Ok(None) };
        let given = producer.base_sequence;
        match self.producers.check(&producer) {
            Verdict::New => Ok(None),
            Verdict::Duplicate { base_offset, durable_with } => {
                Ok(Some((durable_with, Appended { base_offset, duplicate: true })))
            }
            Verdict::Gap { expected } => Err(AppendError::OutOfOrder { given, expected }),
            Verdict::Overlap { expected } => Err(AppendError::Overlap { given, expected }),
            Verdict::Fenced { current } => Err(AppendError::ProducerFenced { given: producer.epoch, current }),
        }
    }

    /// The fragment for a batch of so many bytes: the active one, unless it is full or old. Changes nothing.
    fn place(&self, bytes: u32, now: Timestamp) -> Active {
        let fits = |active: &Active| {
            let age_ms = now.0.saturating_sub(active.first_append.0);
            active.length.checked_add(bytes).is_some_and(|length| length <= self.roll.bytes)
                && u128::try_from(age_ms).unwrap_or(0) < self.roll.age.as_millis()
                // The index holds offsets as 32-bit differences.
                && self.next.since(active.base) < u64::from(u32::MAX) - u64::from(goulette_records::RECORDS_MAX)
        };
        match self.active {
            Some(active) if active.length == 0 || fits(&active) => active,
            _ => Active { number: self.fragment_next, base: self.next, length: 0, first_append: now },
        }
    }

    /// The batch is on its way, or is replayed, and goes where `active` ends, in the partition's folder `dir`.
    pub(crate) fn note_appended(&mut self, batch: &Header, active: Active, appended: Timestamp, dir: &Path) {
        let epoch = batch.leader_epoch.expect("the batch has been given its epoch");
        self.epochs.note(epoch, batch.base_offset);
        if let Some(producer) = batch.producer() {
            self.producers.store(&producer, batch.base_offset, appended);
        }
        if self.fragment_next <= active.number {
            self.fragment_next = active.number + 1;
            self.begun.push_back(Arc::new(Fragment::new(&self.handles, dir, active.number, active.base)));
        }
        self.next = batch.next_offset();
        self.active = Some(Active { length: active.length + batch.encoded_bytes() as u32, ..active });
    }
}

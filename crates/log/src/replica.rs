//! What a follower does to its log: it takes the leader's batches as they are, follows the leader's start, and begins anew
//! where the leader begins if it has fallen behind that.
//!
//! Batches come with the offsets and epochs that the leader gave them and go the same way as a leader's: one WAL, one
//! group commit, both paths. What is to be cut off first is [`Partition::truncate`]'s affair.

use std::sync::Arc;

use bytes::Bytes;
use goulette_records::Batch;
use goulette_types::{LeaderEpoch, Offset};
use goulette_wal::Payload;

use crate::{
    applier::Tag,
    entry::{Head, Kind},
    epochs::Epochs,
    error::{AppendError, ChangeError},
    lock,
    partition::{Partition, State},
    producers::Producers,
    truncate::TruncateError,
};

impl Partition {
    /// Appends a batch of the leader's, which has its offset and its epoch. Returns at once; the
    /// [end's listener](Self::set_listener) hears when it is durable. Its producer's sequence is taken note of, not judged:
    /// the leader has done that.
    ///
    /// # Errors
    /// [`AppendError::OutOfPlace`] if it does not begin where the log ends, [`AppendError::Fenced`] if its epoch is older
    /// than the last one, and as for any append. Nothing was stored.
    pub fn append_replica(self: &Arc<Self>, batch: Batch) -> Result<(), AppendError> {
        let mut state = lock(self.state());
        self.check_open(&state)?;
        let (given, next) = (batch.base_offset(), state.next);
        if given != next {
            return Err(AppendError::OutOfPlace { given, next });
        }
        let epoch = batch.leader_epoch().unwrap_or_default();
        state.check_epoch(epoch)?;
        // Only a poisoned engine fails what was taken, and that is told to whoever owns it.
        let handed_over = self.hand_over(&mut state, batch, epoch, Box::new(|_| {}));
        handed_over.map_err(|(_, refusal)| refusal)
    }

    /// The first offset that is not handed to the log yet; at or behind [`end`](Self::end).
    pub fn next(&self) -> Offset {
        lock(self.state()).next
    }

    /// Forgets everything and starts, empty, at `start`, as the leader of `epoch` orders; durable on return. Groups keep their
    /// positions. Appends are Busy meanwhile. Blocks on the disk.
    ///
    /// # Errors
    /// As for [`truncate`](Self::truncate), but for [`TruncateError::BelowStart`].
    pub fn restart(self: &Arc<Self>, start: Offset, epoch: LeaderEpoch) -> Result<(), TruncateError> {
        self.while_quiet(epoch, || {
            let engine = self.engine();
            let outcome = {
                let state = lock(self.state());
                if state.closing {
                    return Err(ChangeError::Deleted(self.id().topic).into());
                }
                let fragment_next = state.fragment_next + 1;
                let head = Head { epoch, ..Head::of(self.id(), start, engine.wall()) };
                let next = Bytes::copy_from_slice(&fragment_next.to_be_bytes());
                let payload = Payload::new(&head.to_bytes()).with(next);
                let partition = self.clone();
                engine.order(Kind::Restart, payload, |done| Tag::Restart { partition, start, fragment_next, done })?
            };
            Ok(engine.wait_for(&outcome)?)
        })
    }

    /// Removes the fragments that end at or before `start`, as the leader's log starts there, and returns the new start,
    /// which is at or below it. Durable on return. Blocks on the disk.
    ///
    /// # Errors
    /// As for any change.
    pub fn advance_start(self: &Arc<Self>, start: Offset) -> Result<Offset, ChangeError> {
        let engine = self.engine();
        let _no_other = lock(&engine.clock_watch);
        let ordered = {
            let state = lock(self.state());
            let count = if state.closing || state.truncating { 0 } else { state.whole_below(start) };
            self.order_removal_of(&state, count)?
        };
        if let Some(ordered) = ordered {
            engine.wait_for(&ordered.outcome)?;
        }
        Ok(self.start())
    }

    /// Notes what replication has found to be committed: kept from retention's grasp is what lies behind it. Never falls,
    /// but by a truncation. Checkpoints hold it, so that after a restart a lower bound of it is known.
    pub fn set_committed(&self, committed: Offset) {
        let mut state = lock(self.state());
        state.replicated = true;
        state.committed = state.committed.max(committed.min(state.end));
    }

    /// What was last noted as committed; after a restart, what the last checkpoint knew.
    pub fn noted_committed(&self) -> Offset {
        let state = lock(self.state());
        state.committed.max(state.start)
    }
}

impl State {
    /// How many of the oldest fragments lie below `start` as a whole, another one behind them.
    fn whole_below(&self, start: Offset) -> usize {
        let followed = self.fragments.windows(2);
        followed.take_while(|two| two[0].state.sealed && two[1].state.base <= start).count()
    }

    /// A restart is durable, and everything before it is in fragments. Does nothing a second time. Returns the bytes that
    /// go.
    pub(crate) fn restart(&mut self, start: Offset, fragment_next: u32) -> u64 {
        if fragment_next <= self.fragment_floor {
            return 0;
        }
        let bytes = self.bytes();
        self.removed.extend(self.fragments.drain(..).map(|kept| kept.fragment));
        self.begun.clear();
        self.tail.clear();
        (self.epochs, self.producers) = (Epochs::default(), Producers::default());
        (self.start, self.committed) = (start, start);
        (self.next, self.end, self.flushed) = (start, start, start);
        self.active = None;
        (self.fragment_next, self.fragment_floor) = (fragment_next, fragment_next);
        self.changed = true;
        bytes
    }
}

//! Truncation: a partition's end goes back, as replication orders it for what the leader does not have.
//!
//! It is an entry of the WAL, behind the appends that it takes back, and durable before it takes effect. What was appended
//! before it is in fragments by then, and what comes after it begins in a new one with a number never given out: so no byte
//! is ever written over while a recovery may still ask for it, and an entry of the WAL that a checkpoint has no more is known
//! by its fragment's number. Files are cut, or go, behind the first checkpoint that knows of it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use goulette_types::{ErrorKind, LeaderEpoch, Offset};
use goulette_wal::Payload;

use crate::{
    append::Appended,
    applier::Tag,
    engine::CHANGE_DEADLINE,
    entry::{Head, Kind},
    epochs::Epochs,
    error::{ChangeError, FlushError},
    fragment::Fragment,
    lock,
    partition::{Partition, State, Waiter},
    producers::Producers,
};

/// Why a partition was not truncated.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// The partition does not reach so far down: nothing was changed.
    #[error("the partition starts at offset {start}")]
    BelowStart {
        /// The first kept offset.
        start: Offset,
    },
    /// The order comes from a leader of the past: nothing was changed.
    #[error("leader epoch {given} is older than {current}")]
    Fenced {
        /// The epoch of the order.
        given: LeaderEpoch,
        /// The last one that wrote.
        current: LeaderEpoch,
    },
    /// The place of the cut could not be read: nothing was changed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The fragment.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is to be kept could not be carried into its fragment: nothing was changed.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// As for any change.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl TruncateError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            TruncateError::BelowStart { .. } => ErrorKind::OutOfRange,
            TruncateError::Fenced { .. } => ErrorKind::Fenced,
            TruncateError::Io { .. } => ErrorKind::Internal,
            TruncateError::Flush(error) => error.kind(),
            TruncateError::Change(error) => error.kind(),
        }
    }
}

/// Where a partition ends from now on, as a WAL entry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) end: Offset,
    /// The fragment in which the last batch that is kept stands, and the byte behind it; 0 if none is kept.
    pub(crate) fragment: u32,
    pub(crate) position: u32,
    /// The least number of a fragment to come; higher than all before, also if none was begun since the last cut.
    pub(crate) fragment_next: u32,
}

impl Partition {
    /// Takes back all batches with an offset at `to` or behind it, as the leader of `epoch` orders, and returns the new end:
    /// `to`, or the beginning of the batch that holds it. Durable on return. Epochs and producers go back with it; appends
    /// are Busy meanwhile. Whether anybody was told of what goes is the caller's affair. Blocks on the disk.
    ///
    /// # Errors
    /// See [`TruncateError`]; only [`ChangeError::OutcomeUnknown`] leaves open what became of it.
    pub fn truncate(self: &Arc<Self>, to: Offset, epoch: LeaderEpoch) -> Result<Offset, TruncateError> {
        self.while_quiet(epoch, || self.truncate_quiet(to, epoch))
    }

    /// Carries out what takes all that was appended back, or a part of it: nothing is appended or removed meanwhile, and
    /// everything is in its fragment.
    pub(crate) fn while_quiet<T>(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        act: impl FnOnce() -> Result<T, TruncateError>,
    ) -> Result<T, TruncateError> {
        // Retention orders nothing meanwhile.
        let _no_removal = lock(&self.engine().clock_watch);
        let durable = {
            let mut state = lock(self.state());
            if state.closing {
                return Err(ChangeError::Deleted(self.id().topic).into());
            }
            if let Some(current) = state.epochs.last().filter(|&current| epoch < current) {
                return Err(TruncateError::Fenced { given: epoch, current });
            }
            if std::mem::replace(&mut state.truncating, true) {
                return Err(ChangeError::Busy.into());
            }
            state.wait_for_all()
        };
        // Closed without a word if the engine is poisoned.
        let late = durable.is_some_and(|durable| durable.recv_timeout(CHANGE_DEADLINE).is_err());
        let outcome = match late {
            true => Err(ChangeError::Busy.into()),
            false => self.flush().map_err(TruncateError::from).and_then(|()| act()),
        };
        lock(self.state()).truncating = false;
        outcome
    }

    fn truncate_quiet(self: &Arc<Self>, to: Offset, epoch: LeaderEpoch) -> Result<Offset, TruncateError> {
        let engine = self.engine();
        let Some(cut) = self.find_cut(to)? else { return Ok(self.end()) };
        let outcome = {
            let state = lock(self.state());
            if state.closing {
                return Err(ChangeError::Deleted(self.id().topic).into());
            }
            let head = Head {
                partition: self.id(),
                fragment: cut.fragment,
                position: cut.position.into(),
                offset: cut.end,
                epoch,
                appended: engine.wall(),
            };
            let next = Bytes::copy_from_slice(&cut.fragment_next.to_be_bytes());
            let payload = Payload::new(&head.to_bytes()).with(next);
            let partition = self.clone();
            engine.order(Kind::Truncate, payload, |done| Tag::Truncate { partition, cut, done })?
        };
        engine.wait_for(&outcome)?;
        Ok(cut.end)
    }

    /// The last place between two batches at or before `to`; none if the partition ends there already.
    fn find_cut(&self, to: Offset) -> Result<Option<Cut>, TruncateError> {
        let (kept, fragment_next) = {
            let state = lock(self.state());
            if to < state.start {
                return Err(TruncateError::BelowStart { start: state.start });
            }
            if to >= state.end {
                return Ok(None);
            }
            let behind = state.fragments.partition_point(|kept| kept.state.base < to);
            let kept = behind.checked_sub(1).map(|index| state.fragments[index].clone());
            (kept, state.fragment_next + 1)
        };
        let Some(kept) = kept else {
            return Ok(Some(Cut { end: to, fragment: 0, position: 0, fragment_next }));
        };
        let disk = &*self.engine().env.disk;
        let fragment = &kept.fragment;
        let failed = |source| TruncateError::Io { path: fragment.path().to_owned(), source };
        let from = fragment.with_index(disk, |index| index.place_of(to).0).map_err(failed)?;
        let mut cut = Cut { end: kept.state.base, fragment: kept.state.number, position: 0, fragment_next };
        let mut scanned = fragment.scan(disk, from, |found| {
            (cut.end, cut.position) = (found.header.base_offset, found.position);
            let stays = found.header.next_offset() <= to;
            if stays {
                (cut.end, cut.position) =
                    (found.header.next_offset(), found.position + found.header.encoded_bytes() as u32);
            }
            stays
        });
        if cut.end == kept.state.base && cut.position > 0 {
            scanned = Err(crate::fragment::ScanError { position: from, error: io::ErrorKind::InvalidData.into() });
        }
        scanned.map_err(|scan| failed(scan.error))?;
        Ok(Some(cut))
    }

    /// Cuts files of fragments whose end went back, as a durable checkpoint has it.
    pub(crate) fn cut_files(&self, cut: Vec<Arc<Fragment>>) -> Result<(), FlushError> {
        lock(self.state()).cut.drain(..cut.len());
        for fragment in cut {
            fragment
                .cut_behind_checkpoint(&*self.engine().env.disk)
                .map_err(|error| FlushError::io("cut", fragment.path(), &error))?;
        }
        Ok(())
    }
}

impl State {
    /// Hears when all that was appended is durable; none if it is.
    fn wait_for_all(&mut self) -> Option<mpsc::Receiver<()>> {
        let durable_with = Offset(self.next.0.checked_sub(1)?);
        if durable_with < self.end {
            return None;
        }
        let (tell, durable) = mpsc::sync_channel(1);
        let done: crate::append::AppendDone = Box::new(move |outcome| {
            if outcome.is_ok() {
                // Nobody may be waiting any more.
                let _ = tell.send(());
            }
        });
        let appended = Appended { base_offset: None, duplicate: true };
        self.waiters.push(Waiter { durable_with, done, appended });
        Some(durable)
    }

    /// A truncation is durable, and everything before it is in fragments. Does nothing a second time. Returns the bytes
    /// that go.
    pub(crate) fn truncate(&mut self, cut: &Cut) -> u64 {
        if cut.fragment_next <= self.fragment_floor {
            return 0;
        }
        let bytes = self.bytes();
        let stays = |number: u32| cut.position > 0 && number <= cut.fragment;
        let count = self.fragments.partition_point(|kept| stays(kept.state.number));
        self.removed.extend(self.fragments.drain(count..).map(|kept| kept.fragment));
        self.begun.clear();
        if let Some(last) = self.fragments.last_mut() {
            if last.state.length > cut.position && last.state.number == cut.fragment {
                last.state.length = cut.position;
                last.fragment.shorten(cut.position);
                self.cut.push(last.fragment.clone());
            }
            // The next batch begins a new one; what is left of this one has its index files built when they are wanted.
            last.state.sealed = true;
            last.fragment.note_sealed();
        }
        let before = self.tail.partition_point(|stored| stored.batch.base_offset() < cut.end);
        self.tail.truncate(before);
        self.epochs = Epochs::from_entries(self.epochs.before(cut.end)).expect("a part of what rises rises");
        self.producers = Producers::from_states(self.producers.before(cut.end));
        (self.next, self.end, self.flushed) = (cut.end, cut.end, cut.end);
        self.committed = self.committed.min(cut.end);
        self.active = None;
        (self.fragment_next, self.fragment_floor) = (cut.fragment_next, cut.fragment_next);
        self.changed = true;
        bytes.saturating_sub(self.bytes())
    }
}

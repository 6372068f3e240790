//! Retention: the oldest fragments of a partition go when they are too old, or when there is more than is to be kept.
//!
//! A removal is an entry of the WAL, behind the appends that it removes. When it is durable the partition starts later and
//! readers below are told so; the files go only behind the checkpoint that knows it (`checkpointer`). Only fragments that
//! are sealed and have a successor are ever removed: a partition's last fragment stays.
//!
//! Ages are told by the wall clock, which may be wrong all of a sudden; so [`ClockWatch`](crate::clock_watch) compares it
//! with the monotonic one.

use std::{
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use bytes::Bytes;
use goulette_types::{Offset, PartitionId, Timestamp, TopicName};
use goulette_wal::Payload;

use crate::{
    applier::Tag,
    engine::Engine,
    entry::{Head, Kind},
    error::{ChangeError, FlushError},
    fragment::Fragment,
    lock,
    partition::{Kept, Partition, State},
};

/// How often is looked while the disk is full.
const FULL_INTERVAL: Duration = Duration::from_secs(1);

/// What is kept of a partition; none: no limit. A fragment goes as soon as one of the two allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Fragments go when their last batch was appended longer ago, by this machine's clock: never by the producers'.
    pub age: Option<Duration>,
    /// Fragments go while those behind them have so many bytes.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Nothing ever goes.
    pub const FOREVER: Retention = Retention { age: None, bytes: None };
}

impl Default for Retention {
    /// 7 days, however many bytes.
    fn default() -> Self {
        Self { age: Some(Duration::from_secs(7 * 24 * 3600)), bytes: None }
    }
}

/// What a look at all partitions led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetentionEvent {
    /// A partition starts later now.
    Removed {
        /// The partition.
        partition: PartitionId,
        /// Its topic's name.
        topic: TopicName,
        /// How many fragments went.
        fragments: usize,
        /// How many bytes they had.
        bytes: u64,
        /// The first offset that is kept.
        start: Offset,
    },
    /// The wall clock jumped against the monotonic one: nobody knows how old anything is. Nothing is removed by age until
    /// it has jumped back, or the log is opened again. Removal by size goes on. Said once.
    Suspended {
        /// How far the wall clock is ahead of where it should be; negative if it is behind.
        jump_ms: i64,
    },
    /// The wall clock is back where it should be.
    Resumed,
}

/// Hears what retention does in the background, on a thread of its own.
pub type RetentionListener = Arc<dyn Fn(&RetentionEvent) + Send + Sync>;

/// The oldest fragments of a partition, as a WAL entry names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    /// The newest fragment that goes, and its base offset.
    pub(crate) fragment: u32,
    pub(crate) base: Offset,
    /// The first offset that is kept: the base of the next fragment.
    pub(crate) start: Offset,
}

/// A removal on its way through the WAL.
pub(crate) struct Ordered {
    event: RetentionEvent,
    pub(crate) outcome: Receiver<Result<(), Arc<str>>>,
}

/// Looks once at all partitions, and waits until what may go has gone; the events tell what happened, error or not. What
/// the WAL has no room for is left to the next look.
pub(crate) fn retain(engine: &Engine, events: &mut Vec<RetentionEvent>) -> Result<(), ChangeError> {
    // Held to the end: two looks at a time would order the same twice.
    let mut watch = lock(&engine.clock_watch);
    // Read once: the time that was found good is the one that is used.
    let wall = engine.wall();
    events.extend(watch.look(engine.env.clock.now(), wall));
    watch.store(engine);
    let now = watch.is_trusted().then_some(wall);
    let mut ordered = Vec::new();
    for partition in engine.partitions() {
        match partition.order_removal(now) {
            Ok(removal) => ordered.extend(removal),
            Err(ChangeError::Busy) => break,
            Err(error) => return Err(error),
        }
    }
    for Ordered { event, outcome } in ordered {
        engine.wait_for(&outcome)?;
        events.push(event);
    }
    Ok(())
}

/// The thread's work: looks every now and then, until `stopped` says so.
pub(crate) fn run(engine: &Engine, stopped: &dyn Fn() -> bool) {
    let interval = engine.options.retention_interval.max(Duration::from_millis(1));
    loop {
        // Where there is no space, what need not be kept is wanted soon.
        engine.retention_trigger.wait(if engine.space.stats().refusing {
            interval.min(FULL_INTERVAL)
        } else {
            interval
        });
        if stopped() || engine.poisoned().is_some() {
            return;
        }
        let mut events = Vec::new();
        // An error means that the engine is closed or poisoned, as the next turn finds out, or that the disk is slow.
        let _ = retain(engine, &mut events);
        let listener = lock(&engine.retention_listener).clone();
        if let Some(listener) = listener {
            events.iter().for_each(|event| listener(event));
        }
    }
}

impl Partition {
    /// Says what is to be kept of the partition. Held in memory only, and until it is said everything is kept: only who
    /// leads the partition knows what its topic wants.
    pub fn set_retention(&self, retention: Retention) {
        lock(self.state()).retention = retention;
    }

    /// Hands the removal of what need not be kept to the WAL, if there is anything.
    fn order_removal(self: &Arc<Self>, now: Option<Timestamp>) -> Result<Option<Ordered>, ChangeError> {
        // Held until the entry is in the queue: it must not come behind the topic's deletion.
        let state = lock(self.state());
        let count = if state.closing || state.truncating { 0 } else { state.removable(now) };
        self.order_removal_of(&state, count)
    }

    /// Hands the removal of so many of the oldest fragments to the WAL; of none if no fragment would be left.
    pub(crate) fn order_removal_of(
        self: &Arc<Self>,
        state: &State,
        count: usize,
    ) -> Result<Option<Ordered>, ChangeError> {
        let engine = self.engine();
        let (going, [next, ..]) = state.fragments.split_at(count) else { return Ok(None) };
        let Some(last) = going.last() else { return Ok(None) };
        let removal = Removal { fragment: last.state.number, base: last.state.base, start: next.state.base };
        let event = RetentionEvent::Removed {
            partition: self.id(),
            topic: self.topic_name().clone(),
            fragments: going.len(),
            bytes: going.iter().map(|kept| u64::from(kept.state.length)).sum(),
            start: removal.start,
        };
        let head = Head {
            partition: self.id(),
            fragment: removal.fragment,
            position: 0,
            offset: removal.start,
            epoch: state.epochs.last().unwrap_or_default(),
            appended: engine.wall(),
        };
        let payload = Payload::new(&head.to_bytes()).with(Bytes::copy_from_slice(&removal.base.0.to_be_bytes()));
        let partition = self.clone();
        let outcome = engine.order(Kind::RemoveFragments, payload, |done| Tag::Remove { partition, removal, done })?;
        Ok(Some(Ordered { event, outcome }))
    }

    /// Recycles or removes files of fragments that a durable checkpoint has no more. A reader that has one open reads on in
    /// it, and one that comes too late finds that the start has moved: no other fragment ever gets the name.
    pub(crate) fn unlink(&self, removed: Vec<Arc<Fragment>>) -> Result<(), FlushError> {
        let bytes_min = {
            let mut state = lock(self.state());
            // It has only grown since, at its end.
            state.removed.drain(..removed.len());
            u64::from(state.roll.bytes / 2)
        };
        let engine = self.engine();
        engine.fragment_pool.recycle(&*engine.env.disk, self.dir(), removed, bytes_min)
    }
}

impl State {
    /// How many of the oldest fragments may go. Without a time nothing goes by age.
    fn removable(&self, now: Option<Timestamp>) -> usize {
        let old = |appended: Timestamp| {
            let (Some(age), Some(now)) = (self.retention.age, now) else { return false };
            u128::try_from(now.0.saturating_sub(appended.0)).is_ok_and(|elapsed_ms| elapsed_ms > age.as_millis())
        };
        let mut left = self.bytes();
        let mut appended = Timestamp(i64::MIN);
        // Only what is committed may go; with one replica that is all that is durable, and so all that is in a fragment.
        let committed = if self.replicated { self.committed } else { Offset::MAX };
        let behind = self.fragments.partition_point(|kept| kept.state.base <= committed);
        let behind_the_last = behind.saturating_sub(1);
        let goes = |kept: &&Kept| {
            left -= u64::from(kept.state.length);
            // No fragment is older than the one before it, whatever the clock said for a while.
            appended = appended.max(kept.state.last_append);
            kept.state.sealed && (old(appended) || self.retention.bytes.is_some_and(|bytes| left >= bytes))
        };
        self.fragments[..behind_the_last].iter().take_while(goes).count()
    }

    /// A removal is durable: moves the start, and the fragments to those whose files go behind the next checkpoint.
    /// Does nothing a second time. Returns the bytes that go;
    /// none if what is to be kept is not there: then nothing was changed.
    pub(crate) fn remove_fragments(&mut self, removal: &Removal) -> Option<u64> {
        if removal.start <= self.start {
            return Some(0);
        }
        let count = self.fragments.partition_point(|kept| kept.state.number <= removal.fragment);
        let (going, staying) = self.fragments.split_at(count);
        let is_last = |last: &Kept| (last.state.number, last.state.base) == (removal.fragment, removal.base);
        if !going.last().is_some_and(is_last)
            || staying.first().map_or(self.flushed, |first| first.state.base) != removal.start
        {
            return None;
        }
        let bytes = going.iter().map(|kept| u64::from(kept.state.length)).sum();
        self.start = removal.start;
        self.epochs.trim(removal.start);
        self.changed = true;
        self.removed.extend(self.fragments.drain(..count).map(|kept| kept.fragment));
        Some(bytes)
    }
}

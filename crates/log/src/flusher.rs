//! Carries durable batches from memory into their fragments, many at once. Those that went there [directly](crate::direct)
//! it only passes: with them too a fragment's valid bytes grow in order.
//!
//! The WAL has made them durable already, so nothing waits for this but memory. One thread does it in the background;
//! a checkpoint, a test or the closing do the same by calling [`Partition::flush`].

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use goulette_records::{Batch, Header};
use goulette_types::Timestamp;

use crate::{
    checkpoint::FragmentState,
    engine::Engine,
    error::{FlushError, Poisoned},
    fragment::{Fragment, Stored},
    lock,
    partition::{Kept, Partition, State},
};

/// Bytes written by one call; more only if a batch alone has more.
const RUN_BYTES: usize = 4 << 20;
/// Batches written by one call: twice as many pieces stay below what one system call takes.
const RUN_BATCHES: usize = 512;

/// How soon a partition is to be flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// When it has waited for a while.
    Aging,
    /// It has gathered enough.
    Ready,
}

/// The partitions that have something to flush.
#[derive(Default)]
pub(crate) struct FlushQueue {
    lists: Mutex<Lists>,
    changed: Condvar,
}

#[derive(Default)]
struct Lists {
    ready: VecDeque<Arc<Partition>>,
    /// With the time at which each was put here; oldest first.
    aging: VecDeque<(Duration, Arc<Partition>)>,
    /// What was put into `aging` until then is as good as ready.
    hurried: Duration,
    stopped: bool,
}

impl FlushQueue {
    pub(crate) fn push(&self, partition: Arc<Partition>, urgency: Urgency, now: Duration) {
        match urgency {
            Urgency::Ready => self.push_ready(partition),
            Urgency::Aging => {
                let mut lists = lock(&self.lists);
                if lists.stopped {
                    return;
                }
                lists.aging.push_back((now, partition));
                let first = lists.aging.len() == 1;
                drop(lists);
                if first {
                    self.changed.notify_one();
                }
            }
        }
    }

    pub(crate) fn push_ready(&self, partition: Arc<Partition>) {
        let mut lists = lock(&self.lists);
        if !lists.stopped {
            lists.ready.push_back(partition);
        }
        drop(lists);
        self.changed.notify_one();
    }

    /// Somebody waits for memory: what ages now is as good as ready. What comes later is not: a partition that has just
    /// been flushed would be flushed again for a few batches, and each such write costs a page that is written twice.
    pub(crate) fn hurry(&self, now: Duration) {
        lock(&self.lists).hurried = now;
        self.changed.notify_one();
    }

    /// Hurrying does not help: what ages takes its time.
    fn calm(&self) {
        lock(&self.lists).hurried = Duration::ZERO;
    }

    /// Nobody is flushed from here on, and what waits is let go: a partition holds the engine, and that the queue.
    pub(crate) fn stop(&self) {
        *lock(&self.lists) = Lists { stopped: true, ..Lists::default() };
        self.changed.notify_one();
    }

    /// Waits for a partition to flush; none once stopped.
    fn next(&self, engine: &Engine) -> Option<Arc<Partition>> {
        let age = engine.options.flush_age;
        let mut lists = lock(&self.lists);
        loop {
            if lists.stopped {
                return None;
            }
            if let Some(partition) = lists.ready.pop_front() {
                return Some(partition);
            }
            let now = engine.env.clock.now();
            let wait = match lists.aging.front() {
                Some(&(since, _)) if since <= lists.hurried || since + age <= now => {
                    return lists.aging.pop_front().map(|(_, partition)| partition);
                }
                Some(&(since, _)) => since + age - now,
                None => IDLE,
            };
            lists = self.changed.wait_timeout(lists, wait).expect("nobody panics while holding a lock").0;
        }
    }
}

/// Every wait has a deadline, even where nothing is to come.
const IDLE: Duration = Duration::from_secs(60);

/// The flusher's thread: goes on until the queue is stopped or something fails.
pub(crate) fn run(engine: &Engine) {
    while let Some(partition) = engine.flush_queue.next(engine) {
        match partition.flush() {
            Ok(()) => {}
            // It stays in memory, and is tried again after a pause.
            Err(FlushError::StorageFull { .. }) => {
                engine.refuse_appends();
                lock(partition.state()).queued = Some(Urgency::Aging);
                engine.flush_queue.push(partition, Urgency::Aging, engine.env.clock.now());
                engine.flush_queue.calm();
            }
            Err(FlushError::Poisoned(Poisoned { reason })) => {
                engine.poison(reason);
                return;
            }
        }
    }
}

impl Partition {
    /// Writes all batches that are durable now and not in their fragment yet. They are not synced.
    ///
    /// # Errors
    /// [`FlushError::StorageFull`]: what was not written stays in memory, for another time. After any other the engine
    /// must be poisoned.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), FlushError> {
        let _one_at_a_time = lock(&self.flushing);
        // Not what comes meanwhile: whoever waits for this would follow a busy producer for ever.
        let goal = self.end();
        loop {
            self.engine().check_poison()?;
            let run = {
                let mut state = lock(self.state());
                state.queued = None;
                if state.deleted {
                    let bytes = state.drop_all();
                    self.engine().give_back(bytes);
                    return Ok(());
                }
                if state.flushed >= goal { Vec::new() } else { state.next_run() }
            };
            let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
            let fragment = self.fragment_for(first.fragment)?;
            if !first.direct {
                fragment
                    .append(&*self.engine().env.disk, &run)
                    .map_err(|error| FlushError::io("write", fragment.path(), &error))?;
            }
            fragment.note(first.position, run.iter().map(|stored| stored.batch.header()));
            let bytes = run.iter().map(|stored| stored.batch.encoded_bytes()).sum();
            let next = last.batch.next_offset();
            // What the cache keeps it is charged for, so it must not keep more: not the buffers that batches came in.
            let keep = self.engine().options.tail_cache_bytes > 0;
            let detached: Vec<_> = run.iter().filter(|_| keep).map(|stored| stored.batch.detached()).collect();
            {
                let mut state = lock(self.state());
                state.replace(detached);
                state.note_written(fragment, run.iter().map(|stored| (stored.batch.header(), stored.appended)));
                state.unflushed_bytes -= bytes;
            }
            self.engine().give_back(bytes);
            self.engine().tail_cache.admit(self, next, bytes);
        }
    }

    /// The fragment that holds the batches behind `flushed`: the last one, or a new one, for which the last one is sealed.
    pub(crate) fn fragment_for(&self, number: u32) -> Result<Arc<Fragment>, FlushError> {
        let last = lock(self.state()).fragments.last().cloned();
        if let Some(last) = &last {
            if last.state.number == number {
                return Ok(last.fragment.clone());
            }
            if !last.state.sealed {
                last.fragment
                    .seal(&*self.engine().env.disk)
                    .map_err(|error| FlushError::io("seal", last.fragment.path(), &error))?;
                let mut state = lock(self.state());
                state.fragments.last_mut().expect("it was there and stays").state.sealed = true;
                // A busy partition outgrows its size between two looks by far.
                if state.retention.bytes.is_some_and(|bytes| state.bytes() > bytes) {
                    self.engine().retention_trigger.pull();
                }
            }
        }
        let fragment =
            lock(self.state()).fragment(number).expect("a fragment is begun when its first batch is appended");
        let disk = &*self.engine().env.disk;
        if last.is_some_and(|last| last.fragment.is_reserved()) && fragment.begin(disk, &self.engine().fragment_pool)? {
            fragment.drop_cached(disk).map_err(|error| FlushError::io("drop the cache of", fragment.path(), &error))?;
        }
        Ok(fragment)
    }
}

impl State {
    /// The next batches to write, or to pass: consecutive ones of one fragment.
    fn next_run(&self) -> Vec<Stored> {
        let from = self.tail.partition_point(|stored| stored.batch.base_offset() < self.flushed);
        let mut bytes = 0;
        let mut kind = None;
        self.tail
            .range(from..)
            .take(RUN_BATCHES)
            .take_while(|stored| {
                bytes += stored.batch.encoded_bytes();
                let first = kind.is_none();
                let same = *kind.get_or_insert((stored.fragment, stored.direct)) == (stored.fragment, stored.direct);
                same && (first || bytes <= RUN_BYTES)
            })
            .cloned()
            .collect()
    }

    /// Puts the same batches, consecutive ones, in the place of those in memory, as far as they still are.
    fn replace(&mut self, batches: Vec<Batch>) {
        let Some(first) = batches.first().map(Batch::base_offset) else { return };
        let from = self.tail.partition_point(|stored| stored.batch.base_offset() < first);
        for (stored, batch) in self.tail.range_mut(from..).zip(batches) {
            if stored.batch.base_offset() == batch.base_offset() {
                stored.batch = batch;
            }
        }
    }

    /// The batches that follow are in the fragment: they are below `flushed` now.
    pub(crate) fn note_written<'a>(
        &mut self,
        fragment: Arc<Fragment>,
        batches: impl Iterator<Item = (&'a Header, Timestamp)>,
    ) {
        let mut batches = batches.peekable();
        let Some(&(_, first_append)) = batches.peek() else { return };
        if self.fragments.last().is_none_or(|last| last.state.number != fragment.number()) {
            let state = FragmentState {
                number: fragment.number(),
                base: fragment.base(),
                length: 0,
                sealed: false,
                first_append,
                last_append: first_append,
                max_timestamp: Timestamp(i64::MIN),
            };
            self.begun.retain(|begun| begun.number() != fragment.number());
            self.fragments.push(Kept { state, fragment });
            // Its own name, and those of the index files of the one before.
            self.names_unsynced = true;
        }
        let kept = self.fragments.last_mut().expect("it was pushed if it was not there");
        for (header, appended) in batches {
            kept.state.length += header.encoded_bytes() as u32;
            kept.state.last_append = kept.state.last_append.max(appended);
            kept.state.max_timestamp = kept.state.max_timestamp.max(header.max_timestamp);
            self.flushed = header.next_offset();
        }
    }

    /// Gives up everything in memory. Returns the bytes that were not in a fragment.
    fn drop_all(&mut self) -> usize {
        self.tail.clear();
        self.flushed = self.end;
        std::mem::take(&mut self.unflushed_bytes)
    }
}

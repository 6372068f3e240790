//! The handle: a bounded queue in front of one thread that writes groups.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use goulette_env::{Clock, Env};

use crate::{
    committer::{Committed, Committer, Pending, Room},
    entry::{Entry, stored_bytes},
    error::{AppendError, Doing, OpenError, RecoverError, VisitError, WalError},
    options::WalOptions,
    pool::{News, Pool, PoolConfig},
    position::WalPosition,
    recovery::{self, RecoveredEntry, Recovery},
    segment::Link,
    writer::Writer,
};

/// Hears what became of entries. Called on the log's thread: while it runs, nothing is written.
pub trait Sink<T>: Send + 'static {
    /// A group is stored, and durable under [`SyncPolicy::Always`](crate::SyncPolicy::Always). Once per group, in the
    /// order of appending.
    ///
    /// What is left in the vector is dropped; it keeps its memory for the next group.
    fn committed(&mut self, entries: &mut Vec<Committed<T>>);

    /// Looks at what is about to be written, before groups are formed of it. It may take entries out and hold them, and
    /// put in what it held before, or [one in place of several](Pending::merge). Must not wait for the disk.
    ///
    /// Returns since when the oldest held entry waits; none if none is held. While it holds any, the log does not close,
    /// and calls again when it is [woken](WalWaker).
    fn gather(&mut self, pending: &mut VecDeque<Pending<T>>) -> Option<Duration> {
        let _ = pending;
        None
    }

    /// The log stopped before these entries were known to be durable, and neither are those that the sink holds. See the
    /// error for what that means. The last call.
    fn failed(&mut self, tags: Vec<T>, error: &WalError);
}

/// Facts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Groups written since the opening.
    pub groups: u64,
    /// Entries written since the opening.
    pub entries: u64,
    /// Bytes of these entries, headers included, padding of groups not.
    pub bytes: u64,
    /// Syncs since the opening.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_time_total: Duration,
    /// Time that the last one took.
    pub sync_time_last: Duration,
    /// Bytes of entries that wait, the group being written included.
    pub queue_bytes: u64,
    /// Entries that wait, the group being written included.
    pub queue_entries: usize,
    /// Since when the oldest entry waits.
    pub oldest_unsynced: Option<Duration>,
    /// Whether there is no space for the next segment.
    pub full: bool,
}

/// A log that is open for appending. Dropping it closes it.
pub struct Wal<T> {
    shared: Arc<Shared<T>>,
    pool: Arc<Pool>,
    writer: Option<JoinHandle<()>>,
    helper: Option<JoinHandle<()>>,
}

/// Wakes a log's thread, also while the log closes; see [`Wal::waker`]. It may outlive the log, and does nothing then.
#[derive(Clone)]
pub struct WalWaker(Arc<dyn Wake>);

impl WalWaker {
    /// Has the log's thread call [`Sink::gather`] soon.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// As [`Wal::poison`].
    pub fn poison(&self, reason: &str) {
        self.0.poison(reason);
    }
}

/// What a waker does, whatever the log's tags are.
trait Wake: Send + Sync {
    fn wake(&self);
    fn poison(&self, reason: &str);
}

impl<T: Send> Wake for Shared<T> {
    fn wake(&self) {
        let mut queue = self.lock();
        queue.woken = true;
        self.wake_if_idle(queue);
    }

    fn poison(&self, reason: &str) {
        Shared::poison(self, reason);
    }
}

/// What the handle and the threads share.
pub(crate) struct Shared<T> {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: WalOptions,
    pub(crate) queue: Mutex<Queue<T>>,
    /// Tells the thread of work, of poison and of the closing.
    pub(crate) wake: Condvar,
}

pub(crate) struct Queue<T> {
    pub(crate) pending: VecDeque<Pending<T>>,
    /// Since when the oldest entry waits that the thread has taken.
    pub(crate) taken_since: Option<Duration>,
    /// Since when the oldest entry waits that the sink holds.
    pub(crate) held_since: Option<Duration>,
    /// The sink has something to put in.
    pub(crate) woken: bool,
    /// The thread sleeps: who appends has to wake it.
    pub(crate) idle: bool,
    pub(crate) closing: bool,
    pub(crate) poisoned: Option<Arc<str>>,
    /// The thread waits for space.
    pub(crate) full: bool,
    /// The pool has no space for the next segment.
    pub(crate) pool_full: bool,
    /// How the thread ended, if not in order.
    pub(crate) ended: Option<WalError>,
    pub(crate) end: WalPosition,
    /// `queue_*` count what the thread has taken too.
    pub(crate) stats: WalStats,
}

impl<T: Send + 'static> Wal<T> {
    /// Reads a log from `from` on (all of it without), and passes each sound entry to `visit`, in order.
    ///
    /// Changes nothing but to make durable what it reads. No folder or an empty one is an empty log. `from` must be a
    /// position that the log gave; its segment and all later ones are read and checked.
    ///
    /// # Errors
    /// See [`RecoverError`]. A torn tail and a corruption are no errors: the caller finds them in the [`Recovery`].
    pub fn recover(
        env: &Env,
        dir: &Path,
        options: WalOptions,
        from: Option<WalPosition>,
        visit: &mut dyn FnMut(RecoveredEntry) -> Result<(), VisitError>,
    ) -> Result<Recovery, RecoverError> {
        recovery::recover(env, dir, options, from, visit)
    }

    /// Opens a recovered log for appending, in a new segment, and starts its thread.
    ///
    /// # Errors
    /// [`OpenError::LossNotAccepted`] if acknowledged entries are gone and nobody said that this is known.
    pub fn open(mut recovery: Recovery, sink: Box<dyn Sink<T>>) -> Result<Self, OpenError> {
        let Recovery { env, dir, options, .. } = &recovery;
        let (env, dir, options) = (env.clone(), dir.clone(), options.clone());
        env.disk.create_dir_all(&dir).doing("make", &dir)?;
        if let Some(parent) = dir.parent() {
            env.disk.sync_dir(parent).doing("sync", parent)?;
        }
        recovery.clear_behind_end()?;

        let link = Link { segment: recovery.end.segment, end: recovery.end.offset };
        let shared = Arc::new(Shared {
            clock: Arc::clone(&env.clock),
            options: options.clone(),
            queue: Mutex::new(Queue {
                pending: VecDeque::new(),
                taken_since: None,
                held_since: None,
                woken: false,
                idle: false,
                closing: false,
                poisoned: None,
                full: false,
                pool_full: false,
                ended: None,
                end: recovery.end,
                stats: WalStats::default(),
            }),
            wake: Condvar::new(),
        });
        let news = Arc::downgrade(&shared);
        let config = PoolConfig {
            log: recovery.log,
            env,
            dir: dir.clone(),
            segment_bytes: options.segment_bytes,
            spares_max: options.spare_segments_max,
            inline: options.prepare_inline,
            report: Box::new(move |news_item| match (news.upgrade(), news_item) {
                (Some(shared), News::Full(full)) => shared.lock().pool_full = full,
                (Some(shared), News::Failed(failure)) => shared.poison(&failure.to_string()),
                (None, _) => {}
            }),
        };
        let pool = Arc::new(Pool::open(config, recovery.segments)?);
        let prepared = pool.prepare(link.segment + 1)?;
        let committer = Committer::start(
            Arc::clone(&pool),
            prepared,
            link,
            recovery.group.saturating_add(1),
            options.group_bytes_max,
        )?;
        shared.lock().end = committer.end();

        let mut wal = Self { shared: Arc::clone(&shared), pool: Arc::clone(&pool), writer: None, helper: None };
        wal.helper = pool.start().doing("start a thread for", &dir)?;
        let writer = Writer::new(shared, committer, sink);
        let thread = std::thread::Builder::new().name("wal".into()).spawn(move || writer.run());
        wal.writer = Some(thread.doing("start a thread for", &dir)?);
        Ok(wal)
    }

    /// Hands an entry over to be stored; the [`Sink`] hears of it. Never blocks.
    ///
    /// # Errors
    /// The entry comes back inside of the error, and was not and will not be stored.
    #[allow(clippy::result_large_err, reason = "the entry comes back without an allocation")]
    pub fn append(&self, entry: Entry<T>) -> Result<(), AppendError<Entry<T>>> {
        self.append_if(entry, |queue| queue.full || queue.pool_full)
    }

    /// As [`append`](Self::append), for the few small entries that must go on when the disk is full: they go into what the
    /// last segment has left, or wait in the queue until there is space.
    ///
    /// # Errors
    /// As for [`append`](Self::append), but for [`AppendError::StorageFull`].
    #[allow(clippy::result_large_err, reason = "the entry comes back without an allocation")]
    pub fn append_at_last(&self, entry: Entry<T>) -> Result<(), AppendError<Entry<T>>> {
        self.append_if(entry, |_| false)
    }

    #[allow(clippy::result_large_err, reason = "the entry comes back without an allocation")]
    fn append_if(&self, entry: Entry<T>, is_full: impl FnOnce(&Queue<T>) -> bool) -> Result<(), AppendError<Entry<T>>> {
        let Some(queued) = self.measure(&entry) else { return Err(AppendError::TooLarge(entry)) };
        let mut queue = self.shared.lock();
        let full = is_full(&queue);
        if let Some(refusal) = queue.refusal(&self.shared.options, full, 1, stored_bytes(queued.0.into())) {
            return Err(refusal.with(entry));
        }
        let now = self.shared.clock.now();
        queue.push(entry, queued, now);
        self.shared.wake_if_idle(queue);
        Ok(())
    }

    /// Hands several entries over, all or none; if they fit into one group (and into what the segment has left), they
    /// are one.
    ///
    /// # Errors
    /// The entries come back inside of the error, and none was or will be stored.
    pub fn append_all(&self, entries: Vec<Entry<T>>) -> Result<(), AppendError<Vec<Entry<T>>>> {
        let measures: Option<Vec<_>> = entries.iter().map(|entry| self.measure(entry)).collect();
        let Some(measures) = measures else { return Err(AppendError::TooLarge(entries)) };
        let bytes = measures.iter().map(|measure| stored_bytes(measure.0.into())).sum();
        let mut queue = self.shared.lock();
        let full = queue.full || queue.pool_full;
        if let Some(refusal) = queue.refusal(&self.shared.options, full, entries.len(), bytes) {
            return Err(refusal.with(entries));
        }
        let now = self.shared.clock.now();
        for (entry, measure) in entries.into_iter().zip(measures) {
            queue.push(entry, measure, now);
        }
        self.shared.wake_if_idle(queue);
        Ok(())
    }

    /// Wakes the log's thread, so that its sink can put in what it holds.
    pub fn waker(&self) -> WalWaker {
        WalWaker(Arc::clone(&self.shared) as Arc<dyn Wake>)
    }

    /// Allows the segments wholly before the position to be written again: nothing in them is needed any more, and
    /// that is durable elsewhere.
    pub fn recycle_before(&self, position: WalPosition) {
        self.pool.keep_from(position.segment.min(self.end().segment));
    }

    /// The end of what is committed.
    pub fn end(&self) -> WalPosition {
        self.shared.lock().end
    }

    /// About how many bytes a recovery from `position` would read; each segment counts in full.
    pub fn bytes_since(&self, position: WalPosition) -> u64 {
        let end = self.end();
        if position >= end {
            return 0;
        }
        let segments = end.segment - position.segment;
        (segments * u64::from(self.shared.options.segment_bytes) + u64::from(end.offset))
            .saturating_sub(position.offset.into())
    }

    /// Stops the log for good: what waits fails with an unknown outcome.
    pub fn poison(&self, reason: &str) {
        self.shared.poison(reason);
    }

    /// What stopped the log, if anything did.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.shared.lock().poisoned.clone()
    }

    /// The facts as they are now.
    pub fn stats(&self) -> WalStats {
        let queue = self.shared.lock();
        let waiting = queue.pending.front().map(|queued| queued.since);
        let since = [queue.held_since, queue.taken_since, waiting].into_iter().flatten().min();
        let now = self.shared.clock.now();
        let oldest_unsynced = since.map(|since| now.saturating_sub(since));
        WalStats { oldest_unsynced, full: queue.full || queue.pool_full, ..queue.stats }
    }

    /// Stores and syncs what waits, and ends the threads.
    ///
    /// # Errors
    /// If something was not stored for certain; its tags were handed to [`Sink::failed`].
    pub fn close(mut self) -> Result<WalPosition, WalError> {
        self.stop();
        let queue = self.shared.lock();
        match &queue.ended {
            Some(error) => Err(error.clone()),
            None => Ok(queue.end),
        }
    }

    /// The payload's length and CRC, computed before the lock is taken; none if it is too long.
    fn measure(&self, entry: &Entry<T>) -> Option<(u32, u32)> {
        let bytes = u32::try_from(entry.payload.len()).ok()?;
        (bytes <= self.shared.options.payload_bytes_max()).then(|| (bytes, entry.payload.crc()))
    }
}

impl<T> Wal<T> {
    fn stop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
        let writer = self.writer.take().map(join);
        self.pool.close();
        let helper = self.helper.take().map(join);
        if writer == Some(Joined::Panicked) || helper == Some(Joined::Panicked) {
            self.shared
                .lock()
                .ended
                .get_or_insert(WalError::Poisoned { reason: "a thread of the log panicked".into() });
        }
    }
}

/// How a thread of the log came to its end.
#[derive(PartialEq, Eq)]
enum Joined {
    Ended,
    Panicked,
}

fn join(thread: JoinHandle<()>) -> Joined {
    // Should a sink hold the last handle, the log is dropped on its own thread, which then ends by itself.
    if thread.thread().id() == std::thread::current().id() || thread.join().is_ok() {
        Joined::Ended
    } else {
        Joined::Panicked
    }
}

impl<T> Drop for Wal<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why something is refused, before it is put into the error.
enum Refusal {
    Busy,
    StorageFull,
    Poisoned,
    Closed,
}

impl Refusal {
    fn with<E>(self, entry: E) -> AppendError<E> {
        match self {
            Refusal::Busy => AppendError::Busy(entry),
            Refusal::StorageFull => AppendError::StorageFull(entry),
            Refusal::Poisoned => AppendError::Poisoned(entry),
            Refusal::Closed => AppendError::Closed(entry),
        }
    }
}

impl<T> Queue<T> {
    fn refusal(&self, options: &WalOptions, full: bool, entries: usize, bytes: u64) -> Option<Refusal> {
        let stats = &self.stats;
        if self.poisoned.is_some() {
            Some(Refusal::Poisoned)
        } else if self.closing {
            Some(Refusal::Closed)
        } else if full {
            Some(Refusal::StorageFull)
        } else if stats.queue_entries > 0
            && (stats.queue_entries + entries > options.queue_entries_max
                || stats.queue_bytes + bytes > options.queue_bytes_max)
        {
            Some(Refusal::Busy)
        } else {
            None
        }
    }

    fn push(&mut self, entry: Entry<T>, (payload_bytes, payload_crc): (u32, u32), since: Duration) {
        let room = Room { entries: 1, bytes: stored_bytes(payload_bytes.into()) };
        self.stats.queue_entries += room.entries;
        self.stats.queue_bytes += room.bytes;
        self.pending.push_back(Pending { entry, payload_bytes, payload_crc, since, room });
    }
}

impl<T> Shared<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing under this lock panics half way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn poison(&self, reason: &str) {
        self.lock().poisoned.get_or_insert_with(|| reason.into());
        self.wake.notify_all();
    }

    fn wake_if_idle(&self, mut queue: MutexGuard<'_, Queue<T>>) {
        if std::mem::take(&mut queue.idle) {
            drop(queue);
            self.wake.notify_all();
        }
    }
}

//! The log's thread: takes all that is pending, writes it as groups, syncs by policy, completes in order.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Duration,
};

use crate::{
    committer::{Committed, Committer, GroupError, Pending, Written},
    error::{Failure, WalError},
    options::SyncPolicy,
    wal::{Shared, Sink},
};

/// How long the thread waits for space before it tries again.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Writer<T> {
    shared: Arc<Shared<T>>,
    committer: Committer,
    sink: Box<dyn Sink<T>>,
    /// What was taken off the queue and is not yet written.
    taken: VecDeque<Pending<T>>,
    /// Kept for its memory.
    committed: Vec<Committed<T>>,
    /// When the first byte behind the last sync was written, on the log's clock.
    unsynced_since: Duration,
}

/// What the thread is to do next.
enum Work {
    /// Write what was taken.
    Write,
    /// The interval is over.
    Sync,
    /// Sync what was written, and end.
    Close,
    /// End at once.
    Abandon(WalError),
}

impl<T: Send + 'static> Writer<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, committer: Committer, sink: Box<dyn Sink<T>>) -> Self {
        let (taken, committed) = (VecDeque::new(), Vec::new());
        Self { shared, committer, sink, taken, committed, unsynced_since: Duration::ZERO }
    }

    pub(crate) fn run(mut self) {
        let error = loop {
            let done = match self.next_work() {
                Work::Write => {
                    self.gather();
                    self.write_taken()
                }
                Work::Sync => self.sync(),
                Work::Close if self.committer.unsynced() => self.sync(),
                Work::Close => return,
                Work::Abandon(error) => Err(error),
            };
            if let Err(error) = done {
                break error;
            }
        };
        // Nothing failed but to find space: what is written can still be made durable.
        let synced = match error {
            WalError::ClosedWhileFull if self.committer.unsynced() => self.sync(),
            _ => Ok(()),
        };
        self.fail_all(synced.err().unwrap_or(error));
    }

    /// Sleeps until there is something to do.
    fn next_work(&mut self) -> Work {
        let mut queue = self.shared.lock();
        loop {
            if let Some(reason) = &queue.poisoned {
                return Work::Abandon(WalError::Poisoned { reason: Arc::clone(reason) });
            }
            if std::mem::take(&mut queue.woken) || !queue.pending.is_empty() {
                // Both buffers go round: neither is allocated again.
                std::mem::swap(&mut queue.pending, &mut self.taken);
                queue.taken_since = self.taken.front().map(|queued| queued.since);
                return Work::Write;
            }
            if queue.closing && queue.held_since.is_none() {
                return Work::Close;
            }
            queue.idle = true;
            queue = match self.sync_due_in() {
                None => self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    queue.idle = false;
                    return Work::Sync;
                }
                Some(due) => self.shared.wake.wait_timeout(queue, due).unwrap_or_else(PoisonError::into_inner).0,
            };
            queue.idle = false;
        }
    }

    /// Under the policy `interval`: how long what was written may stay unsynced.
    fn sync_due_in(&self) -> Option<Duration> {
        match self.shared.options.sync {
            SyncPolicy::Interval(interval) if self.committer.unsynced() => {
                Some((self.unsynced_since + interval).saturating_sub(self.shared.clock.now()))
            }
            _ => None,
        }
    }

    /// Has the sink look at what was taken.
    fn gather(&mut self) {
        let held_since = self.sink.gather(&mut self.taken);
        let mut queue = self.shared.lock();
        queue.held_since = held_since;
        queue.taken_since = self.taken.iter().map(|queued| queued.since).min();
    }

    fn write_taken(&mut self) -> Result<(), WalError> {
        while !self.taken.is_empty() {
            let was_unsynced = self.committer.unsynced();
            match self.committer.write_group(&mut self.taken, &mut self.committed) {
                Ok(written) => {
                    if !was_unsynced {
                        self.unsynced_since = self.shared.clock.now();
                    }
                    let due = self.sync_due_in() == Some(Duration::ZERO);
                    if due || self.shared.options.sync == SyncPolicy::Always {
                        self.sync()?;
                    }
                    self.complete(written)?;
                }
                Err(GroupError::Full) => self.wait_for_space()?,
                Err(GroupError::Failed(failure)) => return Err(self.poison(&failure)),
                Err(GroupError::Stopped) => return Err(self.poisoned_elsewhere()),
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        let start = self.shared.clock.now();
        self.committer.sync().map_err(|failure| self.poison(&failure))?;
        let took = self.shared.clock.now().saturating_sub(start);
        let mut queue = self.shared.lock();
        queue.stats.syncs += 1;
        queue.stats.sync_time_total += took;
        queue.stats.sync_time_last = took;
        Ok(())
    }

    /// Tells of a group. The callers learn of it even if the log was poisoned meanwhile: it is true all the same.
    fn complete(&mut self, Written { bytes, room }: Written) -> Result<(), WalError> {
        let poisoned = {
            let mut queue = self.shared.lock();
            queue.end = self.committer.end();
            queue.taken_since = self.taken.front().map(|queued| queued.since);
            queue.stats.groups += 1;
            queue.stats.entries += self.committed.len() as u64;
            queue.stats.bytes += bytes;
            queue.stats.queue_entries -= room.entries;
            queue.stats.queue_bytes -= room.bytes;
            queue.full = false;
            queue.poisoned.clone()
        };
        self.sink.committed(&mut self.committed);
        self.committed.clear();
        poisoned.map_or(Ok(()), |reason| Err(WalError::Poisoned { reason }))
    }

    /// New entries are refused, those that were taken wait: nothing is lost but time.
    fn wait_for_space(&mut self) -> Result<(), WalError> {
        let mut queue = self.shared.lock();
        queue.full = true;
        if queue.poisoned.is_none() && !queue.closing {
            queue = self.shared.wake.wait_timeout(queue, FULL_RETRY).unwrap_or_else(PoisonError::into_inner).0;
        }
        match &queue.poisoned {
            Some(reason) => Err(WalError::Poisoned { reason: Arc::clone(reason) }),
            None if queue.closing => Err(WalError::ClosedWhileFull),
            None => Ok(()),
        }
    }

    fn poison(&self, failure: &Failure) -> WalError {
        self.shared.poison(&failure.to_string());
        self.poisoned_elsewhere()
    }

    fn poisoned_elsewhere(&self) -> WalError {
        let reason = self.shared.lock().poisoned.clone();
        WalError::Poisoned { reason: reason.unwrap_or_else(|| "the segment pool stopped".into()) }
    }

    /// Ends the thread out of order: nothing is taken any more, and what waits is failed.
    fn fail_all(mut self, error: WalError) {
        let mut tags: Vec<T> = self.committed.drain(..).map(|committed| committed.tag).collect();
        tags.extend(self.taken.drain(..).map(|queued| queued.entry.tag));
        {
            let mut queue = self.shared.lock();
            queue.closing = true;
            queue.ended = Some(error.clone());
            queue.taken_since = None;
            queue.held_since = None;
            queue.stats.queue_entries = 0;
            queue.stats.queue_bytes = 0;
            tags.extend(queue.pending.drain(..).map(|queued| queued.entry.tag));
        }
        self.sink.failed(tags, &error);
        if self.committer.unsynced() {
            // The process is to end. Until then nobody may open the file anew and be told that all is well, which the
            // kernel may do once the descriptor is closed that wrote the bytes.
            std::mem::forget(self.committer);
        }
    }
}

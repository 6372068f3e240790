//! The direct path: batches go straight to their fragment, and only a reference to them into the WAL.
//!
//! The order is what makes a reference proof of its bytes: fragment write, its sync, reference, the WAL's sync, answer. A few
//! threads write and sync; what the [`Gatherer`](crate::gatherer) hands them comes back to it when it is done.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
};

use goulette_types::PartitionId;
use goulette_wal::{Entry, Pending, WalWaker};

use crate::{
    applier::{self, Appending, Tag},
    engine::Engine,
    entry::Kind,
    error::{FlushError, Poisoned},
    fragment::{Fragment, Stored},
    lock,
    partition::Partition,
    reference::Reference,
};

/// Runs under way at a time, and so the threads that there are.
pub(crate) const RUNS_MAX: usize = 4;

/// Consecutive batches of one fragment on their direct way.
pub(crate) struct Run {
    pub(crate) partition: Arc<Partition>,
    pub(crate) fragment: Arc<Fragment>,
    /// Counts the partition's runs.
    pub(crate) number: u64,
    /// Bytes that are reserved at a time.
    pub(crate) step: u32,
    /// All are appends.
    pub(crate) entries: Vec<Pending<Tag>>,
}

/// What became of a run.
pub(crate) struct Finished {
    pub(crate) partition: PartitionId,
    pub(crate) number: u64,
    pub(crate) outcome: Outcome,
}

pub(crate) enum Outcome {
    /// The bytes are durable: this entry stands for the run's.
    Written(Box<Pending<Tag>>),
    /// The fragment has no room on the disk: the entries are to go through the WAL, which may have some.
    NoSpace(Vec<Pending<Tag>>),
    /// The engine is poisoned; the entries go nowhere.
    Failed(Vec<Pending<Tag>>),
}

impl Outcome {
    pub(crate) fn into_entries(self) -> Vec<Pending<Tag>> {
        match self {
            Outcome::Written(entry) => vec![*entry],
            Outcome::NoSpace(entries) | Outcome::Failed(entries) => entries,
        }
    }
}

/// Runs on their way to the threads, and back.
#[derive(Default)]
pub(crate) struct DirectQueue {
    lists: Mutex<Lists>,
    changed: Condvar,
}

#[derive(Default)]
struct Lists {
    waiting: VecDeque<Run>,
    finished: Vec<Finished>,
    /// Tells the gatherer of what is finished.
    waker: Option<WalWaker>,
    /// Nobody fetches what is finished any more.
    closed: bool,
    stopped: bool,
}

impl DirectQueue {
    pub(crate) fn set_waker(&self, waker: WalWaker) {
        lock(&self.lists).waker = Some(waker);
    }

    fn waker(&self) -> Option<WalWaker> {
        lock(&self.lists).waker.clone()
    }

    /// Hands a run to the threads. There are never more than [`RUNS_MAX`] under way.
    pub(crate) fn push(&self, run: Run) {
        lock(&self.lists).waiting.push_back(run);
        self.changed.notify_one();
    }

    /// What was finished since the last call.
    pub(crate) fn take_finished(&self) -> Vec<Finished> {
        std::mem::take(&mut lock(&self.lists).finished)
    }

    /// The gatherer is gone: gives back all entries, now those that no thread has, the others when they come.
    pub(crate) fn close(&self) -> Vec<Pending<Tag>> {
        let mut lists = lock(&self.lists);
        lists.closed = true;
        let mut entries: Vec<_> = lists.waiting.drain(..).flat_map(|run| run.entries).collect();
        entries.extend(lists.finished.drain(..).flat_map(|finished| finished.outcome.into_entries()));
        entries
    }

    /// Ends the threads.
    pub(crate) fn stop(&self) {
        let mut lists = lock(&self.lists);
        lists.stopped = true;
        lists.waker = None;
        drop(lists);
        self.changed.notify_all();
    }

    /// Waits for a run; none once stopped.
    fn next(&self) -> Option<Run> {
        let mut lists = lock(&self.lists);
        loop {
            if let Some(run) = lists.waiting.pop_front() {
                return Some(run);
            }
            if lists.stopped {
                return None;
            }
            lists = self.changed.wait(lists).expect("nobody panics while holding a lock");
        }
    }

    /// Hands what is finished to the gatherer; gives it back if there is none any more.
    fn finish(&self, finished: Finished) -> Result<(), Outcome> {
        let mut lists = lock(&self.lists);
        if lists.closed {
            return Err(finished.outcome);
        }
        lists.finished.push(finished);
        let waker = lists.waker.clone();
        drop(lists);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// A thread's work: writes one run after the other, until the queue is stopped.
pub(crate) fn run(engine: &Engine) {
    while let Some(run) = engine.direct.next() {
        carry_out(engine, run);
    }
}

/// Writes a run and reports it to the gatherer. What fails poisons the engine.
pub(crate) fn carry_out(engine: &Engine, run: Run) {
    let (partition, number) = (run.partition.id(), run.number);
    let outcome = write(engine, run).unwrap_or_else(|(poisoned, entries)| {
        // First the WAL: while the log is being closed, the engine has it no more.
        if let Some(waker) = engine.direct.waker() {
            waker.poison(&poisoned.reason);
        }
        engine.poison(poisoned.reason);
        Outcome::Failed(entries)
    });
    let finished = Finished { partition, number, outcome };
    if let Err(outcome) = engine.direct.finish(finished) {
        let reason = engine.why_closed();
        outcome.into_entries().into_iter().for_each(|entry| applier::fail(entry.into_tag(), &reason));
    }
}

fn write(engine: &Engine, run: Run) -> Result<Outcome, (Poisoned, Vec<Pending<Tag>>)> {
    let Run { partition, fragment, step, entries, .. } = run;
    let disk = &*engine.env.disk;
    let stored: Vec<Stored> = entries
        .iter()
        .map(|pending| match &pending.entry().tag {
            Tag::Append(appending) => Stored { direct: true, ..appending.stored.clone() },
            _ => unreachable!("a run is of appends"),
        })
        .collect();
    let written = fragment
        .begin(disk, &engine.fragment_pool)
        .and_then(|_| fragment.reserve(disk, &stored, step))
        .and_then(|()| fragment.write_ahead(disk, &stored));
    match written {
        Ok(()) => {}
        // Nothing refers to what may have been written.
        Err(FlushError::StorageFull { .. }) => return Ok(Outcome::NoSpace(entries)),
        Err(FlushError::Poisoned(poisoned)) => return Err((poisoned, entries)),
    }
    let payload = Reference::payload(&partition, &fragment, &stored).expect("a run has batches");
    let reference = Pending::merge(entries, |tags| {
        let appendings = tags.into_iter().zip(stored).map(|(tag, stored)| match tag {
            Tag::Append(appending) => Appending { stored, ..*appending },
            _ => unreachable!("a run is of appends"),
        });
        Entry { kind: Kind::Reference as u8, payload, tag: Tag::Reference(appendings.collect()) }
    });
    Ok(Outcome::Written(Box::new(reference)))
}

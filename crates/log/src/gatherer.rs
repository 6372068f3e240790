//! Decides which way batches go: those of partitions for which much waits straight to their fragment, the others into the
//! WAL. On the WAL's thread, before each write; it only decides, and never waits.
//!
//! A partition's entries stay in order. While a run of its batches is under way, whatever comes for it later is held back,
//! and is the next run, or goes on with the reference to the last one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use goulette_types::PartitionId;
use goulette_wal::Pending;

use crate::{
    applier::Tag,
    direct::{self, Finished, Outcome, RUNS_MAX, Run},
    engine::Engine,
    lock,
    reference::Reference,
};

/// Partitions of one group that may go directly: the ones with most bytes.
const FATTEST: usize = 4;
/// Runs of a partition under way at a time: one is synced while the next is written.
const DEPTH: usize = 2;
/// Bytes of a run; more only if a batch alone has more. Runs grow with what waits, so this only bounds what one sync covers.
/// Short ones cost: the page in which two of them meet, which may be a large one, is written twice.
const RUN_BYTES: usize = 16 << 20;
/// Batches of a run.
const RUN_BATCHES: usize = 8192;
/// Room that is reserved in a fragment at a time.
const STEP_BYTES: u32 = 16 << 20;
/// How long nothing goes directly after there was no room for it.
const FULL_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Gatherer {
    engine: Arc<Engine>,
    /// Partitions with runs under way.
    busy: HashMap<PartitionId, Busy>,
    runs: usize,
    full_until: Duration,
    /// Bytes of batches per partition; kept for its memory.
    weights: HashMap<PartitionId, usize>,
}

/// What is under way for a partition, and what waits behind it.
#[derive(Default)]
struct Busy {
    /// The number of the first of `runs`.
    number: u64,
    /// Oldest first; each with the time since when its first entry waits.
    runs: VecDeque<(Duration, Option<Outcome>)>,
    held: VecDeque<Pending<Tag>>,
    /// Bytes of the batches in `held`.
    held_bytes: usize,
}

impl Gatherer {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, busy: HashMap::new(), runs: 0, full_until: Duration::ZERO, weights: HashMap::new() }
    }

    /// See [`Sink::gather`](goulette_wal::Sink::gather).
    pub(crate) fn gather(&mut self, pending: &mut VecDeque<Pending<Tag>>) -> Option<Duration> {
        let few = || pending.iter().map(batch_bytes).sum::<usize>() < self.engine.options.direct_bytes;
        if self.busy.is_empty() && few() {
            return None;
        }
        let arrived = std::mem::take(pending);
        self.settle(pending);
        for entry in arrived {
            self.route(entry, pending);
        }
        self.start_runs(pending);
        while !self.engine.options.background && self.settle(pending) {
            self.start_runs(pending);
        }
        self.busy.values().filter_map(|busy| busy.runs.front()).map(|&(since, _)| since).min()
    }

    /// The log has stopped: gives back what no thread has.
    pub(crate) fn close(&mut self) -> Vec<Tag> {
        let given_back = self.engine.direct.close();
        let busy = self.busy.drain().flat_map(|(_, busy)| {
            let settled = busy.runs.into_iter().filter_map(|(_, outcome)| outcome).flat_map(Outcome::into_entries);
            settled.chain(busy.held)
        });
        given_back.into_iter().chain(busy).map(Pending::into_tag).collect()
    }

    /// Passes on what is finished, in order, and what waited for it. Returns whether anything was.
    fn settle(&mut self, pending: &mut VecDeque<Pending<Tag>>) -> bool {
        let all = self.engine.direct.take_finished();
        let any = all.iter().any(|finished| is_passed(&finished.outcome));
        for Finished { partition, number, outcome } in all {
            let busy = self.busy.get_mut(&partition).expect("its run is under way");
            busy.runs[(number - busy.number) as usize].1 = Some(outcome);
            while let Some((_, outcome)) =
                busy.runs.pop_front_if(|(_, outcome)| outcome.as_ref().is_some_and(is_passed))
            {
                busy.number += 1;
                self.runs -= 1;
                if let Some(Outcome::NoSpace(_)) = outcome {
                    self.full_until = self.engine.env.clock.now() + FULL_PAUSE;
                }
                pending.extend(outcome.into_iter().flat_map(Outcome::into_entries));
            }
            if busy.runs.is_empty()
                && let Some(busy) = self.busy.remove(&partition)
            {
                busy.held.into_iter().for_each(|entry| self.route(entry, pending));
            }
        }
        any
    }

    /// Holds an entry back if it must wait for a run.
    fn route(&mut self, entry: Pending<Tag>, pending: &mut VecDeque<Pending<Tag>>) {
        let waits_for = match &entry.entry().tag {
            // Nothing follows it for any partition of the topic, and it follows all of them.
            Tag::Delete { topic, .. } => self.busy.keys().find(|id| id.topic == topic.id).copied(),
            tag => tag.partition(),
        };
        match waits_for.and_then(|id| self.busy.get_mut(&id)) {
            Some(busy) => busy.hold(entry),
            None => pending.push_back(entry),
        }
    }

    /// Has the fattest partitions' batches written directly.
    fn start_runs(&mut self, pending: &mut VecDeque<Pending<Tag>>) {
        if self.runs >= RUNS_MAX || self.engine.env.clock.now() < self.full_until {
            return;
        }
        self.weights.clear();
        for entry in &*pending {
            if let Tag::Append(appending) = &entry.entry().tag {
                *self.weights.entry(appending.partition.id()).or_default() += batch_bytes(entry);
            }
        }
        let waiting = self.busy.iter().filter(|(_, busy)| busy.runs.len() < DEPTH);
        let fat = |&(_, bytes): &(PartitionId, usize)| bytes >= self.engine.options.direct_bytes;
        let mut fattest: Vec<_> = waiting
            .map(|(&id, busy)| (id, busy.held_bytes))
            .chain(self.weights.iter().map(|(&id, &bytes)| (id, bytes)))
            .filter(fat)
            .collect();
        fattest.sort_unstable_by_key(|&(id, bytes)| (std::cmp::Reverse(bytes), id));
        for (id, _) in fattest.into_iter().take(FATTEST) {
            let busy = self.busy.entry(id).or_default();
            if busy.runs.is_empty() {
                let concerns = |entry: &Pending<Tag>| match &entry.entry().tag {
                    Tag::Delete { topic, .. } => topic.id == id.topic,
                    // What is referred to stands already, before all that is to come.
                    Tag::Reference(_) => false,
                    tag => tag.partition() == Some(id),
                };
                let (of_it, others) = std::mem::take(pending).into_iter().partition(concerns);
                *pending = others;
                VecDeque::into_iter(of_it).for_each(|entry| busy.hold(entry));
            }
            while self.runs < RUNS_MAX && busy.runs.len() < DEPTH && busy.held_bytes >= self.engine.options.direct_bytes
            {
                let Some(run) = busy.next_run(&self.engine, pending) else { break };
                self.runs += 1;
                if self.engine.options.background {
                    self.engine.direct.push(run);
                } else {
                    direct::carry_out(&self.engine, run);
                }
            }
            if busy.runs.is_empty()
                && let Some(busy) = self.busy.remove(&id)
            {
                pending.extend(busy.held);
            }
        }
    }
}

impl Busy {
    fn hold(&mut self, entry: Pending<Tag>) {
        self.held_bytes += batch_bytes(&entry);
        self.held.push_back(entry);
    }

    /// The batches that are held first, as far as one fragment has them. What stands before them, and waits for no run,
    /// goes its way.
    fn next_run(&mut self, engine: &Engine, pending: &mut VecDeque<Pending<Tag>>) -> Option<Run> {
        if self.runs.is_empty() {
            while let Some(entry) = self.held.pop_front_if(|entry| !matches!(entry.entry().tag, Tag::Append(_))) {
                pending.push_back(entry);
            }
        }
        let first = self.held.front()?;
        let since = first.since();
        let Tag::Append(appending) = &first.entry().tag else { return None };
        let (partition, number) = (appending.partition.clone(), appending.stored.fragment);
        let count_max = RUN_BATCHES.min(Reference::batches_max(engine.options.wal.payload_bytes_max()));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = self.held.pop_front_if(|entry| {
            let same = matches!(&entry.entry().tag, Tag::Append(appending) if appending.stored.fragment == number);
            same && entries.len() < count_max && (bytes == 0 || bytes + batch_bytes(entry) <= RUN_BYTES)
        }) {
            bytes += batch_bytes(&entry);
            entries.push(entry);
        }
        self.held_bytes -= bytes;
        let (fragment, step) = {
            let state = lock(partition.state());
            let fragment = state.fragment(number).expect("a fragment is begun when its first batch is appended");
            (fragment, STEP_BYTES.min(state.roll.bytes))
        };
        let number = self.number + self.runs.len() as u64;
        self.runs.push_back((since, None));
        Some(Run { partition, fragment, number, step, entries })
    }
}

/// What failed stays where it is: the WAL is about to stop.
fn is_passed(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed(_))
}

fn batch_bytes(entry: &Pending<Tag>) -> usize {
    match &entry.entry().tag {
        Tag::Append(appending) => appending.stored.batch.encoded_bytes(),
        _ => 0,
    }
}

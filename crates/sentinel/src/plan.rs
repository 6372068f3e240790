//! What to write next.
//!
//! A change may be larger than one transaction, so it is a sequence of [`Step`]s. Each is computed from the catalog as
//! it is *then*, is valid alone, and brings the catalog nearer to where no step is left. A sentinel that stops
//! half-way leaves nothing to remember: the next one asks for the next step.

use bytes::Bytes;
use goulette_meta::{
    Change, Entry, Guard, Key, MetaTxn,
    keys::{Counter, CounterRecord, Operation, OperationId, OperationRecord, RingRecord},
};
use goulette_replication::PartitionState;
use goulette_types::{PartitionId, Revision, Timestamp};

use crate::{catalog::Catalog, partition_state};

pub(crate) mod adopt;
pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod import;
pub(crate) mod partition;
pub(crate) mod producer;
pub(crate) mod rebalance;
pub(crate) mod tend;
pub(crate) mod topic;

/// Partitions that a topic may have.
pub(crate) const PARTITIONS_MAX: u32 = 10_000;
/// Replicas that a topic may want.
pub(crate) const REPLICATION_FACTOR_MAX: u32 = 15;
/// Entries of the operation log that are kept.
const OPERATIONS_KEPT: u64 = 10_000;

/// One transaction: what must hold, and what it changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// Keys that must not have changed since these revisions.
    pub(crate) guards: Vec<(Key, Revision)>,
    pub(crate) changes: Vec<Change>,
}

impl Step {
    /// The step as the store takes it.
    ///
    /// `leadership` is the revision that made this sentinel the leader; without it nobody else could be.
    pub(crate) fn txn(&self, leadership: Option<Revision>) -> MetaTxn {
        let leads = leadership.map(|revision| Guard { key: Key::LeadingSentinel.path(), revision });
        let guards =
            self.guards.iter().map(|(key, revision)| Guard { key: key.path(), revision: *revision }).chain(leads);
        MetaTxn { guards: guards.collect(), writes: self.changes.iter().map(Change::write).collect(), lease: None }
    }

    /// The entry of the operation log by which one finds out whether the step was carried out; `None` if it writes none.
    pub(crate) fn receipt(&self) -> Option<(String, Bytes)> {
        self.changes.iter().find_map(|change| match change {
            Change::Put(entry @ Entry::Operation(..)) => Some((entry.key().path(), entry.value())),
            _ => None,
        })
    }
}

/// Gathers a step that is recorded in the operation log.
///
/// Every such step raises the operation counter and is guarded by it, so of two writers with the same view only one
/// succeeds.
struct Draft<'a> {
    catalog: &'a Catalog,
    now: Timestamp,
    request_id: Option<String>,
    next_operation: u64,
    guards: Vec<(Key, Revision)>,
    changes: Vec<Change>,
    /// Whether old operations go: then the ring as it was before this step is kept instead.
    trims: bool,
}

impl<'a> Draft<'a> {
    fn new(catalog: &'a Catalog, now: Timestamp, request_id: Option<String>) -> Self {
        let (next_operation, _) = catalog.counter(Counter::Operation);
        Self { catalog, now, request_id, next_operation, guards: Vec::new(), changes: Vec::new(), trims: false }
    }

    /// Records an operation; the changes that belong to it name its id.
    fn record(&mut self, operation: Operation) -> OperationId {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        let record = OperationRecord { at: self.now, request_id: self.request_id.clone(), operation };
        self.put(Entry::Operation(id, record));
        if let Some(old) = id.0.checked_sub(OPERATIONS_KEPT).filter(|&old| old > 0) {
            self.changes.push(Change::Delete(Key::Operation(OperationId(old))));
            self.trims = true;
        }
        id
    }

    /// The id that the next recorded operation gets.
    fn upcoming(&self) -> OperationId {
        OperationId(self.next_operation)
    }

    fn put(&mut self, entry: Entry) {
        self.changes.push(Change::Put(entry));
    }

    /// Writes a partition's state, if its key is still the one that the state was made from.
    fn put_partition(&mut self, id: PartitionId, state: PartitionState, operation: OperationId) {
        self.guards.push((Key::Partition(id), self.catalog.partition_revision(id)));
        self.put(Entry::Partition(id, partition_state::record(state, operation)));
    }

    /// Changes those partitions for which `change` has another state, as many as fit; answers how many that were.
    fn change_partitions(
        &mut self,
        ids: impl Iterator<Item = PartitionId>,
        operation: OperationId,
        change: impl Fn(PartitionId, &PartitionState) -> Option<PartitionState>,
    ) -> u32 {
        let catalog = self.catalog;
        let changed = ids.filter_map(|id| {
            let state = partition_state::state(catalog.partition(id)?);
            change(id, &state).filter(|next| *next != state).map(|next| (id, next))
        });
        let changed: Vec<_> = changed.take(self.room()).collect();
        let count = changed.len() as u32;
        changed.into_iter().for_each(|(id, next)| self.put_partition(id, next, operation));
        count
    }

    fn delete(&mut self, key: Key) {
        self.changes.push(Change::Delete(key));
    }

    /// How many more keys fit, when one more operation is still to be recorded.
    fn room(&self) -> usize {
        // The counter, the ring, the operation and the old one that makes way for it; and as many guards and two more.
        MetaTxn::KEYS_MAX - 4 - self.changes.len()
    }

    fn finish(mut self) -> Step {
        let counter = Counter::Operation;
        let (first, revision) = self.catalog.counter(counter);
        if self.trims {
            let operation = OperationId(first.saturating_sub(1));
            self.put(Entry::Ring(RingRecord { members: self.catalog.ring_members(), operation }));
        }
        self.put(Entry::Counter(counter, CounterRecord { next: self.next_operation }));
        self.guards.push((Key::Counter(counter), revision));
        Step { guards: self.guards, changes: self.changes }
    }
}

#[cfg(test)]
mod tests;

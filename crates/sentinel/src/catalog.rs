//! What the metadata says, in memory: loaded from the store, then kept up by applying each change that is committed.
//!
//! Only the store is the truth; this is its mirror, indexed for the questions that are asked often.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use goulette_meta::{
    Change, Entry, Key, KeyError, Snapshot,
    keys::{BrokerRecord, ClusterRecord, Counter, CounterRecord, PartitionRecord, SentinelRecord, TopicRecord},
};
use goulette_types::{BrokerId, PartitionId, Revision, SentinelId, TopicId, TopicName};

pub(crate) use assignments::{AssignedRole, Assignment, Offline};
pub(crate) use questions::live_broker;

mod assignments;
mod questions;

/// A record and the revision that wrote it.
#[derive(Clone, Debug, PartialEq)]
struct At<T> {
    revision: Revision,
    record: T,
}

/// The cluster's metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Catalog {
    revision: Revision,
    cluster: Option<ClusterRecord>,
    topics: BTreeMap<TopicName, At<TopicRecord>>,
    names: HashMap<TopicId, TopicName>,
    partitions: BTreeMap<PartitionId, At<PartitionRecord>>,
    /// The partitions that each broker is to hold.
    held: BTreeMap<BrokerId, BTreeSet<PartitionId>>,
    released: Released,
    brokers: BTreeMap<BrokerId, At<BrokerRecord>>,
    deleted: HashMap<TopicId, Revision>,
    /// The same in the order of their deletion.
    deletions: BTreeSet<(Revision, TopicId)>,
    counters: BTreeMap<Counter, At<CounterRecord>>,
    sentinels: BTreeMap<SentinelId, At<SentinelRecord>>,
    leading: Option<At<SentinelRecord>>,
    /// Keys whose values are none of ours, each with what is wrong.
    foreign: BTreeMap<String, String>,
}

/// The partitions that were moved away from each broker, and since when, so that it hears of that. Seen happen, not stored: a
/// broker that was away meanwhile, from a sentinel that has not seen it, keeps what it has.
#[derive(Clone, Debug, Default)]
struct Released(BTreeMap<BrokerId, BTreeMap<PartitionId, Revision>>);

/// Two catalogs are the same that say the same of the metadata.
impl PartialEq for Released {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Catalog {
    /// What the store holds.
    ///
    /// # Errors
    /// [`KeyError`] for a value that is of a later version, or one that is not ours where nothing can be done without
    /// it. Other foreign values are left out, and named by [`foreign`](Self::foreign).
    pub(crate) fn load(snapshot: &Snapshot) -> Result<Self, KeyError> {
        let mut catalog = Catalog::default();
        for stored in &snapshot.entries {
            catalog.take(&stored.key, Some(&stored.value), stored.revision)?;
        }
        catalog.revision = snapshot.revision;
        Ok(catalog)
    }

    /// Takes over what another one has done to a key.
    ///
    /// # Errors
    /// As [`load`](Self::load); the catalog then still has the former value.
    pub(crate) fn take(&mut self, path: &str, value: Option<&[u8]>, revision: Revision) -> Result<(), KeyError> {
        self.foreign.remove(path);
        let change = match value {
            None => Key::parse(path).map(Change::Delete),
            Some(value) => match Entry::parse(path, value) {
                Ok(entry) => entry.map(Change::Put),
                Err(KeyError::Foreign { source, .. }) if !is_vital(path) => {
                    self.foreign.insert(path.to_owned(), source.to_string());
                    None
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(change) = change {
            self.apply(revision, &change);
        }
        Ok(())
    }

    /// Takes over from an earlier reading of the same metadata what was moved away since then.
    pub(crate) fn continues(&mut self, before: &Self) {
        if before.generation() != self.generation() {
            return;
        }
        self.released = before.released.clone();
        for (broker, held) in &before.held {
            let now = self.held.get(broker);
            let gone =
                held.iter().filter(|id| self.partitions.contains_key(id) && !now.is_some_and(|now| now.contains(id)));
            let gone: Vec<_> = gone.map(|id| (*id, self.revision)).collect();
            self.released.0.entry(broker.clone()).or_default().extend(gone);
        }
        for (broker, released) in &mut self.released.0 {
            let now = self.held.get(broker);
            released.retain(|id, _| self.partitions.contains_key(id) && !now.is_some_and(|now| now.contains(id)));
        }
    }

    /// Notes that everything up to `revision` is in here.
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Takes over a change that revision `revision` has made.
    pub(crate) fn apply(&mut self, revision: Revision, change: &Change) {
        self.revision = self.revision.max(revision);
        match change {
            Change::Put(entry) => self.put(revision, entry.clone()),
            Change::Delete(key) => self.delete(key),
        }
    }

    fn put(&mut self, revision: Revision, entry: Entry) {
        match entry {
            Entry::Cluster(record) => self.cluster = Some(record),
            Entry::Topic(name, record) => {
                self.names.insert(record.id, name.clone());
                self.topics.insert(name, At { revision, record });
            }
            Entry::Partition(id, record) => {
                self.forget_replicas(id);
                let before = self.partitions.get(&id).map(|at| &at.record.replicas);
                for broker in before.into_iter().flatten().filter(|broker| !record.replicas.contains(broker)) {
                    self.released.0.entry(broker.clone()).or_default().insert(id, revision);
                }
                for broker in &record.replicas {
                    if let Some(released) = self.released.0.get_mut(broker) {
                        released.remove(&id);
                    }
                    self.held.entry(broker.clone()).or_default().insert(id);
                }
                self.partitions.insert(id, At { revision, record });
            }
            Entry::Broker(id, record) => {
                self.brokers.insert(id, At { revision, record });
            }
            Entry::Deleted(id, _) => {
                self.deleted.insert(id, revision);
                self.deletions.insert((revision, id));
            }
            Entry::Counter(counter, record) => {
                self.counters.insert(counter, At { revision, record });
            }
            Entry::Sentinel(id, record) => {
                self.sentinels.insert(id, At { revision, record });
            }
            Entry::LeadingSentinel(record) => self.leading = Some(At { revision, record }),
            Entry::Operation(..) | Entry::Ring(_) => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::Topic(name) => {
                if let Some(topic) = self.topics.remove(name) {
                    self.names.remove(&topic.record.id);
                }
            }
            Key::Partition(id) => {
                self.forget_replicas(*id);
                self.partitions.remove(id);
                self.released.0.values_mut().for_each(|released| _ = released.remove(id));
            }
            Key::Broker(id) => {
                self.released.0.remove(id);
                self.brokers.remove(id);
            }
            Key::Deleted(id) => {
                if let Some(revision) = self.deleted.remove(id) {
                    self.deletions.remove(&(revision, *id));
                }
            }
            Key::Counter(counter) => {
                self.counters.remove(counter);
            }
            Key::Cluster => self.cluster = None,
            Key::Sentinel(id) => {
                self.sentinels.remove(id);
            }
            Key::LeadingSentinel => self.leading = None,
            Key::Operation(_) | Key::Ring => {}
        }
    }

    fn forget_replicas(&mut self, id: PartitionId) {
        for broker in self.partitions.get(&id).into_iter().flat_map(|at| &at.record.replicas) {
            if let Some(held) = self.held.get_mut(broker) {
                held.remove(&id);
                if held.is_empty() {
                    self.held.remove(broker);
                }
            }
        }
    }
}

/// Whether a foreign value of this key stops everything: a wrong guess would give numbers a second time.
fn is_vital(path: &str) -> bool {
    matches!(Key::parse(path), Some(Key::Cluster | Key::Counter(_)))
}

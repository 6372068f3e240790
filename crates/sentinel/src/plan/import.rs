//! Taking metadata over from elsewhere: an export of another store, or a backup.
//!
//! What is taken over may be older than what brokers hold, so no in-sync replicas are believed before all have reported.
//! Topics are written last: until then nothing of it is visible, and a sentinel that stops half-way is repeated.

use goulette_meta::{
    Change, Entry,
    keys::{BrokerRecord, BrokerState, Counter, CounterRecord, Operation},
};
use goulette_replication::controller;
use goulette_types::Timestamp;

use super::{Draft, Step};
use crate::{RequestError, catalog::Catalog, partition_state};

/// Checks that the metadata can be taken over.
///
/// # Errors
/// [`RequestError::Invalid`] if there are topics, or it is another cluster's.
pub(crate) fn check(catalog: &Catalog, entries: &[Entry]) -> Result<(), RequestError> {
    if let Some((name, _)) = catalog.topics().next() {
        let text = format!("metadata is imported only where there is no topic, and there is {name}");
        return Err(RequestError::Invalid(text));
    }
    let theirs = entries.iter().find_map(|entry| match entry {
        Entry::Cluster(cluster) => Some(cluster.cluster_id),
        _ => None,
    });
    let ours = catalog.cluster().map(|cluster| cluster.cluster_id);
    if theirs != ours {
        let shown = |id: Option<goulette_types::ClusterId>| id.map_or("none".to_owned(), |id| id.to_string());
        return Err(RequestError::Invalid(format!(
            "the metadata is of cluster {}, this sentinel serves {}: start it with -cluster-id on new metadata",
            shown(theirs),
            shown(ours)
        )));
    }
    Ok(())
}

/// The first step: a new generation, numbers above all that were given, and the brokers that are here on the record
/// again, as the operations that were there give way to those that come.
pub(crate) fn begin(catalog: &Catalog, now: Timestamp, entries: &[Entry]) -> Option<Step> {
    let mut cluster = catalog.cluster()?.clone();
    let mut draft = Draft::new(catalog, now, None);
    let (mut next_producer, _) = catalog.counter(Counter::Producer);
    for entry in entries {
        match entry {
            Entry::Counter(Counter::Operation, record) => draft.next_operation = draft.next_operation.max(record.next),
            Entry::Operation(id, _) => draft.next_operation = draft.next_operation.max(id.0 + 1),
            Entry::Counter(Counter::Producer, record) => next_producer = next_producer.max(record.next),
            Entry::Cluster(theirs) => {
                cluster.replication_factor = theirs.replication_factor;
                cluster.generation = cluster.generation.max(theirs.generation);
            }
            _ => {}
        }
    }
    cluster.generation += 1;
    cluster.operation = draft.record(Operation::ImportMetadata { generation: cluster.generation });
    draft.put(Entry::Counter(Counter::Producer, CounterRecord { next: next_producer }));
    for (id, known) in catalog.brokers() {
        if draft.room() < 4 {
            break;
        }
        let (weight, rack) = (known.weight, known.rack.clone());
        let operation = draft.record(Operation::AddBrokerToHashRing { broker: id.clone(), weight, rack });
        draft.put(Entry::Broker(id.clone(), BrokerRecord { operation, ..known.clone() }));
    }
    draft.put(Entry::Cluster(cluster));
    Some(draft.finish())
}

/// Entries in the order in which they are to be written, as they are to be.
pub(crate) fn order(catalog: &Catalog, entries: Vec<Entry>) -> Vec<Entry> {
    let (mut first, mut topics) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Topic(..) => topics.push(entry),
            Entry::Partition(id, record) => {
                let doubted = controller::distrust(&partition_state::state(&record));
                first.push(Entry::Partition(id, partition_state::record(doubted, record.operation)));
            }
            Entry::Broker(id, record) => {
                // Those that are here know better.
                if catalog.broker(&id).is_none() {
                    let state = if record.state == BrokerState::Live { BrokerState::Down } else { record.state };
                    first.push(Entry::Broker(id, BrokerRecord { state, ..record }));
                }
            }
            Entry::Deleted(..) | Entry::Operation(..) => first.push(entry),
            Entry::Cluster(_)
            | Entry::Counter(..)
            | Entry::Ring(_)
            | Entry::Sentinel(..)
            | Entry::LeadingSentinel(_) => {}
        }
    }
    first.extend(topics);
    first
}

/// Writes some entries: as many as fit; answers how many that were.
pub(crate) fn write(catalog: &Catalog, now: Timestamp, entries: &[Entry]) -> (Step, usize) {
    let mut draft = Draft::new(catalog, now, None);
    let mut bytes = 0;
    let mut count = 0;
    for entry in entries.iter().take(draft.room()) {
        bytes += entry.value().len() + entry.key().path().len();
        if count > 0 && bytes > BYTES_MAX {
            break;
        }
        draft.changes.push(Change::Put(entry.clone()));
        count += 1;
    }
    (draft.finish(), count)
}

/// Bytes of one transaction.
const BYTES_MAX: usize = 400 << 10;

//! The operation log against the keys: the keys are the truth, the log has to agree. Looks only, and never writes.

use std::collections::{BTreeMap, BTreeSet};

use goulette_meta::{
    Entry, Snapshot,
    keys::{Operation, OperationId, RingMember, RingRecord},
};

/// What does not agree, as sentences; empty where all does. Foreign values are none of its business.
pub(crate) fn check(snapshot: &Snapshot) -> Vec<String> {
    let mut ring = RingRecord::default();
    let (mut operations, mut named, mut live) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for stored in &snapshot.entries {
        let operation = match Entry::parse(&stored.key, &stored.value) {
            Ok(Some(Entry::Operation(id, record))) => {
                operations.insert(id, record.operation);
                continue;
            }
            Ok(Some(Entry::Ring(record))) => {
                ring = record;
                continue;
            }
            Ok(Some(Entry::Broker(id, record))) => {
                live.insert(id, RingMember { weight: record.weight, rack: record.rack });
                record.operation
            }
            Ok(Some(Entry::Cluster(record))) => record.operation,
            Ok(Some(Entry::Topic(_, record))) => record.operation,
            Ok(Some(Entry::Partition(_, record))) => record.operation,
            Ok(Some(Entry::Deleted(_, record))) => record.operation,
            Ok(Some(Entry::Counter(..) | Entry::Sentinel(..) | Entry::LeadingSentinel(_)) | None) | Err(_) => continue,
        };
        named.push((stored.key.clone(), operation));
    }
    let mut problems = Vec::new();
    let unknown = named.iter().filter(|(_, id)| *id > ring.operation && !operations.contains_key(id));
    problems.extend(unknown.map(|(key, id)| format!("{key} names operation {id}, which is not in the log")));
    let rebuilt = rebuild(ring, &operations);
    let both: BTreeSet<_> = rebuilt.keys().chain(live.keys()).collect();
    let differs = both.into_iter().filter(|id| rebuilt.get(*id) != live.get(*id));
    problems.extend(differs.map(|id| {
        format!("broker {id} is on the ring as {:?}, and by the operation log as {:?}", live.get(id), rebuilt.get(id))
    }));
    problems
}

/// The ring from its snapshot and the operations behind it.
fn rebuild(
    ring: RingRecord,
    operations: &BTreeMap<OperationId, Operation>,
) -> BTreeMap<goulette_types::BrokerId, RingMember> {
    let RingRecord { mut members, operation } = ring;
    for (id, done) in operations {
        if *id <= operation {
            continue;
        }
        match done {
            Operation::AddBrokerToHashRing { broker, weight, rack } => {
                members.insert(broker.clone(), RingMember { weight: *weight, rack: rack.clone() });
            }
            Operation::RemoveBrokerFromHashRing { broker } => {
                members.remove(broker);
            }
            _ => {}
        }
    }
    members
}

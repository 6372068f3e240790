//! Topics: made, placed, changed, deleted.

use std::collections::BTreeMap;

use goulette_meta::{
    Entry, Key,
    keys::{DeletedRecord, InSync, Leader, Operation, OperationId, PartitionRecord, TopicRecord},
};
use goulette_types::{
    BrokerId, LeaderEpoch, PartitionEpoch, PartitionId, PartitionIndex, Timestamp, TopicId, TopicName,
};

use super::{Draft, Step};
use crate::{
    RequestError,
    catalog::Catalog,
    placement::{Member, Ring},
};

/// A topic to be made, checked.
#[derive(Clone, Debug)]
pub(crate) struct NewTopic {
    pub(crate) name: TopicName,
    pub(crate) partitions: u32,
    /// `None`: the cluster's.
    pub(crate) replication_factor: Option<u32>,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) request_id: Option<String>,
}

/// A change of a topic, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alteration {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) unset: Vec<String>,
    /// `None`: as many as it has.
    pub(crate) partitions: Option<u32>,
}

/// The first step of making a topic; [`fill`] gives the others. `None` if this very request has made it already.
///
/// # Errors
/// [`RequestError::TopicExists`]; without a live broker nothing is made.
pub(crate) fn create(
    catalog: &Catalog,
    now: Timestamp,
    id: TopicId,
    topic: &NewTopic,
) -> Result<Option<Step>, RequestError> {
    if let Some(present) = catalog.topic(&topic.name) {
        return match &topic.request_id {
            Some(_) if present.request_id == topic.request_id => Ok(None),
            _ => Err(RequestError::TopicExists { topic: topic.name.clone() }),
        };
    }
    let mut draft = Draft::new(catalog, now, topic.request_id.clone());
    let partitions = topic.partitions;
    let operation = draft.record(Operation::CreateTopic { topic_id: id, topic: topic.name.clone(), partitions });
    let cluster_factor = catalog.cluster().map_or(1, |cluster| cluster.replication_factor);
    let record = TopicRecord {
        id,
        partitions,
        replication_factor: topic.replication_factor.unwrap_or(cluster_factor),
        config: topic.config.clone(),
        created_at: now,
        request_id: topic.request_id.clone(),
        operation,
    };
    draft.put(Entry::Topic(topic.name.clone(), record));
    place(&mut draft, id, 0..partitions)?;
    Ok(Some(draft.finish()))
}

/// The next step that places partitions which the topic should have and has not; `None` once it is complete.
pub(crate) fn fill(catalog: &Catalog, now: Timestamp, name: &TopicName) -> Result<Option<Step>, RequestError> {
    let Some(topic) = catalog.topic(name) else { return Ok(None) };
    // Partitions are placed in order, so those that exist are the first ones.
    let placed = catalog.partitions(topic.id).count() as u32;
    if placed >= topic.partitions {
        return Ok(None);
    }
    let mut draft = Draft::new(catalog, now, None);
    place(&mut draft, topic.id, placed..topic.partitions)?;
    Ok(Some(draft.finish()))
}

/// Places as many of the partitions as fit into the transaction.
fn place(draft: &mut Draft<'_>, topic: TopicId, partitions: std::ops::Range<u32>) -> Result<(), RequestError> {
    let catalog = draft.catalog;
    let operation = draft.upcoming();
    let first = PartitionIndex(partitions.start);
    let mut load = catalog.live_load();
    let ring = Ring::new(load.keys().map(|broker| (broker.clone(), Member::default())).collect());
    let bounds = ring.bounds(partitions.len(), &load);
    let mut brokers = Vec::new();
    for index in partitions.take(draft.room()) {
        let id = PartitionId { topic, index: PartitionIndex(index) };
        // One replica, whatever factor is wanted, until there is replication.
        let Some(broker) = ring.place(id, 1, &bounds, &mut load).pop() else { return Err(nobody(catalog)) };
        let record = first_leadership(catalog, &broker, operation)?;
        draft.put(Entry::Partition(id, record));
        brokers.push(broker);
    }
    draft.record(Operation::GenerateTopicReplicas { topic_id: topic, first, brokers });
    Ok(())
}

/// A new partition with one replica, whatever factor is wanted: replication comes later, and raises it.
fn first_leadership(
    catalog: &Catalog,
    broker: &BrokerId,
    operation: OperationId,
) -> Result<PartitionRecord, RequestError> {
    let Some(known) = catalog.broker(broker) else { return Err(nobody(catalog)) };
    Ok(PartitionRecord {
        replicas: vec![broker.clone()],
        isr: vec![InSync { broker: broker.clone(), storage: known.storage }],
        leader: Some(Leader { broker: broker.clone(), incarnation: known.incarnation }),
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(1),
        operation,
    })
}

fn nobody(catalog: &Catalog) -> RequestError {
    let awaited: Vec<_> = catalog.brokers().map(|(id, _)| id.clone()).collect();
    if awaited.is_empty() { RequestError::NoBroker } else { RequestError::NoLiveBroker { awaited } }
}

/// The first step of changing a topic; [`fill`] gives the others. `None` if it is so already.
///
/// # Errors
/// [`RequestError::PartitionsShrink`], [`RequestError::UnknownTopic`].
pub(crate) fn alter(
    catalog: &Catalog,
    now: Timestamp,
    name: &TopicName,
    alteration: &Alteration,
) -> Result<Option<Step>, RequestError> {
    let Some(topic) = catalog.topic(name) else { return Err(RequestError::UnknownTopic { topic: name.clone() }) };
    let wanted = alteration.partitions.unwrap_or(topic.partitions);
    if wanted < topic.partitions {
        return Err(RequestError::PartitionsShrink { topic: name.clone(), present: topic.partitions, wanted });
    }
    let mut altered = TopicRecord { partitions: wanted, ..topic.clone() };
    for setting in &alteration.unset {
        altered.config.remove(setting);
    }
    altered.config.extend(alteration.set.clone());
    if altered == *topic {
        return Ok(None);
    }
    let mut draft = Draft::new(catalog, now, None);
    altered.operation = draft.record(Operation::AlterTopic { topic_id: topic.id, topic: name.clone() });
    draft.put(Entry::Topic(name.clone(), altered));
    if wanted > topic.partitions {
        let placed = catalog.partitions(topic.id).count() as u32;
        place(&mut draft, topic.id, placed..wanted)?;
    }
    Ok(Some(draft.finish()))
}

/// The first step of deleting a topic; [`sweep`] gives the others.
///
/// From this step on the topic does not exist and brokers may delete its data: its id is recorded as deleted.
///
/// # Errors
/// [`RequestError::UnknownTopic`].
pub(crate) fn delete(catalog: &Catalog, now: Timestamp, name: &TopicName) -> Result<Step, RequestError> {
    let Some(topic) = catalog.topic(name) else { return Err(RequestError::UnknownTopic { topic: name.clone() }) };
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(Operation::DeleteTopic { topic_id: topic.id, topic: name.clone() });
    draft.put(Entry::Deleted(topic.id, DeletedRecord { name: name.clone(), at: now, operation }));
    draft.delete(Key::Topic(name.clone()));
    let room = draft.room();
    catalog.partitions(topic.id).take(room).for_each(|(id, _)| draft.delete(Key::Partition(id)));
    Ok(draft.finish())
}

/// The next step that removes what is left of deleted topics; `None` once nothing is.
pub(crate) fn sweep(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let mut draft = Draft::new(catalog, now, None);
    let room = draft.room();
    catalog.orphans().take(room).for_each(|id| draft.delete(Key::Partition(id)));
    (!draft.changes.is_empty()).then(|| draft.finish())
}

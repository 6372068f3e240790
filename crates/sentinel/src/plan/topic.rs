//! Topics: made, placed, changed, deleted.

use std::collections::BTreeMap;

use goulette_meta::{
    Entry, Key,
    keys::{DeletedRecord, Operation, TopicRecord},
};
use goulette_replication::{Member, PartitionState, controller};
use goulette_types::{BrokerId, PartitionId, PartitionIndex, Timestamp, TopicId, TopicName};

use super::{Draft, Step};
use crate::{RequestError, catalog::Catalog, placement::Leads, topic_config};

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
    /// `None`: as before.
    pub(crate) replication_factor: Option<u32>,
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
    draft.put(Entry::Topic(topic.name.clone(), record.clone()));
    place(&mut draft, id, &record, 0..partitions)?;
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
    place(&mut draft, topic.id, topic, placed..topic.partitions)?;
    Ok(Some(draft.finish()))
}

/// Places as many of the partitions as fit into the transaction.
fn place(
    draft: &mut Draft<'_>,
    topic: TopicId,
    record: &TopicRecord,
    partitions: std::ops::Range<u32>,
) -> Result<(), RequestError> {
    let catalog = draft.catalog;
    let operation = draft.upcoming();
    let first = PartitionIndex(partitions.start);
    let (live, ring, mut load) = (catalog.live(), catalog.ring(), catalog.live_load());
    let count = catalog.possible_replicas(record.replication_factor);
    let bounds = ring.bounds(partitions.len() * count, &load);
    let mut leads = Leads::new(ring.members(), catalog.preferred_load(), partitions.len());
    let mut replicas = Vec::new();
    for index in partitions.take(draft.room()) {
        let id = PartitionId { topic, index: PartitionIndex(index) };
        let mut chosen = ring.place(id, count, &bounds, &mut load);
        leads.choose(&mut chosen, None);
        let storage = |broker: &BrokerId| live.get(broker).map(|live| live.storage);
        let members =
            chosen.iter().filter_map(|broker| Some(Member { broker: broker.clone(), storage: storage(broker)? }));
        let members: Vec<_> = members.collect();
        if members.is_empty() {
            return Err(nobody(catalog));
        }
        let state = PartitionState::new(members, topic_config::min_insync_replicas(&record.config));
        let state = controller::settle(&state, &live).unwrap_or(state);
        draft.put_partition(id, state, operation);
        replicas.push(chosen);
    }
    draft.record(Operation::GenerateTopicReplicas { topic_id: topic, first, replicas });
    Ok(())
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
    let replication_factor = alteration.replication_factor.unwrap_or(topic.replication_factor);
    let mut altered = TopicRecord { partitions: wanted, replication_factor, ..topic.clone() };
    for setting in &alteration.unset {
        altered.config.remove(setting);
    }
    altered.config.extend(alteration.set.clone());
    if altered == *topic {
        return Ok(None);
    }
    let mut draft = Draft::new(catalog, now, None);
    altered.operation = draft.record(Operation::AlterTopic { topic_id: topic.id, topic: name.clone() });
    draft.put(Entry::Topic(name.clone(), altered.clone()));
    if wanted > topic.partitions {
        let placed = catalog.partitions(topic.id).count() as u32;
        place(&mut draft, topic.id, &altered, placed..wanted)?;
    }
    Ok(Some(draft.finish()))
}

/// The next step that gives partitions the minimum that their topic wants; `None` once all have it.
pub(crate) fn follow_minimum(
    catalog: &Catalog,
    now: Timestamp,
    name: &TopicName,
) -> Result<Option<Step>, RequestError> {
    let Some(topic) = catalog.topic(name) else { return Ok(None) };
    let wanted = topic_config::min_insync_replicas(&topic.config);
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    let ids = catalog.partitions(topic.id).map(|(id, _)| id);
    let changed = draft.change_partitions(ids, operation, |_, state| controller::set_minimum(state, wanted).ok());
    if changed == 0 {
        return Ok(None);
    }
    draft.record(Operation::AlterTopic { topic_id: topic.id, topic: name.clone() });
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

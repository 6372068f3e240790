//! Taking back partitions that brokers hold and that the metadata does not know.

use std::collections::BTreeMap;

use goulette_meta::{
    Entry,
    keys::{Operation, TopicRecord},
};
use goulette_replication::{Member, PartitionState, controller};
use goulette_types::{
    BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionId, PartitionIndex, Timestamp, TopicId, TopicName,
};

use super::{Draft, PARTITIONS_MAX, Step};
use crate::{RequestError, catalog::Catalog};

/// A topic to be taken back.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    pub(crate) topic: TopicId,
    pub(crate) name: TopicName,
    /// Who holds which of its partitions.
    pub(crate) held: BTreeMap<PartitionIndex, Vec<Copy>>,
    /// Partitions that nobody holds begin empty.
    pub(crate) missing_may_be_empty: bool,
}

/// A broker's copy of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) broker: BrokerId,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) partition_epoch: PartitionEpoch,
    pub(crate) log_epoch: LeaderEpoch,
    pub(crate) end: Offset,
}

/// The next step: partitions first, then the topic itself, so that nothing is visible before all is there; `None` once
/// it is.
///
/// # Errors
/// [`RequestError::TopicExists`], and [`RequestError::Invalid`] for partitions that nobody holds.
pub(crate) fn adopt(catalog: &Catalog, now: Timestamp, adoption: &Adoption) -> Result<Option<Step>, RequestError> {
    if catalog.topic_name(adoption.topic).is_some() {
        return Ok(None);
    }
    if catalog.topic(&adoption.name).is_some() {
        return Err(RequestError::TopicExists { topic: adoption.name.clone() });
    }
    let count = adoption.held.keys().map(|index| index.0.saturating_add(1)).max().unwrap_or(0);
    if count == 0 || count > PARTITIONS_MAX {
        return Err(RequestError::Invalid(format!("topic {} would have {count} partitions", adoption.name)));
    }
    let missing = (0..count).find(|&index| !adoption.held.contains_key(&PartitionIndex(index)));
    if let Some(missing) = missing.filter(|_| !adoption.missing_may_be_empty) {
        return Err(RequestError::Invalid(format!(
            "no broker that is live holds partition {missing} of topic {}: start the one that does, or let it begin empty",
            adoption.name
        )));
    }
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    let mut adopted = 0;
    for index in 0..count {
        if draft.room() < 2 {
            break;
        }
        let id = PartitionId { topic: adoption.topic, index: PartitionIndex(index) };
        if catalog.partition(id).is_none() {
            let state = state(catalog, id, adoption.held.get(&id.index))?;
            draft.put_partition(id, state, operation);
            adopted += 1;
        }
    }
    let all_there = catalog.partitions(adoption.topic).count() as u32 + adopted >= count;
    if all_there {
        let record = TopicRecord {
            id: adoption.topic,
            partitions: count,
            replication_factor: catalog.cluster().map_or(1, |cluster| cluster.replication_factor),
            config: BTreeMap::new(),
            created_at: now,
            request_id: None,
            operation,
        };
        draft.put(Entry::Topic(adoption.name.clone(), record));
    }
    let (topic_id, topic) = (adoption.topic, adoption.name.clone());
    draft.record(Operation::AdoptPartitions { topic_id, topic, partitions: adopted });
    Ok(Some(draft.finish()))
}

/// The copy with the highest (epoch, end) leads as the only one in sync; the others catch up with it.
fn state(catalog: &Catalog, id: PartitionId, copies: Option<&Vec<Copy>>) -> Result<PartitionState, RequestError> {
    let live = catalog.live();
    let mut copies: Vec<_> = copies.into_iter().flatten().filter(|copy| live.contains_key(&copy.broker)).collect();
    copies.sort_by_key(|copy| std::cmp::Reverse((copy.log_epoch, copy.end)));
    let replicates = |broker: &BrokerId| catalog.broker(broker).is_some_and(|known| known.replicates);
    let first = match copies.first() {
        Some(best) => best.broker.clone(),
        None => {
            let mut load = catalog.live_load();
            let ring = catalog.ring();
            let chosen = ring.place(id, 1, &ring.bounds(1, &load), &mut load).pop();
            chosen.ok_or(RequestError::NoBroker)?
        }
    };
    let Some(leads) = live.get(&first) else { return Err(RequestError::NoBroker) };
    let mut state = PartitionState::new(vec![Member { broker: first.clone(), storage: leads.storage }], None);
    if replicates(&first) {
        let others = copies.iter().skip(1).map(|copy| copy.broker.clone()).filter(replicates);
        state.replicas.extend(others);
    }
    for copy in &copies {
        state.leader_epoch = state.leader_epoch.max(copy.leader_epoch).max(copy.log_epoch);
        state.partition_epoch = state.partition_epoch.max(copy.partition_epoch);
    }
    Ok(controller::settle(&state, &live).unwrap_or(state))
}

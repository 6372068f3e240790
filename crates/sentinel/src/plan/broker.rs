//! Brokers that come, go and fall silent.

use std::collections::HashMap;

use goulette_meta::{
    Entry,
    keys::{BrokerRecord, BrokerState, Leader, Operation, PartitionRecord},
};
use goulette_types::{BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, PartitionId, StorageId, Timestamp};

use super::{Draft, Step, producer};
use crate::{RequestError, catalog::Catalog};

/// A broker's registration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) broker: BrokerId,
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) storage: StorageId,
    pub(crate) release: String,
    /// The highest leader epoch that it has stored for each partition.
    pub(crate) epochs: HashMap<PartitionId, LeaderEpoch>,
    /// The highest producer id that it has stored; 0 for none.
    pub(crate) producer_id_max: u64,
}

/// The next step of a registration; `None` once the broker leads all that it can.
///
/// The first step makes the broker live, so its older starts lead nothing from then on. Elected is the broker where it
/// is to hold a partition, comes with the disk that holds what is committed, and does not lead already as this start;
/// or where it has seen a higher leader epoch than the metadata (which then has gone back).
pub(crate) fn register(
    catalog: &Catalog,
    now: Timestamp,
    registration: &Registration,
) -> Result<Option<Step>, RequestError> {
    let mut draft = Draft::new(catalog, now, None);
    let known = catalog.broker(&registration.broker);
    if known.is_none() {
        draft.record(Operation::AddBrokerToHashRing { broker: registration.broker.clone() });
    }
    let operation = draft.upcoming();
    let renewed = known.is_none_or(|known| {
        known.state != BrokerState::Live
            || known.incarnation != registration.incarnation
            || known.storage != registration.storage
            || known.address != registration.address
            || known.release != registration.release
    });
    if renewed {
        let record = BrokerRecord {
            address: registration.address.clone(),
            incarnation: registration.incarnation,
            storage: registration.storage,
            state: BrokerState::Live,
            since: now,
            release: registration.release.clone(),
            operation,
        };
        draft.put(Entry::Broker(registration.broker.clone(), record));
    }
    draft.changes.extend(producer::raise(catalog, registration.producer_id_max)?);

    let elections = catalog.held_by(&registration.broker).filter_map(|id| {
        let elected = elect(catalog.partition(id)?, id, registration)?;
        Some(Entry::Partition(id, PartitionRecord { operation, ..elected }))
    });
    let elections: Vec<_> = elections.take(draft.room()).collect();
    if draft.changes.is_empty() && elections.is_empty() {
        return Ok(None);
    }
    let elected = elections.len() as u32;
    elections.into_iter().for_each(|entry| draft.put(entry));
    draft.record(Operation::RegisterBroker {
        broker: registration.broker.clone(),
        incarnation: registration.incarnation,
        storage: registration.storage,
        elected,
    });
    Ok(Some(draft.finish()))
}

/// The partition as led by the registering broker; `None` if that changes nothing or must not be.
fn elect(partition: &PartitionRecord, id: PartitionId, registration: &Registration) -> Option<PartitionRecord> {
    let in_sync = |member: &goulette_meta::keys::InSync| {
        member.broker == registration.broker && member.storage == registration.storage
    };
    // The only copy is on another disk: an empty one never takes its place.
    if !partition.isr.iter().any(in_sync) {
        return None;
    }
    let leader = Leader { broker: registration.broker.clone(), incarnation: registration.incarnation };
    let seen = registration.epochs.get(&id).copied().unwrap_or_default();
    if partition.leader.as_ref() == Some(&leader) && seen <= partition.leader_epoch {
        return None;
    }
    Some(PartitionRecord {
        leader: Some(leader),
        leader_epoch: LeaderEpoch(partition.leader_epoch.max(seen).0 + 1),
        partition_epoch: PartitionEpoch(partition.partition_epoch.0 + 1),
        ..partition.clone()
    })
}

/// The step that records a planned stop; `None` if the broker has left already.
///
/// # Errors
/// [`RequestError::BrokerFenced`] if another start of it has registered since.
pub(crate) fn unregister(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    incarnation: Incarnation,
) -> Result<Option<Step>, RequestError> {
    let known = catalog.broker(broker).filter(|known| known.incarnation == incarnation);
    let Some(known) = known else { return Err(RequestError::BrokerFenced { broker: broker.clone() }) };
    if known.state == BrokerState::Left {
        return Ok(None);
    }
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(Operation::UnregisterBroker { broker: broker.clone(), incarnation });
    let record = BrokerRecord { state: BrokerState::Left, since: now, operation, ..known.clone() };
    draft.put(Entry::Broker(broker.clone(), record));
    Ok(Some(draft.finish()))
}

/// The step that records a broker that does not answer; `None` if it is not live as this start.
///
/// Its partitions keep their replicas: with one replica each, nobody else can lead them.
pub(crate) fn mark_down(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    incarnation: Incarnation,
) -> Option<Step> {
    let known = catalog.broker(broker)?;
    if known.incarnation != incarnation || known.state != BrokerState::Live {
        return None;
    }
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(Operation::HandleUnreachableBrokers { brokers: vec![broker.clone()] });
    let record = BrokerRecord { state: BrokerState::Down, since: now, operation, ..known.clone() };
    draft.put(Entry::Broker(broker.clone(), record));
    Some(draft.finish())
}

//! From the catalog to the wire.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use goulette_meta::keys::{BrokerRecord, BrokerState, InSync, TopicRecord};
use goulette_proto::pb;
use goulette_replication::{Member, PartitionState};
use goulette_types::{BrokerId, TopicName};

use crate::catalog::{AssignedRole, Assignment, Catalog};

/// A topic with all its partitions.
pub(super) fn topic(catalog: &Catalog, name: &TopicName, topic: &TopicRecord) -> pb::Topic {
    let partitions = catalog.partitions(topic.id).map(|(id, partition)| {
        let (leader, offline) = match catalog.leader(partition) {
            Ok(leader) => (leader.to_string(), String::new()),
            Err(offline) => (String::new(), offline.to_string()),
        };
        pb::Partition {
            index: id.index.0,
            leader,
            leader_epoch: partition.leader_epoch.0,
            partition_epoch: partition.partition_epoch.0,
            replicas: partition.replicas.iter().map(ToString::to_string).collect(),
            offline,
            isr: names(partition.isr.iter().map(|member| &member.broker)),
            eligible: names(partition.eligible.iter().map(|member| &member.broker)),
            min_insync_replicas: partition.min_insync_replicas,
            target: names(partition.moving.iter().flat_map(|moving| &moving.to)),
        }
    });
    pb::Topic {
        name: name.to_string(),
        id: Bytes::copy_from_slice(&topic.id.to_bytes()),
        partitions: partitions.collect(),
        replication_factor_wanted: topic.replication_factor,
        config: topic.config.clone().into_iter().collect(),
        created_at_ms: u64::try_from(topic.created_at.0).unwrap_or(0),
    }
}

pub(super) fn names<'a>(brokers: impl Iterator<Item = &'a BrokerId>) -> Vec<String> {
    brokers.map(ToString::to_string).collect()
}

/// The addresses of the brokers that hold a topic's partitions.
pub(super) fn brokers(catalog: &Catalog, topic: &TopicRecord) -> Vec<pb::BrokerAddress> {
    let named: BTreeSet<&BrokerId> =
        catalog.partitions(topic.id).flat_map(|(_, partition)| &partition.replicas).collect();
    let address = |id: &BrokerId| {
        let broker = catalog.broker(id)?;
        Some(pb::BrokerAddress { id: id.to_string(), address: broker.address.clone() })
    };
    named.into_iter().filter_map(address).collect()
}

/// What a broker has to lead or to follow.
pub(super) fn assignment(assignment: &Assignment) -> pb::Assignment {
    let record = &assignment.record;
    let replicas: Vec<_> = assignment.replicas.iter().map(|(id, known)| replica(id, known.as_ref())).collect();
    let leader = assignment.leader.as_ref();
    let leader = leader.and_then(|leads| replicas.iter().find(|replica| replica.broker == leads.as_str()));
    let replicates = !replicas.is_empty();
    let in_sync_of = |members: &[InSync]| if replicates { in_sync(members) } else { Vec::new() };
    pb::Assignment {
        topic_id: bytes(assignment.partition.topic.to_bytes()),
        topic: assignment.topic.to_string(),
        partition: assignment.partition.index.0,
        leader_epoch: record.leader_epoch.0,
        partition_epoch: record.partition_epoch.0,
        config: assignment.config.clone().into_iter().collect::<HashMap<_, _>>(),
        partitions: assignment.partitions,
        role: match assignment.role {
            AssignedRole::Leader => pb::Role::Leader,
            AssignedRole::Follower => pb::Role::Follower,
            AssignedRole::Waiting => pb::Role::Waiting,
        }
        .into(),
        leader: leader.cloned(),
        isr: in_sync_of(&record.isr),
        eligible: in_sync_of(&record.eligible),
        min_insync_replicas: if replicates { record.min_insync_replicas } else { 0 },
        unclean_epoch: record.unclean_epoch.0,
        in_doubt: record.doubt.is_some(),
        doubt_leader_epoch: record.doubt.as_ref().map_or(0, |doubt| doubt.leader_epoch.0),
        doubt_partition_epoch: record.doubt.as_ref().map_or(0, |doubt| doubt.partition_epoch.0),
        replicas,
    }
}

fn replica(id: &BrokerId, known: Option<&BrokerRecord>) -> pb::ReplicaAddress {
    let live = known.filter(|known| known.state == BrokerState::Live);
    pb::ReplicaAddress {
        broker: id.to_string(),
        address: live.map(|known| known.address.clone()).unwrap_or_default(),
        incarnation: live.map(|known| bytes(known.incarnation.to_bytes())).unwrap_or_default(),
    }
}

/// Members of an ISR.
fn in_sync(members: &[InSync]) -> Vec<pb::InSync> {
    let member = |member: &InSync| pb::InSync {
        broker: member.broker.to_string(),
        storage_id: bytes(member.storage.to_bytes()),
    };
    members.iter().map(member).collect()
}

/// A partition's state, as its leader is answered.
pub(super) fn isr_state(state: &PartitionState) -> pb::IsrState {
    let members = |members: &[Member]| {
        let member = |member: &Member| pb::InSync {
            broker: member.broker.to_string(),
            storage_id: bytes(member.storage.to_bytes()),
        };
        members.iter().map(member).collect()
    };
    pb::IsrState {
        leader_epoch: state.leader_epoch.0,
        partition_epoch: state.partition_epoch.0,
        isr: members(&state.isr),
        eligible: members(&state.eligible),
        min_insync_replicas: state.min_insync,
        replicas: names(state.replicas.iter()),
    }
}

pub(super) fn bytes(id: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&id)
}

/// What a broker holds that the metadata does not know.
pub(super) fn unknown((broker, held): (BrokerId, pb::Held)) -> pb::UnknownPartition {
    pb::UnknownPartition {
        broker: broker.to_string(),
        topic_id: held.topic_id,
        topic: held.topic,
        partition: held.partition,
        leader_epoch: held.leader_epoch,
        end: held.end,
    }
}

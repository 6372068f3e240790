//! From the catalog to the wire.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use goulette_meta::keys::TopicRecord;
use goulette_proto::pb;
use goulette_types::{BrokerId, TopicName};

use crate::catalog::{Assignment, Catalog};

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
            isr: partition.isr.iter().map(|member| member.broker.to_string()).collect(),
            min_insync_replicas: 1,
            ..Default::default()
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

/// What a broker has to lead.
pub(super) fn assignment(assignment: Assignment) -> pb::Assignment {
    pb::Assignment {
        topic_id: Bytes::copy_from_slice(&assignment.partition.topic.to_bytes()),
        topic: assignment.topic.to_string(),
        partition: assignment.partition.index.0,
        leader_epoch: assignment.leader_epoch.0,
        partition_epoch: assignment.partition_epoch.0,
        config: assignment.config.into_iter().collect::<HashMap<_, _>>(),
        partitions: assignment.partitions,
        ..Default::default()
    }
}

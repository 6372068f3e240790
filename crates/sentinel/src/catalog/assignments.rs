//! Who leads a partition, or why nobody does, and what that makes of each of its replicas.

use std::collections::BTreeMap;

use goulette_meta::keys::{BrokerRecord, BrokerState, PartitionRecord};
use goulette_types::{BrokerId, Incarnation, PartitionId, Revision, StorageId, TopicName};

use super::Catalog;
use crate::partition_state;

/// What a broker has to lead or to follow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) partition: PartitionId,
    pub(crate) topic: TopicName,
    pub(crate) config: BTreeMap<String, String>,
    /// How many partitions the topic has.
    pub(crate) partitions: u32,
    pub(crate) role: AssignedRole,
    pub(crate) record: PartitionRecord,
    /// The leader's place among the replicas, if somebody leads.
    pub(crate) leader: Option<BrokerId>,
    /// Every replica with its registration; only for a broker that replicates.
    pub(crate) replicas: Vec<(BrokerId, Option<BrokerRecord>)>,
}

/// What a broker is to be for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssignedRole {
    Leader,
    Follower,
    /// Nobody leads now.
    Waiting,
}

/// Why nobody leads a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Offline {
    #[error("awaiting broker {broker}, which holds {what} and is down")]
    Down { broker: BrokerId, what: &'static str },
    #[error("awaiting broker {broker}, which holds {what} and has been stopped")]
    Left { broker: BrokerId, what: &'static str },
    #[error("awaiting broker {broker} with the disk {wanted}, which holds {what}: it came back with disk {found}")]
    OtherDisk { broker: BrokerId, what: &'static str, wanted: StorageId, found: StorageId },
    #[error("awaiting any of the brokers {}", list(.0))]
    Any(Vec<BrokerId>),
    #[error("the metadata is older than what replicas hold: awaiting what the brokers {} report", list(.0))]
    InDoubt(Vec<BrokerId>),
    #[error("awaiting the election of broker {0}")]
    Election(BrokerId),
    #[error("awaiting a replica: none is recorded")]
    NoReplica,
}

fn list(brokers: &[BrokerId]) -> String {
    brokers.iter().map(BrokerId::as_str).collect::<Vec<_>>().join(", ")
}

impl Catalog {
    /// What this start of a broker has to lead or to follow, as far as it changed after revision `since`, and what was moved
    /// away from it since then: of that it is no replica.
    pub(crate) fn assignments(&self, broker: &BrokerId, incarnation: Incarnation, since: Revision) -> Vec<Assignment> {
        let Some(me) = self.broker(broker) else { return Vec::new() };
        let assignment = |id: PartitionId, released: Option<Revision>| {
            let partition = self.partitions.get(&id)?;
            let name = self.names.get(&id.topic)?;
            let topic = self.topics.get(name)?;
            let record = &partition.record;
            let leader = self.leader(record).ok();
            let role = match leader {
                Some(leads) if leads != broker => AssignedRole::Follower,
                Some(_) if record.leader.as_ref().is_some_and(|leader| leader.incarnation == incarnation) => {
                    AssignedRole::Leader
                }
                Some(_) | None => AssignedRole::Waiting,
            };
            let mut changed = released.unwrap_or_else(|| partition.revision.max(topic.revision));
            let mut replicas = Vec::new();
            if me.replicates {
                for replica in &record.replicas {
                    let at = self.brokers.get(replica);
                    if released.is_none() {
                        changed = changed.max(at.map_or(Revision(0), |at| at.revision));
                    }
                    replicas.push((replica.clone(), at.map(|at| at.record.clone())));
                }
            } else if role != AssignedRole::Leader {
                return None;
            }
            (changed > since).then(|| Assignment {
                partition: id,
                topic: name.clone(),
                config: topic.record.config.clone(),
                partitions: topic.record.partitions,
                role,
                record: record.clone(),
                leader: leader.cloned(),
                replicas,
            })
        };
        let held = self.held_by(broker).filter_map(|id| assignment(id, None));
        let released = self.released.0.get(broker).into_iter().flatten();
        held.chain(released.filter_map(|(&id, &at)| assignment(id, Some(at)))).collect()
    }

    /// Who leads the partition now.
    ///
    /// # Errors
    /// [`Offline`], naming who is awaited.
    pub(crate) fn leader<'a>(&self, partition: &'a PartitionRecord) -> Result<&'a BrokerId, Offline> {
        if let Some(leader) = &partition.leader
            && let Some(broker) = self.broker(&leader.broker)
            && broker.state == BrokerState::Live
            && broker.incarnation == leader.incarnation
        {
            return Ok(&leader.broker);
        }
        if partition.doubt.is_some() {
            return Err(Offline::InDoubt(partition_state::state(partition).awaited()));
        }
        let mut awaited = partition.isr.iter().chain(&partition.eligible);
        let Some(member) = awaited.next() else { return Err(Offline::NoReplica) };
        let broker = member.broker.clone();
        let known = self.broker(&broker);
        if known.is_some_and(|known| known.state == BrokerState::Live && known.storage == member.storage) {
            return Err(Offline::Election(broker));
        }
        if awaited.next().is_some() {
            let members = partition.isr.iter().chain(&partition.eligible);
            return Err(Offline::Any(members.map(|member| member.broker.clone()).collect()));
        }
        let what = if partition.replicas.len() == 1 { "the only replica" } else { "the last in-sync replica" };
        Err(match known {
            Some(known) if known.state == BrokerState::Left => Offline::Left { broker, what },
            Some(known) if known.state == BrokerState::Live => {
                Offline::OtherDisk { broker, what, wanted: member.storage, found: known.storage }
            }
            _ => Offline::Down { broker, what },
        })
    }
}

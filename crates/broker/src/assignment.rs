//! What a sentinel says of a partition, parsed once.

use goulette_proto::{convert::partition_id, pb};
use goulette_replication::{Doubt, LeaderId, Member, PartitionState};
use goulette_types::{
    BrokerId, Incarnation, LeaderEpoch, NameError, PartitionEpoch, PartitionId, StorageId, TopicName,
};

use crate::{replication::PeerAddress, topic_settings::TopicSettings};

/// A partition to lead or to follow.
pub(crate) struct Assignment {
    pub(crate) partition: PartitionId,
    pub(crate) topic: TopicName,
    pub(crate) state: PartitionState,
    pub(crate) settings: TopicSettings,
    /// How many the topic has.
    pub(crate) partitions: u32,
    /// Where the others are.
    pub(crate) addresses: Vec<(BrokerId, PeerAddress)>,
}

impl Assignment {
    /// Reads an assignment of this broker.
    ///
    /// # Errors
    /// What makes no sense, in words.
    pub(crate) fn parse(given: pb::Assignment, me: &Member, incarnation: Incarnation) -> Result<Self, String> {
        let partition = partition_id(&given.topic_id, given.partition)?;
        let topic: TopicName = given.topic.parse().map_err(|error| format!("{error}"))?;
        let led = given.role() != pb::Role::Waiting;
        if (led && given.leader_epoch == 0) || given.leader_epoch > i32::MAX as u32 {
            return Err(format!("leader epoch {} of {topic}/{}", given.leader_epoch, partition.index));
        }
        if given.partitions <= partition.index.0 {
            return Err(format!("{topic}/{} of {} partitions", partition.index, given.partitions));
        }
        let mine = || LeaderId { broker: me.broker.clone(), incarnation };
        let leader = match (given.role(), &given.leader) {
            (pb::Role::Waiting, _) => None,
            (pb::Role::Leader, None) => Some(mine()),
            (_, Some(leader)) => Some(leader_id(leader)?),
            (pb::Role::Follower, None) => return Err(format!("{topic}/{} follows nobody", partition.index)),
        };
        let replicas = given.replicas.iter().map(|replica| broker(&replica.broker)).collect::<Result<Vec<_>, _>>()?;
        let isr = members(&given.isr)?;
        let mut addresses = Vec::new();
        for replica in given.replicas.iter().chain(&given.leader) {
            if !replica.address.is_empty() {
                let incarnation = id(&replica.incarnation).map(Incarnation)?;
                addresses
                    .push((broker(&replica.broker)?, PeerAddress { address: replica.address.clone(), incarnation }));
            }
        }
        let state = PartitionState {
            replicas: if replicas.is_empty() { vec![me.broker.clone()] } else { replicas },
            isr: if isr.is_empty() { vec![me.clone()] } else { isr },
            eligible: members(&given.eligible)?,
            leader,
            leader_epoch: LeaderEpoch(given.leader_epoch),
            partition_epoch: PartitionEpoch(given.partition_epoch),
            min_insync: given.min_insync_replicas.max(1),
            min_wanted: None,
            unclean: Some(LeaderEpoch(given.unclean_epoch)).filter(|epoch| epoch.0 > 0),
            moving: None,
            doubt: given.in_doubt.then(|| Doubt {
                leader_epoch: LeaderEpoch(given.doubt_leader_epoch),
                partition_epoch: PartitionEpoch(given.doubt_partition_epoch),
                reports: Vec::new(),
            }),
        };
        let settings = TopicSettings::from_config(&given.config);
        Ok(Self { partition, topic, state, settings, partitions: given.partitions, addresses })
    }
}

/// A state with the replicas, and those in sync, that a sentinel says are stored. An older sentinel names no replicas: they
/// are as before.
///
/// # Errors
/// What makes no sense, in words.
pub(crate) fn with_isr(state: PartitionState, stored: &pb::IsrState) -> Result<PartitionState, String> {
    let isr = members(&stored.isr)?;
    if isr.is_empty() {
        return Err("no replica is in sync".to_owned());
    }
    let replicas = stored.replicas.iter().map(|name| broker(name)).collect::<Result<Vec<_>, _>>()?;
    Ok(PartitionState {
        replicas: if replicas.is_empty() { state.replicas } else { replicas },
        isr,
        eligible: members(&stored.eligible)?,
        leader_epoch: LeaderEpoch(stored.leader_epoch),
        partition_epoch: PartitionEpoch(stored.partition_epoch),
        min_insync: stored.min_insync_replicas.max(1),
        ..state
    })
}

fn leader_id(leader: &pb::ReplicaAddress) -> Result<LeaderId, String> {
    Ok(LeaderId { broker: broker(&leader.broker)?, incarnation: Incarnation(id(&leader.incarnation)?) })
}

fn members(given: &[pb::InSync]) -> Result<Vec<Member>, String> {
    let member =
        |given: &pb::InSync| Ok(Member { broker: broker(&given.broker)?, storage: StorageId(id(&given.storage_id)?) });
    given.iter().map(member).collect()
}

fn broker(name: &str) -> Result<BrokerId, String> {
    name.parse().map_err(|error: NameError| error.to_string())
}

fn id(bytes: &[u8]) -> Result<u128, String> {
    Incarnation::try_from(bytes).map(|id| id.0).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_sync(name: &str) -> pb::InSync {
        pb::InSync { broker: name.to_owned(), storage_id: vec![1; 16].into() }
    }

    #[test]
    fn a_proposal_that_ended_a_move_tells_who_holds_the_partition_since() {
        let me = Member { broker: "a".parse().unwrap(), storage: StorageId(1) };
        let before = PartitionState {
            replicas: vec!["a".parse().unwrap(), "c".parse().unwrap()],
            isr: vec![me],
            eligible: Vec::new(),
            leader: None,
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(7),
            min_insync: 1,
            min_wanted: None,
            unclean: None,
            moving: None,
            doubt: None,
        };
        let mut stored = pb::IsrState {
            leader_epoch: 3,
            partition_epoch: 8,
            isr: vec![in_sync("a"), in_sync("b")],
            min_insync_replicas: 2,
            ..Default::default()
        };
        let names = |state: &PartitionState| state.replicas.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&with_isr(before.clone(), &stored).unwrap()), ["a", "c"]);
        stored.replicas = vec!["a".to_owned(), "b".to_owned()];
        let after = with_isr(before.clone(), &stored).unwrap();
        assert_eq!((names(&after), after.partition_epoch), (vec!["a".to_owned(), "b".to_owned()], PartitionEpoch(8)));
        stored.replicas.push("not a name".to_owned());
        assert!(with_isr(before.clone(), &stored).is_err());
        stored.isr.clear();
        assert!(with_isr(before, &stored).is_err());
    }
}

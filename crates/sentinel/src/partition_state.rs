//! Between the stored record of a partition and the state that elections are decided on.

use goulette_meta::keys::{InDoubt, InSync, Leader, Moving, OperationId, PartitionRecord, ReportedEnd};
use goulette_replication::{Doubt, LeaderId, LogEnd, Member, Move, PartitionState};
use goulette_types::LeaderEpoch;

/// The state that a record holds.
pub(crate) fn state(record: &PartitionRecord) -> PartitionState {
    PartitionState {
        replicas: record.replicas.clone(),
        isr: record.isr.iter().map(member).collect(),
        eligible: record.eligible.iter().map(member).collect(),
        leader: record
            .leader
            .as_ref()
            .map(|leader| LeaderId { broker: leader.broker.clone(), incarnation: leader.incarnation }),
        leader_epoch: record.leader_epoch,
        partition_epoch: record.partition_epoch,
        min_insync: record.min_insync_replicas,
        min_wanted: record.min_wanted,
        unclean: Some(record.unclean_epoch).filter(|epoch| epoch.0 > 0),
        moving: record.moving.as_ref().map(|moving| Move { from: moving.from.clone(), to: moving.to.clone() }),
        doubt: record.doubt.as_ref().map(|doubt| Doubt {
            leader_epoch: doubt.leader_epoch,
            partition_epoch: doubt.partition_epoch,
            reports: doubt.reports.iter().map(report).collect(),
        }),
    }
}

/// The record that stores a state.
pub(crate) fn record(state: PartitionState, operation: OperationId) -> PartitionRecord {
    let in_sync = |members: Vec<Member>| members.into_iter().map(stored_member).collect();
    PartitionRecord {
        replicas: state.replicas,
        isr: in_sync(state.isr),
        eligible: in_sync(state.eligible),
        leader: state.leader.map(|leader| Leader { broker: leader.broker, incarnation: leader.incarnation }),
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        min_insync_replicas: state.min_insync,
        min_wanted: state.min_wanted,
        unclean_epoch: state.unclean.unwrap_or(LeaderEpoch(0)),
        moving: state.moving.map(|moving| Moving { from: moving.from, to: moving.to }),
        doubt: state.doubt.map(|doubt| InDoubt {
            leader_epoch: doubt.leader_epoch,
            partition_epoch: doubt.partition_epoch,
            reports: doubt.reports.into_iter().map(stored_report).collect(),
        }),
        operation,
    }
}

fn member(stored: &InSync) -> Member {
    Member { broker: stored.broker.clone(), storage: stored.storage }
}

fn stored_member(member: Member) -> InSync {
    InSync { broker: member.broker, storage: member.storage }
}

fn report(stored: &ReportedEnd) -> (Member, LogEnd) {
    let member = Member { broker: stored.broker.clone(), storage: stored.storage };
    (member, LogEnd { epoch: stored.epoch, end: stored.end })
}

fn stored_report((member, log): (Member, LogEnd)) -> ReportedEnd {
    ReportedEnd { broker: member.broker, storage: member.storage, epoch: log.epoch, end: log.end }
}

#[cfg(test)]
mod tests {
    use goulette_types::{Incarnation, Offset, PartitionEpoch, StorageId};

    use super::*;

    #[test]
    fn a_state_is_stored_whole() {
        let member = |name: &str| Member { broker: name.parse().unwrap(), storage: StorageId(7) };
        let stored = PartitionState {
            replicas: vec!["a".parse().unwrap(), "b".parse().unwrap()],
            isr: vec![member("a")],
            eligible: vec![member("b")],
            leader: Some(LeaderId { broker: "a".parse().unwrap(), incarnation: Incarnation(3) }),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            min_insync: 2,
            min_wanted: Some(2),
            unclean: Some(LeaderEpoch(3)),
            moving: Some(Move { from: vec!["a".parse().unwrap()], to: vec!["b".parse().unwrap()] }),
            doubt: Some(Doubt {
                leader_epoch: LeaderEpoch(5),
                partition_epoch: PartitionEpoch(10),
                reports: vec![(member("b"), LogEnd { epoch: LeaderEpoch(5), end: Offset(100) })],
            }),
        };
        assert_eq!(state(&record(stored.clone(), OperationId(1))), stored);
    }
}

//! Metadata that has gone back (a restored store): the stored ISR is not believed until every replica has reported.

use goulette_types::{BrokerId, LeaderEpoch, PartitionEpoch};

use super::{Live, Refusal, changed, lead};
use crate::state::{LogEnd, Member, PartitionState};

/// What a broker says of a partition when it registers. From then on it neither appends nor follows in `leader_epoch` or
/// an earlier one, so what it reported stays true.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reported {
    /// The broker with its disk.
    pub member: Member,
    /// The highest leader epoch that it has seen, in metadata or in its log.
    pub leader_epoch: LeaderEpoch,
    /// The highest partition epoch that it has seen.
    pub partition_epoch: PartitionEpoch,
    /// Where its log stands.
    pub log: LogEnd,
}

/// A replica has seen later metadata than the store holds: from this write on nobody leads, and every replica is to
/// report (one that is live now, too: what it said at registration may change until it knows of the doubt).
///
/// # Errors
/// [`Refusal::Unchanged`] if the store is not behind what the replica has seen.
pub fn suspect(
    state: &PartitionState,
    leader_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
) -> Result<PartitionState, Refusal> {
    let known = state.doubt.clone().unwrap_or_default();
    let seen_leader = known.leader_epoch.max(state.leader_epoch);
    let seen_partition = known.partition_epoch.max(state.partition_epoch);
    if leader_epoch <= seen_leader && partition_epoch <= seen_partition {
        return Err(Refusal::Unchanged);
    }
    let mut next = state.clone();
    let doubt = next.doubt.get_or_insert_default();
    doubt.leader_epoch = doubt.leader_epoch.max(leader_epoch);
    doubt.partition_epoch = doubt.partition_epoch.max(partition_epoch);
    next.leader = None;
    next.eligible.clear();
    changed(state, next)
}

/// Takes what a replica reports in doubt. Once all replicas have reported, the one with the highest (epoch, end), which
/// holds all that any of them knows to be committed, leads as the only in-sync member.
///
/// # Errors
/// [`Refusal::Unchanged`] without a doubt, or if the report is known; [`Refusal::NotReplica`].
pub fn report(state: &PartitionState, reported: &Reported, live: &impl Live) -> Result<PartitionState, Refusal> {
    if !state.replicas.contains(&reported.member.broker) {
        return Err(Refusal::NotReplica(reported.member.broker.clone()));
    }
    if state.doubt.is_none() {
        return Err(Refusal::Unchanged);
    }
    let mut next = state.clone();
    let mut doubt = next.doubt.take().unwrap_or_default();
    doubt.leader_epoch = doubt.leader_epoch.max(reported.leader_epoch).max(reported.log.epoch);
    doubt.partition_epoch = doubt.partition_epoch.max(reported.partition_epoch);
    doubt.reports.retain(|(member, _)| member.broker != reported.member.broker);
    doubt.reports.push((reported.member.clone(), reported.log));
    doubt.reports.sort();
    let reports = &doubt.reports;
    let reported = |broker: &BrokerId| reports.iter().any(|(member, _)| member.broker == *broker);
    if !next.replicas.iter().all(reported) {
        next.doubt = Some(doubt);
        return changed(state, next);
    }
    // Of equals, the one that comes first among the replicas.
    let place = |member: &Member| next.replicas.iter().position(|broker| *broker == member.broker);
    let best = reports.iter().max_by_key(|(member, log)| (*log, std::cmp::Reverse(place(member))));
    let Some((best, _)) = best.cloned() else { return Err(Refusal::InDoubt) };
    next.leader_epoch = next.leader_epoch.max(doubt.leader_epoch);
    next.partition_epoch = next.partition_epoch.max(doubt.partition_epoch);
    next.isr = vec![best.clone()];
    if live.holds(&best) {
        lead(&mut next, &best, live);
    }
    changed(state, next)
}

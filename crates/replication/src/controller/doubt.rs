//! Metadata that has gone back (a restored store): the stored ISR is not believed until every replica has reported.

use goulette_types::{BrokerId, LeaderEpoch, PartitionEpoch};

use super::{Live, Refusal, changed, lead};
use crate::state::{Doubt, LogEnd, Member, PartitionState};

/// What a replica says when the store doubts its ISR. From then on it neither appends nor follows in any epoch that it has
/// seen, so what it reported stays true.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reported {
    /// The broker with its disk.
    pub member: Member,
    /// The doubt that it answers: [`Doubt::version`]. An answer to an earlier one says nothing about the log of today.
    pub answers: (LeaderEpoch, PartitionEpoch),
    /// Where its log stands.
    pub log: LogEnd,
}

/// A replica has seen later metadata than the store holds: from this write on nobody leads, and every replica is to
/// report. To be called with what a broker has seen in the very transaction that makes it live: so a doubt is never older
/// than what a live broker knows, and reports on an older one are dropped.
///
/// # Errors
/// [`Refusal::Unchanged`] if the store is not behind what the replica has seen.
pub fn suspect(
    state: &PartitionState,
    leader_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
) -> Result<PartitionState, Refusal> {
    let (seen_leader, seen_partition) = state.doubt.as_ref().map_or(state.version(), Doubt::version);
    if leader_epoch <= seen_leader && partition_epoch <= seen_partition {
        return Err(Refusal::Unchanged);
    }
    let mut next = distrust(state);
    if let Some(doubt) = &mut next.doubt {
        doubt.leader_epoch = doubt.leader_epoch.max(leader_epoch);
        doubt.partition_epoch = doubt.partition_epoch.max(partition_epoch);
    }
    Ok(next)
}

/// Puts the stored ISR in doubt whatever anybody has seen: what a restored backup says is old, and a broker that has seen
/// nothing later may still be the wrong one to lead.
#[must_use]
pub fn distrust(state: &PartitionState) -> PartitionState {
    let mut next = state.clone();
    let (leader_epoch, partition_epoch) = state.doubt.as_ref().map_or(state.version(), Doubt::version);
    next.doubt = Some(Doubt { leader_epoch, partition_epoch, reports: Vec::new() });
    next.leader = None;
    next.eligible.clear();
    next.partition_epoch = PartitionEpoch(state.partition_epoch.0 + 1);
    next
}

/// Takes what a replica reports in doubt. Once all replicas have reported, the one with the highest (epoch, end), which
/// holds all that any of them knows to be committed, leads as the only in-sync member.
///
/// # Errors
/// [`Refusal::Unchanged`] without this doubt, or if the report is known; [`Refusal::NotReplica`].
pub fn report(state: &PartitionState, reported: &Reported, live: &impl Live) -> Result<PartitionState, Refusal> {
    if !state.replicas.contains(&reported.member.broker) {
        return Err(Refusal::NotReplica(reported.member.broker.clone()));
    }
    if state.doubt.as_ref().is_none_or(|doubt| doubt.version() != reported.answers) {
        return Err(Refusal::Unchanged);
    }
    let mut next = state.clone();
    let mut doubt = next.doubt.take().unwrap_or_default();
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

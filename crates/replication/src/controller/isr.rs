//! Who is in sync: the leader proposes, the controller compares.

use goulette_types::{LeaderEpoch, PartitionEpoch};

use super::{Live, Refusal, changed, leave};
use crate::state::{LeaderId, Member, PartitionState};

/// A leader's wish for other in-sync replicas.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Who proposes.
    pub leader: LeaderId,
    /// The epoch in which it leads.
    pub leader_epoch: LeaderEpoch,
    /// The state that it proposes to replace.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync replicas wanted. Those in sync already are a valid wish too: it voids earlier ones.
    pub isr: Vec<Member>,
}

/// Accepts a leader's proposal, if it leads in that epoch, if the state is the one that it was made on, and if every
/// member is a live replica on that disk.
///
/// # Errors
/// Any of those that say which of this does not hold. No refusal settles the proposal for its leader: a copy of it that
/// is under way may still be accepted, until the partition epoch is higher.
pub fn propose_isr(state: &PartitionState, proposal: &Proposal, live: &impl Live) -> Result<PartitionState, Refusal> {
    if state.doubt.is_some() {
        return Err(Refusal::InDoubt);
    }
    if state.leader.as_ref() != Some(&proposal.leader) || state.leader_epoch != proposal.leader_epoch {
        return Err(Refusal::NotLeader { current: state.leader_epoch });
    }
    if state.partition_epoch != proposal.partition_epoch {
        return Err(Refusal::OtherPartitionEpoch { given: proposal.partition_epoch, current: state.partition_epoch });
    }
    for (index, member) in proposal.isr.iter().enumerate() {
        if proposal.isr[..index].iter().any(|other| other.broker == member.broker) {
            return Err(Refusal::Malformed);
        }
        if !state.replicas.contains(&member.broker) {
            return Err(Refusal::NotReplica(member.broker.clone()));
        }
        if !live.holds(member) {
            return Err(Refusal::NotLive(member.broker.clone()));
        }
    }
    if !proposal.isr.iter().any(|member| member.broker == proposal.leader.broker) {
        return Err(Refusal::Malformed);
    }
    let mut next = state.clone();
    next.isr.clone_from(&proposal.isr);
    let gone = state.isr.iter().filter(|member| !next.in_sync(member)).cloned().collect();
    leave(&mut next, gone);
    match changed(state, next) {
        // The same members as before: written all the same, as the higher partition epoch voids earlier proposals.
        Err(Refusal::Unchanged) => {
            Ok(PartitionState { partition_epoch: PartitionEpoch(state.partition_epoch.0 + 1), ..state.clone() })
        }
        other => other,
    }
}

/// Takes another minimum: `None` is the majority of the replicas, which rises only with the ISR. A fixed one is in force
/// at once, even above what the ISR has: then nothing is committed until it has grown.
///
/// # Errors
/// [`Refusal::Unchanged`].
pub fn set_minimum(state: &PartitionState, wanted: Option<u32>) -> Result<PartitionState, Refusal> {
    let mut next = PartitionState { min_wanted: wanted, ..state.clone() };
    if let Some(fixed) = wanted
        && fixed > next.min_insync
    {
        next.min_insync = fixed;
    }
    changed(state, next)
}

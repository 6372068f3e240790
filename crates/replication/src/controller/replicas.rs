//! Reassignment: replicas are added, catch up, and only then do others go.

use goulette_types::BrokerId;

use super::{Live, Refusal, candidate, changed, lead, leave};
use crate::state::{Move, PartitionState};

/// Begins to move the partition to `to` (the preferred leader first). The new ones follow at once; nobody goes before
/// [`finish_move`].
///
/// # Errors
/// [`Refusal::Moving`] while another move is under way, [`Refusal::Malformed`] for an empty list or one that names a
/// broker twice, [`Refusal::Unchanged`] if the replicas are these already.
pub fn start_move(state: &PartitionState, to: &[BrokerId]) -> Result<PartitionState, Refusal> {
    if state.moving.is_some() {
        return Err(Refusal::Moving);
    }
    if to.is_empty() || (1..to.len()).any(|index| to[..index].contains(&to[index])) {
        return Err(Refusal::Malformed);
    }
    if state.replicas == to {
        return Err(Refusal::Unchanged);
    }
    let mut next = state.clone();
    next.moving = Some(Move { from: state.replicas.clone(), to: to.to_vec() });
    let added = to.iter().filter(|broker| !state.replicas.contains(broker)).cloned();
    next.replicas.extend(added);
    changed(state, next)
}

/// Completes a move once every target member is live and in sync: the others go, and one of the target leads.
///
/// # Errors
/// [`Refusal::NotMoving`]; [`Refusal::NotInSync`] names the first that is missing.
pub fn finish_move(state: &PartitionState, live: &impl Live) -> Result<PartitionState, Refusal> {
    if state.doubt.is_some() {
        return Err(Refusal::InDoubt);
    }
    let Some(Move { to, .. }) = &state.moving else { return Err(Refusal::NotMoving) };
    let ready = |broker: &BrokerId| state.isr.iter().any(|member| &member.broker == broker && live.holds(member));
    if let Some(missing) = to.iter().find(|broker| !ready(broker)) {
        return Err(Refusal::NotInSync(missing.clone()));
    }
    let mut next = PartitionState { moving: None, ..state.clone() };
    next.replicas.clone_from(to);
    keep_replicas(&mut next, live)?;
    changed(state, next)
}

/// Returns to the replicas before the move.
///
/// # Errors
/// [`Refusal::NotMoving`]; [`Refusal::NoCandidate`] if only the new ones hold what is committed: then the move can only
/// go on.
pub fn cancel_move(state: &PartitionState, live: &impl Live) -> Result<PartitionState, Refusal> {
    if state.doubt.is_some() {
        return Err(Refusal::InDoubt);
    }
    let Some(Move { from, .. }) = &state.moving else { return Err(Refusal::NotMoving) };
    let mut next = PartitionState { moving: None, ..state.clone() };
    next.replicas.clone_from(from);
    keep_replicas(&mut next, live)?;
    changed(state, next)
}

/// Drops the members that are no replicas any more, and elects if the leader is among them.
fn keep_replicas(state: &mut PartitionState, live: &impl Live) -> Result<(), Refusal> {
    let replicas = &state.replicas;
    let (stay, gone): (Vec<_>, Vec<_>) = state.isr.drain(..).partition(|member| replicas.contains(&member.broker));
    if stay.is_empty() {
        return Err(Refusal::NoCandidate);
    }
    state.isr = stay;
    leave(state, gone);
    if state.leader.as_ref().is_some_and(|leader| !state.replicas.contains(&leader.broker)) {
        match candidate(state, live) {
            Some(member) => lead(state, &member, live),
            None => state.leader = None,
        }
    }
    Ok(())
}

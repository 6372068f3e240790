//! What the leader sentinel decides about one partition: elections, and who is in sync.
//!
//! Each function takes the stored state (read from the store, never from a cache) and returns the state to be written
//! by compare-and-set against the key's revision, or why there is nothing to write. Every returned state has a higher
//! partition epoch, and a higher leader epoch if somebody begins to lead. Nothing here remembers anything: a new
//! leader sentinel continues by calling [`settle`] for every partition.

use std::collections::BTreeMap;

use goulette_types::{BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, StorageId};

use crate::state::{LeaderId, Member, PartitionState};

mod doubt;
mod isr;
mod replicas;

pub use doubt::{Reported, distrust, report, suspect};
pub use isr::{Proposal, propose_isr, set_minimum};
pub use replicas::{cancel_move, finish_move, start_move};

/// A broker that is registered and not known to be down.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LiveBroker {
    /// Its start.
    pub incarnation: Incarnation,
    /// Its disk.
    pub storage: StorageId,
    /// False while it hands over: it is elected only where nobody else can lead.
    pub may_lead: bool,
}

/// Who is live.
pub trait Live {
    /// The broker's registration, if it is live.
    fn live(&self, broker: &BrokerId) -> Option<&LiveBroker>;

    /// Whether the member is live on its disk.
    fn holds(&self, member: &Member) -> bool {
        self.live(&member.broker).is_some_and(|live| live.storage == member.storage)
    }
}

impl Live for BTreeMap<BrokerId, LiveBroker> {
    fn live(&self, broker: &BrokerId) -> Option<&LiveBroker> {
        self.get(broker)
    }
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state is already as it should be.
    #[error("nothing to change")]
    Unchanged,
    /// The proposer does not lead (any more).
    #[error("the proposer does not lead in epoch {current}")]
    NotLeader {
        /// The leader epoch in the store.
        current: LeaderEpoch,
    },
    /// The proposal was made on another state than the stored one.
    #[error("proposed on partition epoch {given}, but the stored one is {current}")]
    OtherPartitionEpoch {
        /// The proposal's.
        given: PartitionEpoch,
        /// The stored one.
        current: PartitionEpoch,
    },
    /// The broker is not a replica.
    #[error("broker {0} is not a replica")]
    NotReplica(BrokerId),
    /// The broker is not live on that disk.
    #[error("broker {0} is not live with that storage id")]
    NotLive(BrokerId),
    /// An ISR without its leader, or with two entries for a broker.
    #[error("the proposed in-sync replicas lack the leader or name a broker twice")]
    Malformed,
    /// The stored ISR is not believed until all replicas have reported.
    #[error("the stored in-sync replicas are in doubt until every replica has reported")]
    InDoubt,
    /// No other member can lead.
    #[error("no other in-sync replica is live")]
    NoCandidate,
    /// A member that holds all that is committed can lead: an unclean election would lose records for nothing.
    #[error("broker {0} can lead without any loss")]
    Electable(BrokerId),
    /// A reassignment is under way.
    #[error("a reassignment is under way")]
    Moving,
    /// No reassignment is under way.
    #[error("no reassignment is under way")]
    NotMoving,
    /// The target's members are not all live and in sync yet.
    #[error("broker {0} is not in sync yet")]
    NotInSync(BrokerId),
}

/// Brings the state into agreement with who is live: to be called for each partition that a broker holds when the
/// broker has been marked down, has left, or has registered (again, with another incarnation or another disk).
///
/// Members that are not live on their disk leave the ISR (the last ones stay, if none is live); if that leaves it below
/// the minimum they become eligible. If the leader is not live in its incarnation somebody else is elected, the first
/// live ISR member in the order of replicas, then an eligible one; otherwise nobody leads.
///
/// # Errors
/// [`Refusal::Unchanged`], and [`Refusal::InDoubt`].
pub fn settle(state: &PartitionState, live: &impl Live) -> Result<PartitionState, Refusal> {
    if state.doubt.is_some() {
        return Err(Refusal::InDoubt);
    }
    let mut next = state.clone();
    drop_the_gone(&mut next, live);
    if !leads(&next, live) {
        match candidate(&next, live) {
            Some(member) => lead(&mut next, &member, live),
            None => next.leader = None,
        }
    }
    changed(state, next)
}

/// Moves the leadership away from `broker`, which stays in sync: a planned stop, a drain, a disk that hangs.
///
/// # Errors
/// [`Refusal::Unchanged`] if it does not lead, [`Refusal::NoCandidate`] if nobody else that may lead is live and in sync.
pub fn hand_over(state: &PartitionState, broker: &BrokerId, live: &impl Live) -> Result<PartitionState, Refusal> {
    if state.leader.as_ref().is_none_or(|leader| &leader.broker != broker) {
        return Err(Refusal::Unchanged);
    }
    let mut next = state.clone();
    let other = in_order(&next, &next.isr, live).find(|(member, may_lead)| *may_lead && &member.broker != broker);
    let (member, _) = other.ok_or(Refusal::NoCandidate)?;
    lead(&mut next, &member, live);
    changed(state, next)
}

/// Gives the leadership to one broker, if it is live and in sync; with the first of the replicas this restores the
/// preferred leader.
///
/// # Errors
/// [`Refusal::Unchanged`] if it leads already, [`Refusal::NotInSync`] or [`Refusal::NotLive`] if it cannot.
pub fn elect(state: &PartitionState, broker: &BrokerId, live: &impl Live) -> Result<PartitionState, Refusal> {
    if state.doubt.is_some() {
        return Err(Refusal::InDoubt);
    }
    let registered = live.live(broker).ok_or_else(|| Refusal::NotLive(broker.clone()))?;
    let leader = LeaderId { broker: broker.clone(), incarnation: registered.incarnation };
    if state.leader.as_ref() == Some(&leader) {
        return Err(Refusal::Unchanged);
    }
    let member = Member { broker: broker.clone(), storage: registered.storage };
    if !state.in_sync(&member) || !registered.may_lead {
        return Err(Refusal::NotInSync(broker.clone()));
    }
    let mut next = state.clone();
    lead(&mut next, &member, live);
    changed(state, next)
}

/// Lets a live replica lead although it may lack committed records: only by an operator's recorded order or the topic's
/// option, and only where nobody can lead without loss. The epoch is recorded, so that replicas may be cut below what
/// they knew to be committed.
///
/// # Errors
/// [`Refusal::Electable`] if a member that holds all is live, [`Refusal::NotReplica`], [`Refusal::NotLive`].
pub fn elect_unclean(state: &PartitionState, broker: &BrokerId, live: &impl Live) -> Result<PartitionState, Refusal> {
    if !state.replicas.contains(broker) {
        return Err(Refusal::NotReplica(broker.clone()));
    }
    let registered = live.live(broker).ok_or_else(|| Refusal::NotLive(broker.clone()))?;
    if state.doubt.is_none()
        && let Some(member) = candidate(state, live)
    {
        return Err(Refusal::Electable(member.broker));
    }
    let mut next = state.clone();
    let doubt = next.doubt.take().unwrap_or_default();
    next.leader_epoch = next.leader_epoch.max(doubt.leader_epoch);
    next.partition_epoch = next.partition_epoch.max(doubt.partition_epoch);
    let member = Member { broker: broker.clone(), storage: registered.storage };
    next.isr = vec![member.clone()];
    next.eligible.clear();
    lead(&mut next, &member, live);
    next.unclean = Some(next.leader_epoch);
    changed(state, next)
}

/// Whether the stored leader is live in its incarnation, on a disk that is in sync.
pub fn leads(state: &PartitionState, live: &impl Live) -> bool {
    let Some(leader) = &state.leader else { return false };
    live.live(&leader.broker).is_some_and(|registered| {
        registered.incarnation == leader.incarnation
            && state.in_sync(&Member { broker: leader.broker.clone(), storage: registered.storage })
    })
}

fn drop_the_gone(state: &mut PartitionState, live: &impl Live) {
    #[cfg(goulette_bug = "wiped_disk_keeps_its_seat")]
    {
        for member in &mut state.isr {
            if let Some(registered) = live.live(&member.broker) {
                member.storage = registered.storage;
            }
        }
    }
    let (mut stay, mut gone): (Vec<_>, Vec<_>) = state.isr.drain(..).partition(|member| live.holds(member));
    if stay.is_empty() {
        // Nobody is live: those that may come back stay. A disk that was replaced does not count among them, unless
        // there is nothing else to wait for.
        (stay, gone) = gone.into_iter().partition(|member| live.live(&member.broker).is_none());
        if stay.is_empty() {
            std::mem::swap(&mut stay, &mut gone);
        }
    }
    state.isr = stay;
    leave(state, gone);
}

/// Those who left the ISR in one write become eligible if it is below the minimum now: until this write nothing was
/// committed without them, and nothing will be after it.
fn leave(state: &mut PartitionState, gone: Vec<Member>) {
    if state.has_minimum() {
        state.eligible.clear();
        return;
    }
    for member in gone {
        state.eligible.retain(|other| other.broker != member.broker);
        state.eligible.push(member);
    }
    let (isr, replicas) = (&state.isr, &state.replicas);
    state.eligible.retain(|member| replicas.contains(&member.broker) && !isr.contains(member));
}

/// The live ones of `members` in the order of replicas, and whether they may lead.
fn in_order(state: &PartitionState, members: &[Member], live: &impl Live) -> impl Iterator<Item = (Member, bool)> {
    let mut found: Vec<_> = members
        .iter()
        .filter(|member| live.holds(member))
        .map(|member| {
            let place = state.replicas.iter().position(|broker| broker == &member.broker).unwrap_or(usize::MAX);
            let leaving = state.moving.as_ref().is_some_and(|moving| !moving.to.contains(&member.broker));
            let may_lead = live.live(&member.broker).is_some_and(|registered| registered.may_lead);
            ((!may_lead, leaving, place), (member.clone(), may_lead))
        })
        .collect();
    found.sort_by_key(|(key, _)| *key);
    found.into_iter().map(|(_, member)| member)
}

fn candidate(state: &PartitionState, live: &impl Live) -> Option<Member> {
    let of = |members: &[Member]| in_order(state, members, live).map(|(member, _)| member).next();
    of(&state.isr).or_else(|| of(&state.eligible))
}

/// Makes a member that holds all that is committed the leader, in a new epoch.
fn lead(state: &mut PartitionState, member: &Member, live: &impl Live) {
    let Some(registered) = live.live(&member.broker) else { return };
    if !state.in_sync(member) {
        // The last replica standing: those in sync before it hold all that is committed as well.
        let before = std::mem::replace(&mut state.isr, vec![member.clone()]);
        leave(state, before);
    }
    state.leader = Some(LeaderId { broker: member.broker.clone(), incarnation: registered.incarnation });
    state.leader_epoch = LeaderEpoch(state.leader_epoch.0 + 1);
}

/// Completes a change: the minimum follows, `eligible` empties once it is reached, the partition epoch rises.
fn changed(before: &PartitionState, mut next: PartitionState) -> Result<PartitionState, Refusal> {
    follow_minimum(&mut next);
    if next == *before {
        return Err(Refusal::Unchanged);
    }
    next.partition_epoch = PartitionEpoch(next.partition_epoch.max(before.partition_epoch).0 + 1);
    Ok(next)
}

/// A lower minimum is in force at once, and nobody is eligible any more: what is committed under it need not reach them.
/// A higher one waits until the ISR has as many members.
fn follow_minimum(state: &mut PartitionState) {
    let wanted = state.wanted_minimum();
    if wanted < state.min_insync {
        state.eligible.clear();
        state.min_insync = wanted;
    } else if state.isr.len() >= wanted as usize {
        state.min_insync = wanted;
    }
    if state.has_minimum() {
        state.eligible.clear();
    }
}

#[cfg(test)]
mod tests;

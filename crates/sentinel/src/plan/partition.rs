//! In-sync replicas and leaders of single partitions.

use goulette_meta::keys::{BrokerRecord, Operation};
use goulette_replication::{
    LeaderId, PartitionState,
    controller::{self, Proposal, Refusal},
};
use goulette_types::{BrokerId, PartitionId, Timestamp};

use super::{Draft, Step};
use crate::{RequestError, catalog::Catalog, partition_state};

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The state that is written, once the step is committed.
    Accepted(PartitionState),
    /// Another state stands already.
    Newer(PartitionState),
    /// Nothing is changed.
    Refused(Refused),
}

/// Why a proposal is without effect.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no such partition")]
    Unknown,
    #[error(transparent)]
    By(#[from] Refusal),
}

/// Judges proposals of one leader, no partition twice; the step writes those that are accepted, if any is. At most
/// [`PROPOSALS_MAX`].
pub(crate) fn propose(
    catalog: &Catalog,
    now: Timestamp,
    leader: &LeaderId,
    proposals: &[(PartitionId, Proposal)],
) -> (Option<Step>, Vec<Verdict>) {
    let live = catalog.live();
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    let judge = |(id, proposal): &(PartitionId, Proposal)| {
        let Some(record) = catalog.partition(*id).filter(|_| !catalog.is_deleted(id.topic)) else {
            return Verdict::Refused(Refused::Unknown);
        };
        let state = partition_state::state(record);
        match controller::propose_isr(&state, proposal, &live) {
            Ok(next) => {
                // Perhaps this was the last one that a move has waited for.
                let next = controller::finish_move(&next, &live).unwrap_or(next);
                Verdict::Accepted(next)
            }
            Err(Refusal::OtherPartitionEpoch { .. }) if state.partition_epoch > proposal.partition_epoch => {
                Verdict::Newer(state)
            }
            Err(refusal) => Verdict::Refused(refusal.into()),
        }
    };
    let verdicts: Vec<_> = proposals.iter().map(judge).collect();
    let mut accepted = 0;
    for ((id, _), verdict) in proposals.iter().zip(&verdicts) {
        if let Verdict::Accepted(next) = verdict {
            draft.put_partition(*id, next.clone(), operation);
            accepted += 1;
        }
    }
    if accepted == 0 {
        return (None, verdicts);
    }
    draft.record(Operation::ChangeInSyncReplicas { broker: leader.broker.clone(), partitions: accepted });
    (Some(draft.finish()), verdicts)
}

/// Proposals that one step takes.
pub(crate) const PROPOSALS_MAX: usize = 90;

/// Elects for one partition by an operator's order: the preferred leader, or one that may lack committed records.
///
/// # Errors
/// [`RequestError::Refused`].
pub(crate) fn elect(
    catalog: &Catalog,
    now: Timestamp,
    id: PartitionId,
    unclean: Option<&BrokerId>,
) -> Result<Option<Step>, RequestError> {
    let Some(record) = catalog.partition(id) else { return Ok(None) };
    let state = partition_state::state(record);
    let live = catalog.live();
    let elected = match (unclean, state.replicas.first()) {
        (Some(broker), _) => controller::elect_unclean(&state, broker, &live),
        (None, Some(preferred)) => controller::elect(&state, preferred, &live),
        (None, None) => return Ok(None),
    };
    let next = match elected {
        Ok(next) => next,
        Err(Refusal::Unchanged) => return Ok(None),
        Err(refusal) => return Err(RequestError::Refused { partition: id, reason: refusal.to_string() }),
    };
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(match unclean {
        Some(broker) => {
            Operation::ElectLeaderUnclean { topic_id: id.topic, partition: id.index, broker: broker.clone() }
        }
        None => Operation::ElectLeaders { partitions: 1 },
    });
    draft.put_partition(id, next, operation);
    Ok(Some(draft.finish()))
}

/// Orders other replicas for a partition, or takes such an order back (`to` is empty).
///
/// # Errors
/// [`RequestError::Refused`], also for another number of replicas than the topic wants: they would be added, or go, at once;
/// [`RequestError::UnknownBroker`] for a replica that never registered.
pub(crate) fn reassign(
    catalog: &Catalog,
    now: Timestamp,
    id: PartitionId,
    to: &[BrokerId],
) -> Result<Option<Step>, RequestError> {
    let Some(record) = catalog.partition(id) else { return Ok(None) };
    let replicates = |broker: &BrokerRecord| broker.replicates || to.len() == 1;
    if let Some(unknown) = to.iter().find(|broker| !catalog.broker(broker).is_some_and(replicates)) {
        return Err(RequestError::UnknownBroker { broker: unknown.clone() });
    }
    if let Some(topic) = catalog.topic_name(id.topic).and_then(|name| catalog.topic(name))
        && !to.is_empty()
        && to.len() != record.replicas.len()
        && !(catalog.possible_replicas(topic.replication_factor)..=topic.replication_factor as usize)
            .contains(&to.len())
    {
        let reason = format!(
            "its topic wants {} replicas, not {}: alter the topic's replication factor instead",
            topic.replication_factor,
            to.len()
        );
        return Err(RequestError::Refused { partition: id, reason });
    }
    let state = partition_state::state(record);
    let live = catalog.live();
    let changed = match to {
        [] => controller::cancel_move(&state, &live),
        to => controller::start_move(&state, to).map(|next| controller::finish_move(&next, &live).unwrap_or(next)),
    };
    let next = match changed {
        Ok(next) => next,
        Err(Refusal::Unchanged) => return Ok(None),
        Err(refusal) => return Err(RequestError::Refused { partition: id, reason: refusal.to_string() }),
    };
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(Operation::ReassignPartitions { partitions: 1 });
    draft.put_partition(id, next, operation);
    Ok(Some(draft.finish()))
}

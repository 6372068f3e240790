//! Leaders of partitions: who is in sync with them, and handing over before a stop.

use std::collections::HashSet;

use goulette_logging::info;
use goulette_proto::{convert, pb};
use goulette_replication::{
    LeaderId, Member,
    controller::{Proposal, Refusal},
};
use goulette_types::{BrokerId, ErrorKind, Incarnation, LeaderEpoch, PartitionEpoch, PartitionId, StorageId};

use super::{Context, wire};
use crate::{
    RequestError,
    plan::{
        broker::Yields,
        partition::{Refused, Verdict},
    },
};

/// Partitions that one request may name.
const PROPOSALS_MAX: usize = 10_000;
/// Members that an ISR may have.
const MEMBERS_MAX: usize = 64;

pub(super) async fn propose(
    context: &Context,
    request: pb::ProposeIsrRequest,
) -> Result<pb::ProposeIsrResponse, RequestError> {
    if !context.state.leads() {
        return Err(context.state.not_leader());
    }
    let leader = leader(&request.id, &request.incarnation)?;
    if request.proposals.len() > PROPOSALS_MAX {
        return Err(RequestError::Invalid(format!("at most {PROPOSALS_MAX} proposals fit into a request")));
    }
    let proposals = request.proposals.iter().map(|proposal| parse(&leader, proposal));
    let proposals = proposals.collect::<Result<Vec<_>, _>>()?;
    let mut named = HashSet::with_capacity(proposals.len());
    if let Some((twice, _)) = proposals.iter().find(|(id, _)| !named.insert(*id)) {
        return Err(RequestError::Invalid(format!("partition {twice} is named twice")));
    }
    let judged = context.controller.propose(leader, proposals).await?;
    let answer = |judged| pb::IsrAnswer { outcome: Some(outcome(judged)) };
    Ok(pb::ProposeIsrResponse { answers: judged.into_iter().map(answer).collect() })
}

fn leader(id: &str, incarnation: &[u8]) -> Result<LeaderId, RequestError> {
    let incarnation =
        Incarnation::try_from(incarnation).map_err(|error| RequestError::Invalid(format!("incarnation: {error}")))?;
    Ok(LeaderId { broker: id.parse()?, incarnation })
}

fn parse(leader: &LeaderId, proposal: &pb::IsrProposal) -> Result<(PartitionId, Proposal), RequestError> {
    let id = convert::partition_id(&proposal.topic_id, proposal.partition).map_err(RequestError::Invalid)?;
    if proposal.isr.len() > MEMBERS_MAX {
        return Err(RequestError::Invalid(format!("an ISR of {id} has more than {MEMBERS_MAX} members")));
    }
    let member = |member: &pb::InSync| {
        let storage = StorageId::try_from(&member.storage_id[..])
            .map_err(|error| RequestError::Invalid(format!("storage_id: {error}")))?;
        Ok::<_, RequestError>(Member { broker: member.broker.parse::<BrokerId>()?, storage })
    };
    let proposal = Proposal {
        leader: leader.clone(),
        leader_epoch: LeaderEpoch(proposal.leader_epoch),
        partition_epoch: PartitionEpoch(proposal.partition_epoch),
        isr: proposal.isr.iter().map(member).collect::<Result<_, _>>()?,
    };
    Ok((id, proposal))
}

fn outcome(judged: Result<Verdict, RequestError>) -> pb::isr_answer::Outcome {
    use pb::isr_answer::Outcome;
    match judged {
        Ok(Verdict::Accepted(state)) => Outcome::Confirmed(wire::isr_state(&state)),
        Ok(Verdict::Newer(state)) => Outcome::Newer(wire::isr_state(&state)),
        Ok(Verdict::Refused(refused)) => Outcome::Refused(pb::Error::new(kind(&refused), refused.to_string())),
        Err(error) => Outcome::Refused(pb::Error::new(error.kind(), error.to_string())),
    }
}

fn kind(refused: &Refused) -> ErrorKind {
    match refused {
        Refused::Unknown => ErrorKind::NotFound,
        Refused::By(Refusal::NotLeader { .. } | Refusal::InDoubt) => ErrorKind::Fenced,
        Refused::By(_) => ErrorKind::Invalid,
    }
}

pub(super) async fn hand_over(
    context: &Context,
    request: pb::HandOverRequest,
) -> Result<pb::HandOverResponse, RequestError> {
    if !context.state.leads() {
        return Err(context.state.not_leader());
    }
    let LeaderId { broker, incarnation } = leader(&request.id, &request.incarnation)?;
    let done = context.controller.hand_over(broker.clone(), incarnation, Yields::Stops).await?;
    info!("broker {broker} hands over: others lead {} partitions, {} stay with it", done.handed_over, done.kept);
    Ok(pb::HandOverResponse { revision: done.revision.0, handed_over: done.handed_over, kept: done.kept })
}

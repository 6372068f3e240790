//! Takes proposals of in-sync replicas to the leader sentinel.

use std::{collections::HashMap, sync::Arc, time::Duration};

use goulette_logging::debug;
use goulette_proto::pb::{self, isr_answer::Outcome};
use goulette_replication::{Member, controller::Proposal};
use goulette_types::PartitionId;
use tokio::time::timeout;

use crate::{node::Node, partition::Partition};

/// How long an answer is waited for; the partitions repeat themselves.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Proposals of one call.
const PROPOSALS_MAX: usize = 512;

/// Runs until the broker stops: sends what has gathered, waits for the answers, and so on.
pub(crate) async fn propose(node: Arc<Node>) {
    let (mut stop, mut sentinel) = (node.lifecycle.signal(), node.hub.sentinel());
    loop {
        let proposals = tokio::select! {
            () = stop.stopping() => return,
            proposals = node.hub.proposals.take() => proposals,
        };
        // The last one of each partition says what is wanted now.
        let latest: HashMap<PartitionId, (Arc<Partition>, Proposal)> =
            proposals.into_iter().map(|(partition, proposal)| (partition.id(), (partition, proposal))).collect();
        let latest: Vec<_> = latest.into_values().collect();
        for some in latest.chunks(PROPOSALS_MAX) {
            let client = tokio::select! {
                () = stop.stopping() => return,
                client = sentinel.wait_for(Option::is_some) => client.ok().and_then(|client| client.clone()),
            };
            let Some(mut client) = client else { return };
            let request = pb::ProposeIsrRequest {
                id: node.options().id.to_string(),
                incarnation: node.incarnation.to_bytes().to_vec().into(),
                proposals: some.iter().map(|(partition, proposal)| to_wire(partition, proposal)).collect(),
            };
            match timeout(CALL_DEADLINE, client.propose_isr(request)).await {
                Ok(Ok(response)) => {
                    let answers = response.into_inner().answers;
                    some.iter().zip(answers).for_each(|((partition, _), answer)| take(partition, answer));
                }
                // Whatever became of it, the partitions ask again.
                Ok(Err(status)) => debug!("a proposal of in-sync replicas failed: {}", status.message()),
                Err(_) => debug!("a proposal of in-sync replicas got no answer"),
            }
        }
    }
}

fn take(partition: &Partition, answer: pb::IsrAnswer) {
    match answer.outcome {
        Some(Outcome::Confirmed(state) | Outcome::Newer(state)) => partition.settle_isr(&state),
        Some(Outcome::Refused(error)) => {
            debug!("the sentinel refuses other in-sync replicas for {partition}: {}", error.message);
        }
        None => {}
    }
}

fn to_wire(partition: &Partition, proposal: &Proposal) -> pb::IsrProposal {
    pb::IsrProposal {
        topic_id: partition.id().topic.to_bytes().to_vec().into(),
        partition: partition.id().index.0,
        leader_epoch: proposal.leader_epoch.0,
        partition_epoch: proposal.partition_epoch.0,
        isr: proposal.isr.iter().map(member).collect(),
    }
}

fn member(member: &Member) -> pb::InSync {
    pb::InSync { broker: member.broker.to_string(), storage_id: member.storage.to_bytes().to_vec().into() }
}

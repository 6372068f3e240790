//! Where replicas are to be: moved, evened out, taken away from a broker; and who of them leads.

use goulette_meta::keys::Leaving;
use goulette_proto::pb;
use goulette_types::{BrokerId, PartitionId, PartitionIndex, TopicName};

use super::{Context, wire};
use crate::{RequestError, catalog::Catalog, plan};

/// Partitions that one request may name.
const ORDERS_MAX: usize = 10_000;

pub(super) async fn reassign(
    context: &Context,
    request: pb::ReassignPartitionsRequest,
) -> Result<pb::ReassignPartitionsResponse, RequestError> {
    if request.orders.len() > ORDERS_MAX {
        return Err(RequestError::Invalid(format!("at most {ORDERS_MAX} partitions can be named at once")));
    }
    let orders = {
        let catalog = context.state.catalog();
        let order = |order: &pb::ReplicaOrder| {
            let replicas = order.replicas.iter().map(|id| id.parse()).collect::<Result<Vec<BrokerId>, _>>()?;
            Ok::<_, RequestError>((find(&catalog, &order.topic, order.partition)?, replicas))
        };
        request.orders.iter().map(order).collect::<Result<Vec<_>, _>>()?
    };
    context.controller.reassign(orders).await?;
    Ok(pb::ReassignPartitionsResponse { ordered: request.orders })
}

pub(super) async fn rebalance(
    context: &Context,
    request: pb::RebalanceClusterRequest,
) -> Result<pb::ReassignPartitionsResponse, RequestError> {
    let orders = match request.dry_run {
        true => plan::rebalance::orders(&context.state.catalog()),
        false => context.controller.rebalance().await?,
    };
    let catalog = context.state.catalog();
    let ordered = orders.iter().filter_map(|(id, to)| replica_order(&catalog, *id, to)).collect();
    Ok(pb::ReassignPartitionsResponse { ordered })
}

pub(super) async fn drain(
    context: &Context,
    request: pb::DrainBrokerRequest,
) -> Result<pb::ReassignPartitionsResponse, RequestError> {
    let broker: BrokerId = request.id.parse()?;
    let replacement = match request.replacement.as_str() {
        "" => None,
        id => Some(id.parse()?),
    };
    let leaving = (!request.cancel).then_some(Leaving { remove: request.remove, replacement });
    context.controller.drain(broker.clone(), leaving).await?;
    let catalog = context.state.catalog();
    let moving = |id: PartitionId| {
        let moving = catalog.partition(id)?.moving.as_ref()?;
        replica_order(&catalog, id, &moving.to)
    };
    Ok(pb::ReassignPartitionsResponse { ordered: catalog.held_by(&broker).filter_map(moving).collect() })
}

pub(super) fn list(context: &Context) -> pb::ListReassignmentsResponse {
    let catalog = context.state.catalog();
    let under_way = catalog.all_partitions().filter_map(|(id, record)| {
        let moving = record.moving.as_ref()?;
        Some(pb::Reassignment {
            topic: catalog.topic_name(id.topic)?.to_string(),
            partition: id.index.0,
            replicas: wire::names(record.replicas.iter()),
            target: wire::names(moving.to.iter()),
            isr: wire::names(record.isr.iter().map(|member| &member.broker)),
        })
    });
    pb::ListReassignmentsResponse { reassignments: under_way.collect() }
}

pub(super) async fn elect(
    context: &Context,
    request: pb::ElectLeaderRequest,
) -> Result<pb::ElectLeaderResponse, RequestError> {
    let name: TopicName = request.topic.parse()?;
    let unclean = match request.unclean_broker.as_str() {
        "" => None,
        id => Some(id.parse::<BrokerId>()?),
    };
    let partitions = {
        let catalog = context.state.catalog();
        match (request.partition, &unclean) {
            (Some(partition), _) => vec![find(&catalog, &request.topic, partition)?],
            (None, Some(_)) => {
                let text = "an election that may lose records is ordered for one partition at a time";
                return Err(RequestError::Invalid(text.to_owned()));
            }
            (None, None) => {
                let Some(topic) = catalog.topic(&name) else { return Err(RequestError::UnknownTopic { topic: name }) };
                catalog.partitions(topic.id).map(|(id, _)| id).collect()
            }
        }
    };
    context.controller.elect(partitions, unclean).await?;
    let catalog = context.state.catalog();
    let topic = catalog.topic(&name).map(|topic| wire::topic(&catalog, &name, topic));
    Ok(pb::ElectLeaderResponse { topic })
}

fn find(catalog: &Catalog, topic: &str, partition: u32) -> Result<PartitionId, RequestError> {
    let name: TopicName = topic.parse()?;
    let Some(topic) = catalog.topic(&name) else { return Err(RequestError::UnknownTopic { topic: name }) };
    let id = PartitionId { topic: topic.id, index: PartitionIndex(partition) };
    if catalog.partition(id).is_none() {
        let count = topic.partitions;
        return Err(RequestError::Invalid(format!(
            "topic {name} has {count} partitions, and none numbered {partition}"
        )));
    }
    Ok(id)
}

fn replica_order(catalog: &Catalog, id: PartitionId, to: &[BrokerId]) -> Option<pb::ReplicaOrder> {
    let topic = catalog.topic_name(id.topic)?.to_string();
    Some(pb::ReplicaOrder { topic, partition: id.index.0, replicas: wire::names(to.iter()) })
}

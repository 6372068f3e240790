//! Orders that move partitions between brokers, and how far they are.
//!
//! The sentinels carry them out, whoever asks or goes: ending a command that waits takes nothing back.

use std::time::Duration;

use goulette_client::Cluster;
use goulette_proto::pb::{DrainBrokerRequest, ElectLeaderRequest, Reassignment, ReplicaOrder};
use serde_json::json;
use tokio::time::sleep;

use super::super::{connect, topic::topic_json};
use crate::{
    cli::{BrokerCommand, DrainFlags, ElectionCommand, MovesFlags, OrderFlags, PartitionCommand, RebalanceFlags},
    exit::Failure,
    output::{Output, Table, print, print_json},
};

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);
/// After so many looks at which nothing was on its way a reason is due.
const STILL: u32 = 10;

pub(crate) async fn broker(command: BrokerCommand) -> Result<(), Failure> {
    let (request, order) = match command {
        BrokerCommand::Drain(flags) => drain(flags, false),
        BrokerCommand::Remove(flags) => drain(flags, true),
        BrokerCommand::Replace(flags) => {
            let replacement = flags.replacement.to_string();
            (DrainBrokerRequest { id: flags.id.to_string(), replacement, ..Default::default() }, flags.order)
        }
    };
    let cluster = connect(&order.cluster.sentinel).await?.cluster();
    let (id, is_order) = (request.id.clone(), !request.cancel);
    let ordered = cluster.drain(request).await?;
    match order.cluster.output {
        Output::Json => print_json(&ordered.iter().map(order_json).collect::<Vec<_>>())?,
        Output::Text if !is_order => print(&format!("{id} keeps what it still has\n"))?,
        Output::Text => print(&format!("{id} is to be left: goulette cluster status shows how far it is\n"))?,
    }
    if is_order && !order.no_wait { until_left(&cluster, &id).await } else { Ok(()) }
}

/// Waits until a broker holds nothing, or is forgotten, with a line on standard error whenever less is left, and one when
/// nothing is on its way.
async fn until_left(cluster: &Cluster, id: &str) -> Result<(), Failure> {
    let mut told = None;
    let mut still = 0;
    loop {
        let status = cluster.status().await?;
        let left = status.brokers.iter().find(|broker| broker.id == id).map_or(0, |broker| broker.partitions_held);
        if told != Some(left) {
            eprintln!("{left} partitions left on {id}");
            told = Some(left);
            still = 0;
        }
        if left == 0 {
            return Ok(());
        }
        still = if status.reassigning_count == 0 { still + 1 } else { 0 };
        if still == STILL {
            eprintln!(
                "nothing moves: no broker that lives can take them (see goulette cluster status); the order stands, \
                 also when this command is ended; goulette broker drain {id} --cancel takes it back"
            );
        }
        sleep(LOOK).await;
    }
}

fn order_json(order: &ReplicaOrder) -> serde_json::Value {
    json!({ "topic": order.topic, "partition": order.partition, "replicas": order.replicas })
}

fn drain(flags: DrainFlags, remove: bool) -> (DrainBrokerRequest, OrderFlags) {
    let request =
        DrainBrokerRequest { id: flags.id.to_string(), remove, cancel: flags.cancel, ..DrainBrokerRequest::default() };
    (request, flags.order)
}

pub(super) async fn rebalance(flags: RebalanceFlags) -> Result<(), Failure> {
    let cluster = connect(&flags.order.cluster.sentinel).await?.cluster();
    if flags.cancel {
        let open = cluster.reassignments().await?.into_iter();
        let orders: Vec<_> = open
            .map(|open| ReplicaOrder { topic: open.topic, partition: open.partition, replicas: Vec::new() })
            .collect();
        let ordered = if orders.is_empty() { orders } else { cluster.reassign(orders).await? };
        return follow(&cluster, &ordered, &flags.order, false).await;
    }
    let ordered = cluster.rebalance(flags.dry_run).await?;
    follow(&cluster, &ordered, &flags.order, !flags.dry_run).await
}

pub(crate) async fn partition(command: PartitionCommand) -> Result<(), Failure> {
    match command {
        PartitionCommand::Moves(flags) => moves(&flags).await,
        PartitionCommand::Reassign(flags) => {
            let is_order = flags.replicas != "-";
            let replicas =
                if is_order { flags.replicas.split(',').map(ToOwned::to_owned).collect() } else { Vec::new() };
            let order = ReplicaOrder { topic: flags.topic.to_string(), partition: flags.partition, replicas };
            let cluster = connect(&flags.order.cluster.sentinel).await?.cluster();
            let ordered = cluster.reassign(vec![order]).await?;
            follow(&cluster, &ordered, &flags.order, is_order).await
        }
    }
}

pub(crate) async fn election(command: ElectionCommand) -> Result<(), Failure> {
    let (request, flags) = match command {
        ElectionCommand::Preferred(flags) => {
            let request = ElectLeaderRequest {
                topic: flags.topic.to_string(),
                partition: flags.partition,
                ..ElectLeaderRequest::default()
            };
            (request, flags.cluster)
        }
        ElectionCommand::Unclean(flags) => {
            let request = ElectLeaderRequest {
                topic: flags.topic.to_string(),
                partition: Some(flags.partition),
                unclean_broker: flags.broker.to_string(),
            };
            (request, flags.cluster)
        }
    };
    let topic = connect(&flags.sentinel).await?.cluster().elect(request).await?.unwrap_or_default();
    if flags.output == Output::Json {
        return print_json(&topic_json(&topic));
    }
    let mut table = Table::new(&["partition", "leader", "epoch"]);
    for partition in &topic.partitions {
        table.row([partition.index.to_string(), partition.leader.clone(), partition.leader_epoch.to_string()]);
    }
    print(&table.to_string())
}

async fn moves(flags: &MovesFlags) -> Result<(), Failure> {
    let open = connect(&flags.cluster.sentinel).await?.cluster().reassignments().await?;
    if flags.cluster.output == Output::Json {
        let one = |open: &Reassignment| {
            json!({
                "topic": open.topic,
                "partition": open.partition,
                "replicas": open.replicas,
                "target": open.target,
                "isr": open.isr,
            })
        };
        return print_json(&open.iter().map(one).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["topic", "partition", "replicas", "in sync", "ordered"]);
    for open in &open {
        let (replicas, isr, target) = (open.replicas.join(","), open.isr.join(","), open.target.join(","));
        table.row([open.topic.clone(), open.partition.to_string(), replicas, isr, target]);
    }
    print(&table.to_string())
}

/// Tells what was ordered, then waits until it is done, with a line on standard error whenever less is left.
async fn follow(
    cluster: &Cluster,
    ordered: &[ReplicaOrder],
    flags: &OrderFlags,
    is_order: bool,
) -> Result<(), Failure> {
    match flags.cluster.output {
        Output::Json => print_json(&ordered.iter().map(order_json).collect::<Vec<_>>())?,
        Output::Text if ordered.is_empty() => print("nothing moves\n")?,
        Output::Text => {
            let mut table = Table::new(&["topic", "partition", "replicas"]);
            for order in ordered {
                table.row([order.topic.clone(), order.partition.to_string(), order.replicas.join(",")]);
            }
            print(&table.to_string())?;
        }
    }
    if !is_order || flags.no_wait || ordered.is_empty() {
        return Ok(());
    }
    let mut told = usize::MAX;
    loop {
        let open = cluster.reassignments().await?;
        let is_ours = |order: &ReplicaOrder| {
            open.iter().any(|open| open.topic == order.topic && open.partition == order.partition)
        };
        let left = ordered.iter().filter(|order| is_ours(order)).count();
        if left != told {
            eprintln!("{} of {} partitions moved", ordered.len() - left, ordered.len());
            told = left;
        }
        if left == 0 {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

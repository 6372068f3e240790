//! Evening out what brokers carry.

use goulette_meta::keys::Operation;
use goulette_replication::controller;
use goulette_types::{BrokerId, PartitionId, Timestamp};

use super::{Draft, Step};
use crate::{
    catalog::Catalog,
    partition_state,
    placement::{Leads, Load},
};

/// A partition, and the replicas that it is to have.
pub(crate) type Order = (PartitionId, Vec<BrokerId>);

/// Orders that bring every partition to where the ring of the live brokers would put it now, each once, with as many
/// preferred leaders on each broker as is its share. Those that move already, or that nobody leads, are left alone.
pub(crate) fn orders(catalog: &Catalog) -> Vec<Order> {
    let ring = catalog.ring();
    let standing: Vec<_> = catalog
        .all_partitions()
        .filter(|(id, record)| {
            let stands = record.moving.is_none() && record.doubt.is_none() && catalog.leader(record).is_ok();
            let follows = |broker: &BrokerId| catalog.broker(broker).is_some_and(|known| known.replicates);
            stands && catalog.topic_name(id.topic).is_some() && record.replicas.iter().all(follows)
        })
        .collect();
    let replicas = standing.iter().map(|(_, record)| record.replicas.len()).sum();
    let mut load = Load::new();
    let bounds = ring.bounds(replicas, &load);
    let mut leads = Leads::new(ring.members(), Load::new(), standing.len());
    let mut orders = Vec::new();
    for (id, record) in standing {
        let mut to = ring.place(id, record.replicas.len(), &bounds, &mut load);
        leads.choose(&mut to, record.replicas.first());
        if to.len() == record.replicas.len() && to != record.replicas {
            orders.push((id, to));
        }
    }
    orders
}

/// The step that gives the first of `orders`, as many as fit, and how many of them it has looked at. Those that cannot move as
/// they stand now are left out: evening out is done as far as it can be.
pub(crate) fn begin(catalog: &Catalog, now: Timestamp, orders: &[Order]) -> (Option<Step>, usize) {
    let live = catalog.live();
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    let (mut seen, mut begun) = (0, 0);
    for (id, to) in orders {
        if draft.room() == 0 {
            break;
        }
        seen += 1;
        let Some(record) = catalog.partition(*id) else { continue };
        let Ok(moving) = controller::start_move(&partition_state::state(record), to) else { continue };
        // Where nothing but the order of the replicas changes, there is nothing to wait for.
        let next = controller::finish_move(&moving, &live).unwrap_or(moving);
        draft.put_partition(*id, next, operation);
        begun += 1;
    }
    if begun == 0 {
        return (None, seen);
    }
    draft.record(Operation::ReassignPartitions { partitions: begun });
    (Some(draft.finish()), seen)
}

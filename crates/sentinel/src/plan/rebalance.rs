//! Evening out what brokers carry.

use goulette_types::{BrokerId, PartitionId};

use crate::{
    catalog::Catalog,
    placement::{Leads, Load},
};

/// Orders that bring every partition to where the ring of the live brokers would put it now, each once, with as many
/// preferred leaders on each broker as is its share. Those that move already, or that nobody leads, are left alone.
pub(crate) fn orders(catalog: &Catalog) -> Vec<(PartitionId, Vec<BrokerId>)> {
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

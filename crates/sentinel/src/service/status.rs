//! The cluster at a glance.

use std::{collections::BTreeMap, time::Duration};

use goulette_meta::keys::{BrokerRecord, BrokerState};
use goulette_proto::pb;
use goulette_types::BrokerId;
use tokio::time::timeout;

use super::{Context, wire};
use crate::{Store, catalog::Catalog, state::Health};

/// How long the sentinel that leads may take to answer before another one answers instead.
pub(super) const FORWARD_DEADLINE: Duration = Duration::from_secs(3);
/// How long the store may take to tell of itself.
const STORE_DEADLINE: Duration = Duration::from_secs(2);
/// Partitions named of each kind.
const NAMED_MAX: usize = 1_000;
/// Partitions named in a warning.
const STRAYS_NAMED_MAX: usize = 10;

pub(super) async fn get(context: &Context) -> pb::GetClusterStatusResponse {
    let store = store(context).await;
    let catalog = context.state.catalog();
    let cluster = catalog.cluster();
    let mut status = pb::GetClusterStatusResponse {
        cluster_id: cluster.map(|cluster| cluster.cluster_id.to_string()).unwrap_or_default(),
        revision: catalog.revision().0,
        generation: catalog.generation(),
        created_at_ms: cluster.map_or(0, |cluster| millis(cluster.created_at.0)),
        replication_factor: cluster.map_or(0, |cluster| cluster.replication_factor),
        sentinels: sentinels(context, &catalog),
        answered_by: context.options.id.to_string(),
        store: Some(store),
        brokers: catalog.brokers().map(|(id, record)| broker(context, &catalog, id, record)).collect(),
        topics: catalog.topics().count() as u32,
        foreign_keys: catalog.foreign().iter().map(|(key, problem)| format!("{key}: {problem}")).collect(),
        ..Default::default()
    };
    partitions(&catalog, &mut status);
    let unknown = context.state.unknown();
    status.unknown_count = unknown.len() as u32;
    status.unknown = unknown.into_iter().take(NAMED_MAX).map(wire::unknown).collect();
    status.warnings.extend(strays(context));
    if !context.state.leads() {
        status.warnings.push("the sentinel that leads does not answer; this is from another one's copy".to_owned());
    }
    status
}

/// What brokers hold for nobody, by broker.
fn strays(context: &Context) -> Vec<String> {
    let mut named: BTreeMap<BrokerId, Vec<String>> = BTreeMap::new();
    for (broker, held) in context.state.strays() {
        named.entry(broker).or_default().push(format!("{}/{}", held.topic, held.partition));
    }
    let warning = |(broker, mut names): (BrokerId, Vec<String>)| {
        let count = names.len();
        names.truncate(STRAYS_NAMED_MAX);
        let more = if count > names.len() { ", ..." } else { "" };
        let names = names.join(", ");
        format!(
            "broker {broker} keeps {count} partitions that are elsewhere (moved while it was away, or the metadata went back): {names}{more}"
        )
    };
    named.into_iter().map(warning).collect()
}

fn partitions(catalog: &Catalog, status: &mut pb::GetClusterStatusResponse) {
    for (name, topic) in catalog.topics() {
        for (id, record) in catalog.partitions(topic.id) {
            status.partitions += 1;
            status.reassigning_count += u32::from(record.moving.is_some());
            let problem = |problem| pb::PartitionProblem { topic: name.to_string(), partition: id.index.0, problem };
            if let Err(offline) = catalog.leader(record) {
                status.offline_count += 1;
                if status.offline.len() < NAMED_MAX {
                    status.offline.push(problem(offline.to_string()));
                }
            }
            let (has, wanted) = (record.isr.len(), record.replicas.len().max(topic.replication_factor as usize));
            if has < wanted {
                status.under_replicated_count += 1;
                if status.under_replicated.len() < NAMED_MAX {
                    status.under_replicated.push(problem(format!("{has} in sync of {wanted} wanted")));
                }
            }
        }
    }
}

fn sentinels(context: &Context, catalog: &Catalog) -> Vec<pb::SentinelStatus> {
    let leading = catalog.leading_sentinel().map(|(leading, _)| leading.incarnation);
    let known = catalog.sentinels().map(|known| pb::SentinelStatus {
        id: known.id.to_string(),
        address: known.address.clone(),
        leader: leading == Some(known.incarnation),
        version: known.release.clone(),
        started_at_ms: millis(known.started_at.0),
    });
    let mut known: Vec<_> = known.collect();
    if let Store::Local = context.options.store {
        known.push(pb::SentinelStatus {
            id: context.options.id.to_string(),
            address: context.address(),
            leader: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: millis(context.started_at_ms),
        });
    }
    known
}

async fn store(context: &Context) -> pb::StoreStatus {
    let mode = context.options.store.mode().to_owned();
    let Store::Etcd(etcd) = &context.options.store else {
        let size_bytes = crate::watched::store_bytes(&context.env, &context.options).unwrap_or(0);
        return pb::StoreStatus { mode, healthy: true, size_bytes, ..Default::default() };
    };
    let silence = context.state.silence();
    let mut status = pb::StoreStatus {
        mode,
        healthy: silence.is_none(),
        problem: silence.map(|silence| silence.problem).unwrap_or_default(),
        silent_ms: context.stale().as_millis() as u64,
        endpoints: etcd.endpoints.clone(),
        quota_bytes: etcd.quota_bytes.unwrap_or(0),
        ..Default::default()
    };
    let Some(leases) = &context.leases else { return status };
    match timeout(STORE_DEADLINE, leases.condition()).await {
        Ok(Ok(condition)) => {
            status.size_bytes = condition.size_bytes;
            status.healthy &= condition.alarms.is_empty();
            status.details = format!("etcd {} of {} members", condition.release, condition.members);
            if !condition.alarms.is_empty() {
                status.problem = format!("alarms stand: {}", condition.alarms.join(", "));
            }
            status.alarms = condition.alarms;
        }
        // Perhaps only this user may not ask.
        Ok(Err(error)) => status.details = format!("does not tell of itself: {}", goulette_logging::Chain(&error)),
        Err(_elapsed) => status.details = "does not tell of itself in time".to_owned(),
    }
    status
}

fn broker(context: &Context, catalog: &Catalog, id: &BrokerId, record: &BrokerRecord) -> pb::BrokerStatus {
    let health = context.state.health(id);
    let led = |id_: &goulette_types::PartitionId| {
        catalog.partition(*id_).is_some_and(|partition| catalog.leader(partition).ok() == Some(id))
    };
    let heard = (health.heard > Duration::ZERO).then(|| context.env.clock.now().saturating_sub(health.heard));
    pb::BrokerStatus {
        id: id.to_string(),
        address: record.address.clone(),
        state: broker_state(record.state, health).into(),
        since_ms: millis(record.since.0),
        heard_ms_ago: heard.map_or(0, |heard| heard.as_millis() as u64),
        partitions_held: catalog.held_by(id).count() as u32,
        partitions_led: catalog.held_by(id).filter(led).count() as u32,
        version: record.release.clone(),
        incarnation: wire::bytes(record.incarnation.to_bytes()),
        storage_id: wire::bytes(record.storage.to_bytes()),
        weight: record.weight,
        rack: record.rack.clone().unwrap_or_default(),
        oldest_unsynced_ms: health.oldest_unsynced.as_millis() as u64,
        leaving: match &record.leaving {
            None => String::new(),
            Some(leaving) if leaving.remove => "removing".to_owned(),
            Some(_) => "draining".to_owned(),
        },
    }
}

fn broker_state(state: BrokerState, health: Health) -> pb::BrokerState {
    match state {
        BrokerState::Live if health.suspect => pb::BrokerState::Suspect,
        BrokerState::Live => pb::BrokerState::Healthy,
        BrokerState::Down => pb::BrokerState::Down,
        BrokerState::Left => pb::BrokerState::Left,
    }
}

fn millis(wall: i64) -> u64 {
    u64::try_from(wall).unwrap_or(0)
}

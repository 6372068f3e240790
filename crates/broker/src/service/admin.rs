//! What an operator asks a running broker.

use goulette_logging::Level;
use goulette_proto::pb;

use crate::{error::RequestError, lifecycle::Phase, node::Node};

pub(super) fn set_log_level(request: &pb::SetLogLevelRequest) -> Result<pb::SetLogLevelResponse, RequestError> {
    let level: Level = request.level.parse().map_err(|error| RequestError::Invalid(format!("{error}")))?;
    let previous = goulette_logging::set_level(level);
    goulette_logging::info!("the log level is {level} now");
    Ok(pb::SetLogLevelResponse { previous: previous.map_or_else(String::new, |level| level.to_string()) })
}

pub(super) fn info(node: &Node) -> pb::GetInfoResponse {
    let state = match node.lifecycle.phase() {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Stopping | Phase::Failed(_) => "stopping",
    };
    let (identity, held) = (node.identity(), node.registry.all());
    let led = held.iter().filter(|partition| partition.led().is_ok()).count();
    let stats = node.log.stats();
    let oldest_unsynced = stats.wal.oldest_unsynced.unwrap_or_default();
    let details = [
        ("address", node.address().to_owned()),
        ("incarnation", node.incarnation.to_string()),
        ("storage_id", identity.storage.to_string()),
        ("partitions_held", held.len().to_string()),
        ("partitions_led", led.to_string()),
        ("produce_bytes_in_flight", node.budget.used().to_string()),
        ("wal_replay_bytes", stats.replay_bytes.to_string()),
        ("unflushed_bytes", stats.unflushed_bytes.to_string()),
        ("tail_cache_bytes", stats.tail_cache_bytes.to_string()),
        ("oldest_unsynced_ms", oldest_unsynced.as_millis().to_string()),
    ];
    pb::GetInfoResponse {
        role: "broker".to_owned(),
        id: node.options().id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: identity.cluster.map_or_else(String::new, |id| id.to_string()),
        state: state.to_owned(),
        log_level: goulette_logging::level().map_or_else(String::new, |level| level.to_string()),
        started_at_ms: node.started_at_ms,
        details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

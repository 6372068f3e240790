//! `goulette cluster status`: one page about sentinels, metadata, brokers, and what somebody may have to act on.

use goulette_proto::pb::{BrokerState, BrokerStatus, GetClusterStatusResponse, StoreStatus};
use serde_json::{Value, json};

use super::super::connect;
use crate::{
    cli::StatusFlags,
    exit::Failure,
    output::{Output, Table, print, print_json},
};

pub(super) async fn status(flags: &StatusFlags) -> Result<(), Failure> {
    let status = connect(&flags.cluster.sentinel).await?.cluster().status().await?;
    match flags.cluster.output {
        Output::Text => print(&text(&status)),
        Output::Json => print_json(&as_json(&status)),
    }
}

fn text(status: &GetClusterStatusResponse) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:<12}{value}\n");
    let problems = problems(status);
    line("state", if problems.is_empty() { "healthy".to_owned() } else { problems.join(", ") });
    line("cluster", status.cluster_id.clone());
    line("created", time(status.created_at_ms));
    line(
        "revision",
        format!("{} (generation {}, as {} knows it)", status.revision, status.generation, status.answered_by),
    );
    line(
        "topics",
        format!(
            "{} with {} partitions, {} replicas each unless told otherwise",
            status.topics, status.partitions, status.replication_factor
        ),
    );
    if let Some(store) = &status.store {
        line("metadata", store_text(store));
        for alarm in &store.alarms {
            line("", format!("alarm: {alarm}"));
        }
        if !store.details.is_empty() {
            line("", store.details.clone());
        }
    }
    if status.reassigning_count > 0 {
        line("moving", format!("{} partitions", status.reassigning_count));
    }

    let mut sentinels = Table::new(&["sentinel", "address", "role", "version", "since"]);
    for sentinel in &status.sentinels {
        sentinels.row([
            sentinel.id.clone(),
            sentinel.address.clone(),
            if sentinel.leader { "leader" } else { "" }.to_owned(),
            sentinel.version.clone(),
            time(sentinel.started_at_ms),
        ]);
    }
    text += &format!("\n{sentinels}");
    let mut brokers = Table::new(&["broker", "address", "state", "since", "held", "led", "rack", "note"]);
    for broker in &status.brokers {
        brokers.row([
            broker.id.clone(),
            broker.address.clone(),
            state(broker).to_owned(),
            time(broker.since_ms),
            broker.partitions_held.to_string(),
            broker.partitions_led.to_string(),
            broker.rack.clone(),
            broker.leaving.clone(),
        ]);
    }
    text += &format!("\n{brokers}");

    for (what, problems, count) in [
        ("offline", &status.offline, status.offline_count),
        ("short of replicas", &status.under_replicated, status.under_replicated_count),
    ] {
        if count > 0 {
            text += &format!("\n{what}: {count} partitions\n");
            for problem in problems {
                text += &format!("  {}/{}: {}\n", problem.topic, problem.partition, problem.problem);
            }
        }
    }
    if status.unknown_count > 0 {
        text += &format!(
            "\nunknown: {} partitions that brokers hold and the metadata does not know (goulette cluster adopt takes them back)\n",
            status.unknown_count
        );
        for unknown in &status.unknown {
            let (topic, id) = (&unknown.topic, hex(&unknown.topic_id));
            text += &format!(
                "  {topic}/{} on {} up to offset {} (topic id {id})\n",
                unknown.partition, unknown.broker, unknown.end
            );
        }
    }
    for key in &status.foreign_keys {
        text += &format!("\nforeign key: {key}\n");
    }
    for warning in &status.warnings {
        text += &format!("\nwarning: {warning}\n");
    }
    text
}

/// What somebody has to look at, the worst first; nothing: all is well. The rest of the page has the details.
fn problems(status: &GetClusterStatusResponse) -> Vec<String> {
    let mut problems = Vec::new();
    if status.offline_count > 0 {
        problems.push(format!("{} partitions OFFLINE", status.offline_count));
    }
    let in_state = |wanted: BrokerState| {
        let names = status.brokers.iter().filter(|broker| broker.state() == wanted).map(|broker| broker.id.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    for (state, word) in [(BrokerState::Down, "down"), (BrokerState::Suspect, "suspect")] {
        let names = in_state(state);
        if !names.is_empty() {
            problems.push(format!("{word}: {names}"));
        }
    }
    if let Some(store) = &status.store {
        // One that answers is unhealthy by its alarms.
        if !store.healthy && (store.silent_ms > 0 || store.alarms.is_empty()) {
            problems.push("the metadata store does not answer".to_owned());
        }
        problems.extend(store.alarms.iter().map(|alarm| format!("alarm {alarm}")));
    }
    if !status.sentinels.is_empty() && !status.sentinels.iter().any(|sentinel| sentinel.leader) {
        problems.push("no sentinel leads".to_owned());
    }
    for (count, what) in [
        (status.under_replicated_count, "partitions short of replicas"),
        (status.unknown_count, "partitions unknown"),
        (status.foreign_keys.len() as u32, "foreign keys"),
        (status.warnings.len() as u32, "warnings"),
    ] {
        if count > 0 {
            problems.push(format!("{count} {what}"));
        }
    }
    problems
}

fn store_text(store: &StoreStatus) -> String {
    let place = match store.mode.as_str() {
        "local" => "in the sentinel's own folder, without etcd".to_owned(),
        mode => format!("{mode} etcd at {}", store.endpoints.join(",")),
    };
    let health = match (store.healthy, store.problem.as_str()) {
        (true, _) => "healthy".to_owned(),
        (false, "") => format!("silent for {} ms", store.silent_ms),
        (false, problem) => format!("{problem} (silent for {} ms)", store.silent_ms),
    };
    let size = match (store.size_bytes, store.quota_bytes) {
        (0, _) => String::new(),
        (size, 0) => format!(", {}", bytes(size)),
        (size, quota) => format!(", {} of {}", bytes(size), bytes(quota)),
    };
    format!("{place}: {health}{size}")
}

fn as_json(status: &GetClusterStatusResponse) -> Value {
    let problem = |problem: &goulette_proto::pb::PartitionProblem| json!({ "topic": problem.topic, "partition": problem.partition, "problem": problem.problem });
    let broker = |broker: &BrokerStatus| {
        json!({
            "id": broker.id,
            "address": broker.address,
            "state": state(broker),
            "since_ms": broker.since_ms,
            "heard_ms_ago": broker.heard_ms_ago,
            "partitions_held": broker.partitions_held,
            "partitions_led": broker.partitions_led,
            "version": broker.version,
            "incarnation": hex(&broker.incarnation),
            "storage_id": hex(&broker.storage_id),
            "weight": broker.weight,
            "rack": broker.rack,
            "oldest_unsynced_ms": broker.oldest_unsynced_ms,
            "leaving": broker.leaving,
        })
    };
    json!({
        "problems": problems(status),
        "cluster_id": status.cluster_id,
        "created_at_ms": status.created_at_ms,
        "revision": status.revision,
        "generation": status.generation,
        "answered_by": status.answered_by,
        "replication_factor": status.replication_factor,
        "topics": status.topics,
        "partitions": status.partitions,
        "store": status.store.as_ref().map(|store| json!({
            "mode": store.mode,
            "healthy": store.healthy,
            "problem": store.problem,
            "silent_ms": store.silent_ms,
            "endpoints": store.endpoints,
            "size_bytes": store.size_bytes,
            "quota_bytes": store.quota_bytes,
            "alarms": store.alarms,
            "details": store.details,
        })),
        "sentinels": status.sentinels.iter().map(|sentinel| json!({
            "id": sentinel.id,
            "address": sentinel.address,
            "leader": sentinel.leader,
            "version": sentinel.version,
            "started_at_ms": sentinel.started_at_ms,
        })).collect::<Vec<_>>(),
        "brokers": status.brokers.iter().map(broker).collect::<Vec<_>>(),
        "offline": status.offline.iter().map(problem).collect::<Vec<_>>(),
        "offline_count": status.offline_count,
        "under_replicated": status.under_replicated.iter().map(problem).collect::<Vec<_>>(),
        "under_replicated_count": status.under_replicated_count,
        "unknown": status.unknown.iter().map(|unknown| json!({
            "broker": unknown.broker,
            "topic_id": hex(&unknown.topic_id),
            "topic": unknown.topic,
            "partition": unknown.partition,
            "leader_epoch": unknown.leader_epoch,
            "end": unknown.end,
        })).collect::<Vec<_>>(),
        "unknown_count": status.unknown_count,
        "reassigning_count": status.reassigning_count,
        "foreign_keys": status.foreign_keys,
        "warnings": status.warnings,
    })
}

fn state(broker: &BrokerStatus) -> &'static str {
    match broker.state() {
        BrokerState::Healthy => "healthy",
        BrokerState::Suspect => "suspect",
        BrokerState::Down => "down",
        BrokerState::Left => "left",
        BrokerState::Unspecified => "unknown",
    }
}

fn time(at_ms: u64) -> String {
    if at_ms == 0 {
        return String::new();
    }
    let at = i64::try_from(at_ms).unwrap_or(i64::MAX);
    format!("{:.0}", jiff::Timestamp::from_millisecond(at).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(count: u64) -> String {
    match count {
        0..1_048_576 => format!("{} KiB", count.div_ceil(1024)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_what_is_wrong_and_what_to_do() {
        let mut status = GetClusterStatusResponse { cluster_id: "c".to_owned(), ..GetClusterStatusResponse::default() };
        assert!(!text(&status).contains("unknown"));
        status.store = Some(StoreStatus {
            mode: "embedded".to_owned(),
            endpoints: vec!["h:1".to_owned()],
            size_bytes: 3 << 20,
            quota_bytes: 2 << 30,
            alarms: vec!["NOSPACE".to_owned()],
            problem: "no leader".to_owned(),
            ..StoreStatus::default()
        });
        status.unknown_count = 1;
        status.unknown.push(goulette_proto::pb::UnknownPartition {
            topic: "t".to_owned(),
            end: 7,
            ..Default::default()
        });
        let text = text(&status);
        for word in ["3.0 MiB of 2.0 GiB", "alarm: NOSPACE", "no leader", "t/0 on  up to offset 7", "cluster adopt"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn the_first_line_tells_whether_to_get_up() {
        let broker = |id: &str, state: BrokerState| BrokerStatus {
            id: id.to_owned(),
            state: state as i32,
            ..BrokerStatus::default()
        };
        let mut status = GetClusterStatusResponse::default();
        status.brokers.push(broker("b1", BrokerState::Healthy));
        status.brokers.push(broker("b2", BrokerState::Left));
        assert!(text(&status).starts_with("state       healthy\n"));
        status.brokers.push(broker("b3", BrokerState::Down));
        status.offline_count = 2;
        status.store =
            Some(StoreStatus { alarms: vec!["NOSPACE".to_owned()], silent_ms: 400, ..StoreStatus::default() });
        let first = "state       2 partitions OFFLINE, down: b3, the metadata store does not answer, alarm NOSPACE\n";
        assert!(text(&status).starts_with(first), "{}", text(&status));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!((bytes(1), bytes(1 << 20), bytes(3 << 29)), ("1 KiB".into(), "1.0 MiB".into(), "1.5 GiB".into()));
    }
}

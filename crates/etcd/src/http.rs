//! What etcd answers over HTTP/1.1 on its client port: version, health and metrics.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use goulette_proto::etcd::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;

use crate::{EtcdError, config::VERSION, metrics, node::Node, raft::RaftNode, snapshot::STORAGE_VERSION};

/// Health and metrics: what `--listen-metrics-urls` serve.
pub(crate) fn health_and_metrics(node: &Arc<Node>, raft: &Arc<RaftNode>) -> Router {
    let router = Router::new()
        .route("/health", with(node, |node, uri| async move { health(&node, &uri).await }))
        .route("/livez", with(node, |node, uri| async move { all(&node, &uri, &[Check::SerializableRead]).await }))
        .route("/readyz", with(node, |node, uri| async move { all(&node, &uri, &READY).await }));
    let router = READY.into_iter().fold(router, |router, check| {
        let path = format!("/readyz/{}", check.name());
        router.route(&path, with(node, move |node, uri| async move { all(&node, &uri, &[check]).await }))
    });
    let path = format!("/livez/{}", Check::SerializableRead.name());
    let live = with(node, |node, uri| async move { all(&node, &uri, &[Check::SerializableRead]).await });
    let (node, raft) = (Arc::clone(node), Arc::clone(raft));
    let metrics = move || async move {
        let text = metrics::text(&node, &raft);
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
    };
    router.route(&path, live).route("/metrics", get(metrics))
}

/// All that the client port answers besides gRPC.
pub(crate) fn routes(node: &Arc<Node>, raft: &Arc<RaftNode>) -> Router {
    health_and_metrics(node, raft).route("/version", with(node, |node, _| async move { version(&node) }))
}

/// A route that is told of the member and the request's address.
fn with<A, F>(node: &Arc<Node>, answer: A) -> axum::routing::MethodRouter
where
    A: Fn(Arc<Node>, Uri) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let node = Arc::clone(node);
    get(move |uri: Uri| answer(Arc::clone(&node), uri))
}

fn version(node: &Node) -> Response {
    let cluster = node.state.members.version().unwrap_or_else(|| "not_decided".to_owned());
    json_text(
        StatusCode::OK,
        format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}","storage":"{STORAGE_VERSION}"}}"#),
    )
}

fn json_text(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The values of a name in the address's query.
fn query<'u>(uri: &'u Uri, name: &str) -> Vec<&'u str> {
    let pairs = uri.query().unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(given, _)| *given == name).map(|(_, value)| value).collect()
}

async fn health(node: &Node, uri: &Uri) -> Response {
    let excluded = query(uri, "exclude");
    let is_serializable = query(uri, "serializable").first() == Some(&"true");
    let result = async {
        for alarm in node.state.alarms.of(AlarmType::None) {
            let name = alarm.alarm().as_str_name();
            if !excluded.contains(&name) {
                return Err(format!("ALARM {name}"));
            }
        }
        if !is_serializable && node.leadership().leader.is_none() {
            return Err("RAFT NO LEADER".to_owned());
        }
        read(node, is_serializable).await.map_err(|error| format!("RANGE ERROR:{error}"))
    };
    match result.await {
        Ok(()) => json_text(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
        Err(reason) => {
            json_text(StatusCode::SERVICE_UNAVAILABLE, json!({ "health": "false", "reason": reason }).to_string())
        }
    }
}

/// One thing that must work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const READY: [Check; 4] = [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, node: &Node) -> Result<(), String> {
        match self {
            Self::DataCorruption if node.state.alarms.is_on(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if node.consensus.status().is_learner => Err("not supported for learner".to_owned()),
            Self::DataCorruption | Self::NonLearner => Ok(()),
            Self::SerializableRead => read(node, true).await.map_err(|error| error.to_string()),
            Self::LinearizableRead => read(node, false).await.map_err(|error| error.to_string()),
        }
    }
}

/// Runs checks, as `/livez` and `/readyz` show them.
async fn all(node: &Node, uri: &Uri, checks: &[Check]) -> Response {
    let excluded = query(uri, "exclude");
    let (mut report, mut is_well) = (String::new(), true);
    for check in checks.iter().filter(|check| !excluded.contains(&check.name())) {
        let line = match check.run(node).await {
            Ok(()) => format!("[+]{} ok", check.name()),
            Err(reason) => {
                is_well = false;
                format!("[-]{} failed: {reason}", check.name())
            }
        };
        // Writing into a string does not fail.
        let _ = writeln!(report, "{line}");
    }
    if !is_well {
        return (StatusCode::SERVICE_UNAVAILABLE, report).into_response();
    }
    if query(uri, "verbose").is_empty() {
        report.clear();
    }
    report.push_str("ok\n");
    (StatusCode::OK, report).into_response()
}

/// Reads one key, as clients do.
async fn read(node: &Node, is_serializable: bool) -> Result<(), EtcdError> {
    if !is_serializable {
        node.read_barrier().await?;
    }
    let request = RangeRequest {
        key: bytes::Bytes::from_static(b"\0"),
        limit: 1,
        keys_only: true,
        serializable: is_serializable,
        ..RangeRequest::default()
    };
    node.state.store.range(&request)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_name_things_more_than_once() {
        let uri: Uri = "/health?exclude=NOSPACE&serializable=true&exclude=CORRUPT&verbose".parse().unwrap();
        assert_eq!(query(&uri, "exclude"), ["NOSPACE", "CORRUPT"]);
        assert_eq!(query(&uri, "serializable"), ["true"]);
        assert_eq!(query(&uri, "verbose"), [""]);
        assert!(query(&uri, "other").is_empty());
    }
}

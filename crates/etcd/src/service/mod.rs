//! etcd's gRPC services, one file each. They check what no state could make valid, ask the consensus, and fill headers.

mod auth;
mod cluster;
mod election;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod recipe;
mod watch;

pub(crate) use auth::AuthService;
pub(crate) use cluster::ClusterService;
pub(crate) use election::ElectionService;
pub(crate) use kv::KvService;
pub(crate) use lease::{LeaseService, PeerLeaseService};
pub(crate) use lock::LockService;
pub(crate) use maintenance::MaintenanceService;
pub(crate) use watch::WatchService;

use tonic::metadata::MetadataMap;

use crate::{EtcdError, node::Node};

/// Refuses a request that its metadata says cannot be served now: a client that wants a leader and there is none, a
/// version of the client that is no text.
pub(crate) fn admit(node: &Node, metadata: &MetadataMap) -> Result<(), EtcdError> {
    if metadata.get("client-api-version").is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
        return Err(EtcdError::InvalidClientApiVersion);
    }
    if wants_leader(metadata) && node.leadership().leader.is_none() {
        return Err(EtcdError::NoLeader);
    }
    Ok(())
}

/// Whether the client wants to hear at once that there is no leader.
pub(crate) fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|wanted| wanted == "true")
}

/// Refuses what a learner does not serve.
pub(crate) fn refuse_learner(node: &Node) -> Result<(), EtcdError> {
    if node.consensus.status().is_learner { Err(EtcdError::NotSupportedForLearner) } else { Ok(()) }
}

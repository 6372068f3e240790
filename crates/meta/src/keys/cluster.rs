//! `/goulette/cluster`: what all members share.

use goulette_types::{ClusterId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const NAME: &str = "cluster";

/// The cluster's id and settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Made by the first sentinel unless given to it.
    #[serde(with = "codec::text")]
    pub cluster_id: ClusterId,
    /// Replicas that a topic wants unless it says otherwise.
    pub replication_factor: u32,
    /// Rises when this metadata is restored from elsewhere: revisions then begin anew.
    #[serde(default, skip_serializing_if = "codec::is_zero")]
    pub generation: u64,
    /// When the cluster was made.
    #[serde(rename = "created_at_ms", with = "codec::timestamp")]
    pub created_at: Timestamp,
    /// The operation that changed this last.
    #[serde(with = "codec::text")]
    pub operation: OperationId,
}

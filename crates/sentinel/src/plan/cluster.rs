//! Making the cluster.

use goulette_meta::{
    Entry,
    keys::{ClusterRecord, Operation},
};
use goulette_types::{ClusterId, Timestamp};

use super::{Draft, Step};
use crate::catalog::Catalog;

/// The step that makes the cluster; `None` if it is made.
pub(crate) fn create(
    catalog: &Catalog,
    now: Timestamp,
    cluster_id: ClusterId,
    replication_factor: u32,
    generation: u64,
) -> Option<Step> {
    if catalog.cluster().is_some() {
        return None;
    }
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(Operation::CreateCluster { cluster_id });
    draft.put(Entry::Cluster(ClusterRecord { cluster_id, replication_factor, generation, created_at: now, operation }));
    Some(draft.finish())
}

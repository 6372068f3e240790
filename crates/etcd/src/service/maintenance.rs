//! `etcdserverpb.Maintenance`.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use goulette_env::OpenMode;
use goulette_logging::{info, warn};
use goulette_proto::etcd::{
    etcdserverpb::{self as pb, InternalRaftRequest, maintenance_server::Maintenance},
    membershippb::DowngradeInfoSetRequest,
};
use redb::TableHandle;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::kv::unexpected;
use crate::{
    EtcdError,
    auth::Caller,
    config::VERSION,
    node::{Node, QUOTA_DEFAULT},
    snapshot, state,
    store::{Failure, StoreError, tables},
};

/// Bytes in one message of a snapshot, as etcd sends.
const SNAPSHOT_BLOB_BYTES: usize = 32 << 10;
/// Messages of a snapshot that wait for a slow reader.
const SNAPSHOT_BLOBS_MAX: usize = 16;
/// Snapshots at a time: each takes as much disk as the store.
const SNAPSHOTS_MAX: usize = 2;

pub(crate) struct MaintenanceService {
    node: Arc<Node>,
    snapshots: Arc<Semaphore>,
}

/// The state of a downgrade, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Downgrade {
    #[serde(rename = "target-version", default)]
    target: String,
    #[serde(default)]
    enabled: bool,
}

impl MaintenanceService {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)) }
    }

    /// Refuses everybody but root, where anybody asks.
    async fn refuse_others(&self, metadata: &MetadataMap) -> Result<Caller, EtcdError> {
        let asker = self.node.asker(metadata).await?;
        self.node.state.auth.state().check_admin(&asker)?;
        Ok(asker)
    }

    /// Refuses who says no name, where names are asked for.
    async fn refuse_nameless(&self, metadata: &MetadataMap) -> Result<Caller, EtcdError> {
        let asker = self.node.asker(metadata).await?;
        if asker.user.is_empty() && self.node.state.auth.state().is_enabled() {
            return Err(EtcdError::UserEmpty);
        }
        Ok(asker)
    }

    fn downgrade(&self) -> Result<Downgrade, EtcdError> {
        let stored = self.node.state.store.get(tables::CLUSTER, tables::cluster::DOWNGRADE);
        let stored = stored.map_err(Failure::from)?;
        Ok(stored.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default())
    }

    async fn set_downgrade(&self, asker: &Caller, enabled: bool, ver: String) -> Result<(), EtcdError> {
        let set = DowngradeInfoSetRequest { enabled, ver };
        let request = InternalRaftRequest { downgrade_info_set: Some(set), ..InternalRaftRequest::default() };
        self.node.request(asker, request).await.map(drop)
    }

    /// Whether the cluster may go to `target`: one minor version below its own.
    fn check_downgrade(&self, target: &str, cluster: &str) -> Result<String, EtcdError> {
        let (major, minor) = version_of(target).ok_or(EtcdError::WrongDowngradeVersionFormat)?;
        let current = version_of(cluster).ok_or(EtcdError::ClusterVersionUnavailable)?;
        if (major, minor + 1) != current {
            return Err(EtcdError::InvalidDowngradeTargetVersion);
        }
        if self.downgrade()?.enabled {
            return Err(EtcdError::DowngradeInProcess);
        }
        Ok(format!("{major}.{minor}.0"))
    }
}

type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = SnapshotStream;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let (metadata, _, alarm) = request.into_parts();
        let asker = match alarm.action() {
            pb::alarm_request::AlarmAction::Get => self.refuse_nameless(&metadata).await?,
            _ => self.refuse_others(&metadata).await?,
        };
        let request = InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() };
        match self.node.request(&asker, request).await? {
            state::Response::Alarm(mut response) => {
                response.header = self.node.header(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.refuse_nameless(request.metadata()).await?;
        let node = &self.node;
        let (status, size) = (node.consensus.status(), node.state.store.size());
        let leader = status.leadership.leader.unwrap_or(0);
        let mut errors = Vec::new();
        if leader == 0 {
            errors.push(EtcdError::NoLeader.to_string());
        }
        // As etcd's protobuf library writes a message as text.
        errors.extend(
            node.state
                .alarms
                .of(pb::AlarmType::None)
                .iter()
                .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name())),
        );
        let downgrade = self.downgrade()?;
        let quota = node.config.quota_backend_bytes;
        Ok(Response::new(pb::StatusResponse {
            header: node.header(None),
            version: VERSION.to_owned(),
            db_size: i64::try_from(size.total).unwrap_or(i64::MAX),
            db_size_in_use: i64::try_from(size.in_use).unwrap_or(i64::MAX),
            leader,
            raft_index: status.committed,
            raft_term: status.leadership.term,
            raft_applied_index: node.state.applied_index(),
            errors,
            is_learner: status.is_learner,
            storage_version: snapshot::STORAGE_VERSION.to_owned(),
            db_size_quota: if quota == 0 { QUOTA_DEFAULT } else { quota },
            downgrade_info: Some(pb::DowngradeInfo { enabled: downgrade.enabled, target_version: downgrade.target }),
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.refuse_others(request.metadata()).await?;
        let state = Arc::clone(&self.node.state);
        info!("defragmentation begins; requests wait");
        blocking(move || state.store.defragment()).await?;
        info!("defragmentation is done: {} bytes in use", self.node.state.store.size().in_use);
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.refuse_others(request.metadata()).await?;
        let state = Arc::clone(&self.node.state);
        let hash = blocking(move || hash(&state)).await?;
        Ok(Response::new(pb::HashResponse { header: self.node.header(None), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.refuse_others(request.metadata()).await?;
        let (state, revision) = (Arc::clone(&self.node.state), request.get_ref().revision);
        let hashing = spawn_blocking(move || state.store.hash_kv(revision));
        let (hash, current) = hashing.await.map_err(|_| EtcdError::Stopped)?.map_err(EtcdError::from)?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(self.node.header_at(current)),
            hash: hash.hash,
            compact_revision: hash.compacted,
            hash_revision: hash.revision,
        }))
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<SnapshotStream>, Status> {
        self.refuse_others(request.metadata()).await?;
        let Ok(place) = Arc::clone(&self.snapshots).try_acquire_owned() else {
            return Err(EtcdError::TooManyRequests.into());
        };
        let (sender, receiver) = mpsc::channel(SNAPSHOT_BLOBS_MAX);
        let node = Arc::clone(&self.node);
        // Ends with the file, or with the stream that reads it.
        spawn_blocking(move || {
            if let Err(error) = send_snapshot(&node, &sender) {
                warn!("a snapshot failed: {error}");
                let _ = sender.blocking_send(Err(Status::internal(error.to_string())));
            }
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.refuse_others(request.metadata()).await?;
        if !self.node.leads() {
            return Err(EtcdError::NotLeader.into());
        }
        let target = request.get_ref().target_id;
        self.node.consensus.transfer_leader(target).await.map_err(|error| match error {
            crate::consensus::ChangeError::Refused(refused) => refused,
            crate::consensus::ChangeError::Unknown => EtcdError::TimeoutDueToLeaderFail,
        })?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        use pb::downgrade_request::DowngradeAction;
        let asker = self.refuse_others(request.metadata()).await?;
        let request = request.into_inner();
        let version = self.node.state.members.version().ok_or(EtcdError::ClusterVersionUnavailable)?;
        let action =
            DowngradeAction::try_from(request.action).map_err(|_| Status::unknown("etcdserver: unknown method"))?;
        match action {
            DowngradeAction::Validate => {
                self.node.read_barrier().await?;
                self.check_downgrade(&request.version, &version)?;
            }
            DowngradeAction::Enable => {
                self.node.read_barrier().await?;
                let target = self.check_downgrade(&request.version, &version)?;
                self.set_downgrade(&asker, true, target).await?;
            }
            // As in etcd, nothing to cancel is no error.
            DowngradeAction::Cancel => {
                self.node.read_barrier().await?;
                if self.downgrade()?.enabled {
                    self.set_downgrade(&asker, false, String::new()).await?;
                }
            }
        }
        let (major, minor) = version_of(&version).ok_or(EtcdError::ClusterVersionUnavailable)?;
        Ok(Response::new(pb::DowngradeResponse { header: self.node.header(None), version: format!("{major}.{minor}") }))
    }
}

/// Major and minor of `3.6`, `3.6.0` or `v3.6.0`; nothing of anything else.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let numbers: Vec<u32> = text.trim_start_matches('v').split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, EtcdError> {
    let done = spawn_blocking(work).await.map_err(|_| EtcdError::Stopped)?;
    Ok(done.map_err(Failure::from)?)
}

/// A checksum over all that members hold alike: everything but positions in the log.
fn hash(state: &state::State) -> Result<u32, StoreError> {
    let frozen = state.store.freeze()?;
    let mut crc = 0;
    for bucket in tables::BUCKETS.into_iter().filter(|bucket| bucket.name() != tables::META.name()) {
        crc = crc32c::crc32c_append(crc, bucket.name().as_bytes());
        frozen.scan(bucket, |key, value| {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
            Ok::<_, StoreError>(())
        })?;
    }
    Ok(crc)
}

/// Writes a snapshot to a file without a name, then sends it: its length goes first, so it must exist.
fn send_snapshot(node: &Node, to: &mpsc::Sender<Result<pb::SnapshotResponse, Status>>) -> Result<(), StoreError> {
    let disk = &node.state.env.disk;
    let path = snapshot_path(node);
    let file = disk.open(&path, OpenMode::CreateNew)?;
    // The open file stays until it is dropped; nothing is left behind by a crash.
    disk.remove_file(&path)?;
    let frozen = node.state.store.freeze()?;
    let total = snapshot::save(&frozen, &*file)?;
    drop(frozen);
    info!("sending a snapshot of {total} bytes");
    let send = |blob: Bytes, remaining_bytes: u64| {
        let version = snapshot::STORAGE_VERSION.to_owned();
        to.blocking_send(Ok(pb::SnapshotResponse { header: None, remaining_bytes, blob, version })).is_ok()
    };
    let mut sum = Sha256::new();
    let mut position = 0;
    while position < total {
        let mut blob = vec![0; SNAPSHOT_BLOB_BYTES.min((total - position) as usize)];
        file.read_exact_at(&mut blob, position)?;
        sum.update(&blob);
        position += blob.len() as u64;
        if !send(blob.into(), total - position) {
            return Ok(());
        }
    }
    send(Bytes::copy_from_slice(&sum.finalize()), 0);
    Ok(())
}

fn snapshot_path(node: &Node) -> PathBuf {
    node.config.data_dir.join(format!("snapshot.{:016x}.tmp", node.state.env.random.next_u64()))
}

//! What people ask of a cluster as a whole: its state, its operation log, its metadata out and in, orders to move data.

use std::future::Future;

use bytes::Bytes;
use goulette_proto::pb::{self, cluster_client::ClusterClient};
use tonic::{Response, Status, transport::Channel};

use crate::{Client, ClientError, connection};

/// Bytes of one message of an import.
const CHUNK_BYTES: usize = 256 << 10;

/// Calls about the cluster as a whole; any sentinel takes them.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Client {
    /// The calls about the cluster as a whole.
    pub fn cluster(&self) -> Cluster {
        Cluster { client: self.clone() }
    }
}

impl Cluster {
    /// Sentinels, metadata store, brokers, and what is wrong.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without a sentinel.
    pub async fn status(&self) -> Result<pb::GetClusterStatusResponse, ClientError> {
        self.call(|mut cluster| async move { cluster.get_cluster_status(pb::GetClusterStatusRequest {}).await }).await
    }

    /// Up to `limit` operations, oldest first: from id `from` on, or the newest ones.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without a sentinel.
    pub async fn operations(
        &self,
        from: u64,
        limit: u32,
        newest: bool,
    ) -> Result<pb::ListOperationsResponse, ClientError> {
        let request = pb::ListOperationsRequest { from, limit, newest };
        self.call(|mut cluster| async move { cluster.list_operations(request).await }).await
    }

    /// All metadata as lines of JSON, handed to `take` in pieces, in order.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without a sentinel; of kind `OutcomeUnknown` if the export broke off.
    pub async fn export(&self, mut take: impl FnMut(Bytes) -> std::io::Result<()>) -> Result<(), ExportError> {
        let mut chunks =
            self.call(|mut cluster| async move { cluster.export_metadata(pb::ExportMetadataRequest {}).await }).await?;
        while let Some(chunk) = chunks.message().await.map_err(|status| ClientError::refused(&status))? {
            take(chunk.data)?;
        }
        Ok(())
    }

    /// Metadata that was exported, into a cluster without topics.
    ///
    /// # Errors
    /// Of kind `Conflict` where topics exist, `Invalid` for what is no export.
    pub async fn import(&self, export: &Bytes) -> Result<pb::ImportMetadataResponse, ClientError> {
        let chunks = || {
            let (export, count) = (export.clone(), export.len().div_ceil(CHUNK_BYTES));
            (0..count).map(move |index| {
                let start = index * CHUNK_BYTES;
                pb::MetadataChunk { data: export.slice(start..export.len().min(start + CHUNK_BYTES)) }
            })
        };
        self.call(|mut cluster| {
            let chunks = tokio_stream::iter(chunks());
            async move { cluster.import_metadata(chunks).await }
        })
        .await
    }

    /// Makes topics of partitions that brokers hold and the metadata does not know.
    ///
    /// # Errors
    /// Of kind `NotFound` for a topic id that nobody holds, `AlreadyExists` where its name is taken.
    pub async fn adopt(&self, request: pb::AdoptPartitionsRequest) -> Result<Vec<pb::Topic>, ClientError> {
        let call = |mut cluster: ClusterClient<Channel>| {
            let request = request.clone();
            async move { cluster.adopt_partitions(request).await }
        };
        Ok(self.call(call).await?.topics)
    }

    /// Orders other replicas for partitions; they move in the background. An order without replicas takes one back.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown partition or broker, `Invalid` for replicas that cannot be.
    pub async fn reassign(&self, orders: Vec<pb::ReplicaOrder>) -> Result<Vec<pb::ReplicaOrder>, ClientError> {
        let request_id = [self.client.random().to_be_bytes(), self.client.random().to_be_bytes()].concat();
        let request = pb::ReassignPartitionsRequest { orders, request_id: request_id.into() };
        let call = |mut cluster: ClusterClient<Channel>| {
            let request = request.clone();
            async move { cluster.reassign_partitions(request).await }
        };
        Ok(self.call(call).await?.ordered)
    }

    /// Orders what evens out the load of all live brokers, or only tells it.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without a sentinel.
    pub async fn rebalance(&self, dry_run: bool) -> Result<Vec<pb::ReplicaOrder>, ClientError> {
        let request = pb::RebalanceClusterRequest { dry_run };
        Ok(self.call(|mut cluster| async move { cluster.rebalance_cluster(request).await }).await?.ordered)
    }

    /// Orders everything away from a broker, or takes such an order back.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown broker; others where no broker could take its place.
    pub async fn drain(&self, request: pb::DrainBrokerRequest) -> Result<Vec<pb::ReplicaOrder>, ClientError> {
        let call = |mut cluster: ClusterClient<Channel>| {
            let request = request.clone();
            async move { cluster.drain_broker(request).await }
        };
        Ok(self.call(call).await?.ordered)
    }

    /// What is ordered and not done yet.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without a sentinel.
    pub async fn reassignments(&self) -> Result<Vec<pb::Reassignment>, ClientError> {
        let call = |mut cluster: ClusterClient<Channel>| async move {
            cluster.list_reassignments(pb::ListReassignmentsRequest {}).await
        };
        Ok(self.call(call).await?.reassignments)
    }

    /// Gives partitions another leader.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown partition or replica, `Conflict` where the order makes no sense now.
    pub async fn elect(&self, request: pb::ElectLeaderRequest) -> Result<Option<pb::Topic>, ClientError> {
        let call = |mut cluster: ClusterClient<Channel>| {
            let request = request.clone();
            async move { cluster.elect_leader(request).await }
        };
        Ok(self.call(call).await?.topic)
    }

    async fn call<T, F>(&self, call: impl Fn(ClusterClient<Channel>) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.client.any_sentinel(|channel| call(connection::cluster(channel))).await
    }
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The sentinel's side.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Whoever takes the pieces.
    #[error(transparent)]
    Take(#[from] std::io::Error),
}

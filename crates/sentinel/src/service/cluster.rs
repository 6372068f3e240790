//! The service `goulette.v1.Cluster`: what people and their tools ask.

use std::sync::Arc;

use bytes::Bytes;
use goulette_proto::pb::{self, cluster_client::ClusterClient, cluster_server};
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use super::{Context, forward, metadata, operations, replicas, status};

/// See the module.
pub(crate) struct ClusterService(pub(crate) Arc<Context>);

/// Passes a call on to the sentinel that leads, or answers it here.
macro_rules! lead {
    ($self:ident, $request:ident, $method:ident, $here:path) => {{
        let there = async |channel: Channel, request| ClusterClient::new(channel).$method(request).await;
        forward::lead_by_channel(&$self.0, $request, |request| $here(&$self.0, request), there).await
    }};
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    type ExportMetadataStream = metadata::Chunks;

    async fn get_cluster_status(
        &self,
        request: Request<pb::GetClusterStatusRequest>,
    ) -> Result<Response<pb::GetClusterStatusResponse>, Status> {
        // The one that leads knows more; where it does not answer, this one tells what it has.
        if let Some(channel) = forward::other_leader(&self.0, &request) {
            let asked = forward::passed_on(request.into_inner(), status::FORWARD_DEADLINE);
            if let Ok(answer) = ClusterClient::new(channel).get_cluster_status(asked).await {
                return Ok(answer);
            }
        }
        Ok(Response::new(status::get(&self.0).await))
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Result<Response<pb::ListOperationsResponse>, Status> {
        Ok(Response::new(operations::list(&self.0, request.into_inner()).await?))
    }

    async fn export_metadata(
        &self,
        _request: Request<pb::ExportMetadataRequest>,
    ) -> Result<Response<Self::ExportMetadataStream>, Status> {
        Ok(Response::new(metadata::export(&self.0).await?))
    }

    async fn import_metadata(
        &self,
        request: Request<Streaming<pb::MetadataChunk>>,
    ) -> Result<Response<pb::ImportMetadataResponse>, Status> {
        let (metadata, extensions, chunks) = request.into_parts();
        let text = metadata::gather(chunks).await?;
        let there = async |channel: Channel, request: Request<Bytes>| {
            let (metadata, extensions, text) = request.into_parts();
            let chunks = metadata::chunks(text);
            let passed_on = Request::from_parts(metadata, extensions, tokio_stream::iter(chunks));
            ClusterClient::new(channel).import_metadata(passed_on).await
        };
        let request = Request::from_parts(metadata, extensions, text);
        forward::lead_by_channel(&self.0, request, |text| metadata::import(&self.0, text), there).await
    }

    async fn adopt_partitions(
        &self,
        request: Request<pb::AdoptPartitionsRequest>,
    ) -> Result<Response<pb::AdoptPartitionsResponse>, Status> {
        lead!(self, request, adopt_partitions, metadata::adopt)
    }

    async fn reassign_partitions(
        &self,
        request: Request<pb::ReassignPartitionsRequest>,
    ) -> Result<Response<pb::ReassignPartitionsResponse>, Status> {
        lead!(self, request, reassign_partitions, replicas::reassign)
    }

    async fn rebalance_cluster(
        &self,
        request: Request<pb::RebalanceClusterRequest>,
    ) -> Result<Response<pb::ReassignPartitionsResponse>, Status> {
        lead!(self, request, rebalance_cluster, replicas::rebalance)
    }

    async fn drain_broker(
        &self,
        request: Request<pb::DrainBrokerRequest>,
    ) -> Result<Response<pb::ReassignPartitionsResponse>, Status> {
        lead!(self, request, drain_broker, replicas::drain)
    }

    async fn list_reassignments(
        &self,
        _request: Request<pb::ListReassignmentsRequest>,
    ) -> Result<Response<pb::ListReassignmentsResponse>, Status> {
        Ok(Response::new(replicas::list(&self.0)))
    }

    async fn elect_leader(
        &self,
        request: Request<pb::ElectLeaderRequest>,
    ) -> Result<Response<pb::ElectLeaderResponse>, Status> {
        lead!(self, request, elect_leader, replicas::elect)
    }
}

//! The gRPC services: they parse requests, ask the node, and answer. One file per call or family of calls.

mod acks;
mod admin;
mod fetch;
mod offsets;
mod parse;
mod produce;
mod publish;
mod pull;
mod replicate;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use goulette_proto::pb;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{
    error::RequestError,
    metrics::{Metrics, OpenStream},
    node::Node,
};

/// What a stream holds until it ends.
struct StreamPlace {
    _place: OwnedSemaphorePermit,
    _open: OpenStream,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `goulette.v1.Broker`.
pub(crate) struct BrokerService(pub(crate) Arc<Node>);

/// `goulette.v1.Replication`.
pub(crate) struct ReplicationService(pub(crate) Arc<Node>);

/// `goulette.v1.Admin`.
pub(crate) struct AdminService(pub(crate) Arc<Node>);

impl BrokerService {
    /// A place for one more call; the broker stops when all are given back.
    fn place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        let place = Arc::clone(&self.0.calls).try_acquire_owned();
        place.map_err(|_| RequestError::Calls { calls_max: self.0.options().calls_max })
    }

    /// A place for one more stream.
    fn stream(&self, open: impl FnOnce(&Metrics) -> OpenStream) -> Result<StreamPlace, RequestError> {
        Ok(StreamPlace { _place: self.place()?, _open: open(&self.0.metrics) })
    }
}

#[async_trait]
impl pb::broker_server::Broker for BrokerService {
    type ProduceStream = Answers<pb::ProduceResponse>;
    type FetchStream = Answers<pb::FetchResponse>;

    async fn produce(
        &self,
        request: Request<Streaming<pb::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let answers = produce::produce(Arc::clone(&self.0), request.into_inner(), self.stream(Metrics::open_produce)?);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<pb::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let answers = fetch::fetch(Arc::clone(&self.0), request.into_inner(), self.stream(Metrics::open_fetch)?);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_offsets(
        &self,
        request: Request<pb::ListOffsetsRequest>,
    ) -> Result<Response<pb::ListOffsetsResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(offsets::list_offsets(&self.0, request.into_inner()).await?))
    }

    async fn commit_position(
        &self,
        request: Request<pb::CommitPositionRequest>,
    ) -> Result<Response<pb::CommitPositionResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(offsets::commit_position(&self.0, request.into_inner()).await?))
    }

    async fn fetch_position(
        &self,
        request: Request<pb::FetchPositionRequest>,
    ) -> Result<Response<pb::FetchPositionResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(offsets::fetch_position(&self.0, request.get_ref()).await?))
    }

    async fn publish(&self, request: Request<pb::PublishRequest>) -> Result<Response<pb::PublishResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(
            publish::publish(&self.0, request.into_inner())
                .await
                .inspect_err(|error| self.0.metrics.observe_refusal(error.kind()))?,
        ))
    }

    async fn pull(&self, request: Request<pb::PullRequest>) -> Result<Response<pb::PullResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(pull::pull(&self.0, request.into_inner()).await?))
    }
}

#[async_trait]
impl pb::admin_server::Admin for AdminService {
    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<pb::SetLogLevelResponse>, Status> {
        Ok(Response::new(admin::set_log_level(request.get_ref())?))
    }

    async fn get_info(&self, _: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        Ok(Response::new(admin::info(&self.0)))
    }
}

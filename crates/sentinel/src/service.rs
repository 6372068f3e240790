//! The gRPC shells: each parses a request once, asks those who decide, and puts the answer on the wire.

use std::{pin::Pin, sync::Arc, sync::atomic::AtomicU64};

use futures_util::Stream;
use goulette_proto::pb::{self, sentinel_server};
use goulette_types::ClusterId;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use counted::Counted;

use crate::{SentinelOptions, controller::ControllerHandle, detector::DetectorHandle, state::State};

pub(crate) mod admin;
mod counted;
mod discovery;
mod membership;
mod producers;
mod topics;
mod wire;

/// What every service needs.
pub(crate) struct Context {
    pub(crate) options: SentinelOptions,
    pub(crate) cluster_id: ClusterId,
    pub(crate) started_at_ms: i64,
    pub(crate) state: Arc<State>,
    pub(crate) controller: ControllerHandle,
    pub(crate) detector: DetectorHandle,
    /// Becomes true when the sentinel is to stop.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Numbers the streams of heartbeats.
    pub(crate) streams: AtomicU64,
}

/// The service `goulette.v1.Sentinel`.
pub(crate) struct SentinelService(pub(crate) Arc<Context>);

#[tonic::async_trait]
impl sentinel_server::Sentinel for SentinelService {
    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<pb::HeartbeatResponse, Status>> + Send>>;

    async fn get_brokers(
        &self,
        request: Request<pb::GetBrokersRequest>,
    ) -> Result<Response<pb::GetBrokersResponse>, Status> {
        Ok(Response::new(discovery::get_brokers(&self.0, request.into_inner()).await?))
    }

    async fn register_broker(
        &self,
        request: Request<pb::RegisterBrokerRequest>,
    ) -> Result<Response<pb::RegisterBrokerResponse>, Status> {
        Ok(Response::new(membership::register(&self.0, request.into_inner()).await?))
    }

    async fn unregister_broker(
        &self,
        request: Request<pb::UnregisterBrokerRequest>,
    ) -> Result<Response<pb::UnregisterBrokerResponse>, Status> {
        Ok(Response::new(membership::unregister(&self.0, request.into_inner()).await?))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<pb::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        Ok(Response::new(Box::pin(membership::heartbeat(Arc::clone(&self.0), request.into_inner()))))
    }

    async fn propose_isr(&self, _: Request<pb::ProposeIsrRequest>) -> Result<Response<pb::ProposeIsrResponse>, Status> {
        Err(goulette_proto::status::to_status(
            goulette_types::ErrorKind::Unsupported,
            "this sentinel keeps one replica of each partition",
        ))
    }

    async fn hand_over(&self, _: Request<pb::HandOverRequest>) -> Result<Response<pb::HandOverResponse>, Status> {
        Err(goulette_proto::status::to_status(
            goulette_types::ErrorKind::Unsupported,
            "this sentinel keeps one replica of each partition",
        ))
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        Ok(Response::new(producers::init(&self.0, request.into_inner()).await?))
    }

    async fn create_topic(
        &self,
        request: Request<pb::CreateTopicRequest>,
    ) -> Result<Response<pb::CreateTopicResponse>, Status> {
        Ok(Response::new(topics::create(&self.0, request.into_inner()).await?))
    }

    async fn list_topics(
        &self,
        _request: Request<pb::ListTopicsRequest>,
    ) -> Result<Response<pb::ListTopicsResponse>, Status> {
        Ok(Response::new(topics::list(&self.0)))
    }

    async fn describe_topic(
        &self,
        request: Request<pb::DescribeTopicRequest>,
    ) -> Result<Response<pb::DescribeTopicResponse>, Status> {
        Ok(Response::new(topics::describe(&self.0, request.into_inner())?))
    }

    async fn alter_topic(
        &self,
        request: Request<pb::AlterTopicRequest>,
    ) -> Result<Response<pb::AlterTopicResponse>, Status> {
        Ok(Response::new(topics::alter(&self.0, request.into_inner()).await?))
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        Ok(Response::new(topics::delete(&self.0, request.into_inner()).await?))
    }
}

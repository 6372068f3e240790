//! The gRPC shells: each parses a request once, asks those who decide, and puts the answer on the wire.

use std::{pin::Pin, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use futures_util::Stream;
use goulette_env::Env;
use goulette_meta::{MetaError, MetaLeases, MetaStore};
use goulette_proto::pb::{self, sentinel_client::SentinelClient, sentinel_server};
use goulette_types::{ClusterId, Incarnation};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

pub(crate) use counted::Counted;
pub(crate) use forward::Leaders;

use crate::{RequestError, SentinelOptions, controller::ControllerHandle, detector::DetectorHandle, state::State};

pub(crate) mod admin;
pub(crate) mod cluster;
mod counted;
mod discovery;
mod forward;
mod isr;
mod membership;
mod metadata;
mod operations;
mod producers;
mod replicas;
mod status;
mod topics;
mod wire;

/// What every service needs.
pub(crate) struct Context {
    pub(crate) options: SentinelOptions,
    /// This start of the sentinel.
    pub(crate) incarnation: Incarnation,
    pub(crate) env: Env,
    pub(crate) leaders: Leaders,
    pub(crate) store: Arc<dyn MetaStore>,
    /// The same, where several sentinels share it.
    pub(crate) leases: Option<Arc<dyn MetaLeases>>,
    pub(crate) started_at_ms: i64,
    pub(crate) state: Arc<State>,
    pub(crate) controller: ControllerHandle,
    pub(crate) detector: DetectorHandle,
    /// Becomes true when the sentinel is to stop.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Numbers the streams of heartbeats.
    pub(crate) streams: AtomicU64,
}

impl Context {
    /// The cluster's id.
    ///
    /// # Errors
    /// [`RequestError::NotLeader`] while no sentinel has made it yet.
    pub(crate) fn cluster_id(&self) -> Result<ClusterId, RequestError> {
        let made = self.state.catalog().cluster().map(|cluster| cluster.cluster_id);
        made.ok_or(RequestError::NotLeader { leader: None })
    }

    /// Where others reach this sentinel.
    pub(crate) fn address(&self) -> String {
        self.options.advertise.clone().unwrap_or_else(|| self.options.address.to_string())
    }

    /// What to answer when the store does not.
    pub(crate) fn silent(&self, error: &MetaError) -> RequestError {
        RequestError::StoreSilent(goulette_logging::Chain(error).to_string())
    }

    /// For how long the store has not answered, where it does not.
    pub(crate) fn stale(&self) -> Duration {
        let since = self.state.silence().map(|silence| silence.since);
        since.map_or(Duration::ZERO, |since| self.env.clock.now().saturating_sub(since).max(Duration::from_millis(1)))
    }
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
        if let Some(answer) = discovery::look_up(&self.0, request.get_ref()).await? {
            return Ok(Response::new(answer));
        }
        let there = async |mut leader: SentinelClient<Channel>, request| leader.get_brokers(request).await;
        forward::lead(&self.0, request, |request| discovery::get_brokers(&self.0, request), there).await
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
        if !self.0.state.leads() {
            return Err(self.0.state.not_leader().into());
        }
        Ok(Response::new(Box::pin(membership::heartbeat(Arc::clone(&self.0), request.into_inner()))))
    }

    async fn propose_isr(
        &self,
        request: Request<pb::ProposeIsrRequest>,
    ) -> Result<Response<pb::ProposeIsrResponse>, Status> {
        Ok(Response::new(isr::propose(&self.0, request.into_inner()).await?))
    }

    async fn hand_over(&self, request: Request<pb::HandOverRequest>) -> Result<Response<pb::HandOverResponse>, Status> {
        Ok(Response::new(isr::hand_over(&self.0, request.into_inner()).await?))
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        let there = async |mut leader: SentinelClient<Channel>, request| leader.init_producer(request).await;
        forward::lead(&self.0, request, |request| producers::init(&self.0, request), there).await
    }

    async fn create_topic(
        &self,
        request: Request<pb::CreateTopicRequest>,
    ) -> Result<Response<pb::CreateTopicResponse>, Status> {
        let there = async |mut leader: SentinelClient<Channel>, request| leader.create_topic(request).await;
        forward::lead(&self.0, request, |request| topics::create(&self.0, request), there).await
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
        let there = async |mut leader: SentinelClient<Channel>, request| leader.alter_topic(request).await;
        forward::lead(&self.0, request, |request| topics::alter(&self.0, request), there).await
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        let there = async |mut leader: SentinelClient<Channel>, request| leader.delete_topic(request).await;
        forward::lead(&self.0, request, |request| topics::delete(&self.0, request), there).await
    }
}

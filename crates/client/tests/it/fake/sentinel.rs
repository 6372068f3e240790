//! The sentinel: routes and producer ids.

use std::{net::SocketAddr, pin::Pin};

use goulette_proto::{
    pb::{self, admin_server::Admin, sentinel_server::Sentinel},
    status::to_status,
};
use goulette_types::ErrorKind;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Cluster, Log};

pub(super) struct FakeSentinel(pub(super) Cluster);

#[tonic::async_trait]
impl Sentinel for FakeSentinel {
    async fn get_brokers(
        &self,
        request: Request<pb::GetBrokersRequest>,
    ) -> Result<Response<pb::GetBrokersResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.state();
        state.seen.get_brokers += 1;
        state.seen.unreachable.extend(request.unreachable_brokers);
        if request.topic != "t" {
            return Err(to_status(ErrorKind::NotFound, format!("there is no topic {}", request.topic)));
        }
        let partition = |(index, log): (usize, &Log)| pb::Partition {
            index: index as u32,
            leader: log.leader.clone(),
            leader_epoch: log.epoch,
            ..Default::default()
        };
        let address =
            |(id, address): (&String, &SocketAddr)| pb::BrokerAddress { id: id.clone(), address: address.to_string() };
        Ok(Response::new(pb::GetBrokersResponse {
            revision: state.revision,
            topic: Some(pb::Topic {
                name: request.topic,
                id: state.topic_id.to_bytes().to_vec().into(),
                partitions: state.partitions.iter().enumerate().map(partition).collect(),
                ..Default::default()
            }),
            brokers: state.brokers.iter().map(address).collect(),
            ..Default::default()
        }))
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        let mut state = self.0.state();
        let answer = match request.into_inner().producer_id {
            Some(producer_id) => {
                state.next_epoch += 1;
                pb::InitProducerResponse { producer_id, producer_epoch: state.next_epoch }
            }
            None => {
                state.next_producer += 1;
                pb::InitProducerResponse { producer_id: state.next_producer, producer_epoch: 0 }
            }
        };
        Ok(Response::new(answer))
    }

    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<pb::HeartbeatResponse, Status>> + Send>>;

    async fn heartbeat(
        &self,
        _: Request<Streaming<pb::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn register_broker(
        &self,
        _: Request<pb::RegisterBrokerRequest>,
    ) -> Result<Response<pb::RegisterBrokerResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn unregister_broker(
        &self,
        _: Request<pb::UnregisterBrokerRequest>,
    ) -> Result<Response<pb::UnregisterBrokerResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn propose_isr(&self, _: Request<pb::ProposeIsrRequest>) -> Result<Response<pb::ProposeIsrResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn hand_over(&self, _: Request<pb::HandOverRequest>) -> Result<Response<pb::HandOverResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn create_topic(
        &self,
        request: Request<pb::CreateTopicRequest>,
    ) -> Result<Response<pb::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.state();
        let known = state.seen.creations.contains(&request.request_id);
        if !known && !state.seen.creations.is_empty() {
            return Err(to_status(ErrorKind::AlreadyExists, format!("topic {} exists", request.name)));
        }
        state.seen.creations.push(request.request_id);
        if state.faults.lose_creations > 0 {
            state.faults.lose_creations -= 1;
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(pb::CreateTopicResponse {
            topic: Some(pb::Topic { name: request.name, ..Default::default() }),
        }))
    }

    async fn list_topics(&self, _: Request<pb::ListTopicsRequest>) -> Result<Response<pb::ListTopicsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn describe_topic(
        &self,
        _: Request<pb::DescribeTopicRequest>,
    ) -> Result<Response<pb::DescribeTopicResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn alter_topic(&self, _: Request<pb::AlterTopicRequest>) -> Result<Response<pb::AlterTopicResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn delete_topic(
        &self,
        _: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }
}

pub(super) struct FakeAdmin;

#[tonic::async_trait]
impl Admin for FakeAdmin {
    async fn set_log_level(
        &self,
        _: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<pb::SetLogLevelResponse>, Status> {
        Ok(Response::new(pb::SetLogLevelResponse { previous: "info".to_owned() }))
    }

    async fn get_info(&self, _: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        Ok(Response::new(pb::GetInfoResponse { role: "sentinel".to_owned(), ..Default::default() }))
    }
}

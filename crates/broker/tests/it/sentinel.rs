//! A sentinel that says what the test tells it to say.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures_util::Stream;
use goulette_proto::pb::{self, sentinel_server::Sentinel, sentinel_server::SentinelServer};
use goulette_types::{PartitionId, PartitionIndex, TopicId};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait, transport::Server, transport::server::TcpIncoming};

use crate::harness::soon;

pub(crate) struct FakeSentinel {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// Outlives the server, so that a sentinel can be "restarted" with what it stored.
pub(crate) struct Shared {
    orders: watch::Sender<Orders>,
    cut: watch::Sender<()>,
    applied: watch::Sender<u64>,
    registrations: watch::Sender<Vec<pb::RegisterBrokerRequest>>,
    unregistered: watch::Sender<u32>,
    proposed: watch::Sender<Vec<pb::IsrProposal>>,
    refusal: Mutex<Option<Status>>,
    refused: watch::Sender<u32>,
    cluster: Mutex<u128>,
}

#[derive(Clone, Default)]
struct Orders {
    revision: u64,
    assignments: Vec<pb::Assignment>,
    deleted: Vec<bytes::Bytes>,
}

impl FakeSentinel {
    pub(crate) async fn start() -> Self {
        let shared = Shared {
            orders: watch::Sender::new(Orders { revision: 1, ..Default::default() }),
            cut: watch::Sender::default(),
            applied: watch::Sender::new(0),
            registrations: watch::Sender::default(),
            unregistered: watch::Sender::new(0),
            proposed: watch::Sender::default(),
            refusal: Mutex::default(),
            refused: watch::Sender::new(0),
            cluster: Mutex::new(0xc1),
        };
        Self::serve("127.0.0.1:0".parse().unwrap(), Arc::new(shared)).await
    }

    pub(crate) async fn serve(address: SocketAddr, shared: Arc<Shared>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = SentinelServer::new(Service(Arc::clone(&shared)));
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, shared, server }
    }

    /// Cuts all connections; what it knows stays in the returned value.
    pub(crate) async fn kill(mut self) -> Arc<Shared> {
        self.server.abort();
        let _ = (&mut self.server).await;
        // The connections are tasks of their own: the broker notices by the end of its stream.
        self.shared.cut.send_replace(());
        Arc::clone(&self.shared)
    }

    /// Gives a partition to the broker, and waits until it leads it.
    pub(crate) async fn assign(&self, topic: &str, index: u32) -> PartitionId {
        self.assign_of(topic, index, index + 1).await
    }

    /// The same, of a topic with so many partitions.
    pub(crate) async fn assign_of(&self, topic: &str, index: u32, partitions: u32) -> PartitionId {
        let id = PartitionId { topic: topic_id(topic), index: PartitionIndex(index) };
        let assignment = pb::Assignment {
            topic_id: id.topic.to_bytes().to_vec().into(),
            topic: topic.to_owned(),
            partition: index,
            leader_epoch: 1,
            partition_epoch: 1,
            config: Default::default(),
            partitions,
            ..Default::default()
        };
        self.order(|orders| orders.assignments.push(assignment)).await;
        id
    }

    /// Gives this assignment to the broker instead of an earlier one of the same partition, and waits until it is in force.
    pub(crate) async fn put(&self, assignment: pb::Assignment) {
        self.order(|orders| {
            orders
                .assignments
                .retain(|other| (&other.topic, other.partition) != (&assignment.topic, assignment.partition));
            orders.assignments.push(assignment);
        })
        .await;
    }

    /// Forgets all assignments, as for a broker that is about to start again.
    pub(crate) fn forget(&self) {
        self.shared.orders.send_modify(|orders| orders.assignments.clear());
    }

    /// Waits until the broker has proposed in-sync replicas that satisfy a condition, and returns them.
    pub(crate) async fn proposed(&self, is: impl Fn(&[pb::InSync]) -> bool) -> Vec<pb::InSync> {
        let mut proposed = self.shared.proposed.subscribe();
        let find = |all: &Vec<pb::IsrProposal>| all.iter().rev().map(|one| one.isr.clone()).find(|isr| is(isr));
        let all = soon(proposed.wait_for(|all| find(all).is_some())).await.unwrap();
        find(&all).unwrap()
    }

    /// Deletes a topic, and waits until the broker has done so.
    pub(crate) async fn delete(&self, topic: &str) {
        let id = topic_id(topic).to_bytes().to_vec();
        self.order(|orders| {
            orders.assignments.retain(|assignment| assignment.topic != topic);
            orders.deleted.push(id.into());
        })
        .await;
    }

    async fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut revision = 0;
        self.shared.orders.send_modify(|orders| {
            change(orders);
            orders.revision += 1;
            revision = orders.revision;
        });
        let mut applied = self.shared.applied.subscribe();
        soon(applied.wait_for(|&applied| applied >= revision)).await.unwrap();
    }

    /// Answers registrations like this from now on.
    pub(crate) fn refuse(&self, status: Status) {
        *self.shared.refusal.lock().unwrap() = Some(status);
    }

    pub(crate) fn set_cluster(&self, cluster: u128) {
        *self.shared.cluster.lock().unwrap() = cluster;
    }

    /// Waits until brokers have registered so many times, and returns the last registration.
    pub(crate) async fn registration(&self, count: usize) -> pb::RegisterBrokerRequest {
        let mut registrations = self.shared.registrations.subscribe();
        let registrations = soon(registrations.wait_for(|all| all.len() >= count)).await.unwrap();
        registrations.last().unwrap().clone()
    }

    /// Ends all sessions, and waits until the broker has tried in vain to have another one.
    pub(crate) async fn dismiss(&self, status: Status) {
        self.refuse(status);
        let mut refused = self.shared.refused.subscribe();
        self.shared.cut.send_replace(());
        soon(refused.changed()).await.unwrap();
    }

    pub(crate) fn unregistered(&self) -> u32 {
        *self.shared.unregistered.borrow()
    }
}

impl Drop for FakeSentinel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn topic_id(name: &str) -> TopicId {
    TopicId(name.bytes().fold(7, |id, byte| id << 8 | u128::from(byte)))
}

struct Service(Arc<Shared>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Sentinel for Service {
    type HeartbeatStream = Answers<pb::HeartbeatResponse>;

    async fn register_broker(
        &self,
        request: Request<pb::RegisterBrokerRequest>,
    ) -> Result<Response<pb::RegisterBrokerResponse>, Status> {
        if let Some(status) = self.0.refusal.lock().unwrap().clone() {
            self.0.refused.send_modify(|count| *count += 1);
            return Err(status);
        }
        let request = request.into_inner();
        let mut newcomer = true;
        self.0.registrations.send_modify(|all| {
            newcomer = all.last().is_some_and(|last| last.incarnation != request.incarnation);
            all.push(request);
        });
        if newcomer {
            // A new incarnation leads in a new epoch.
            self.0.orders.send_modify(|orders| {
                for assignment in &mut orders.assignments {
                    assignment.leader_epoch += 1;
                    assignment.partition_epoch += 1;
                }
                orders.revision += 1;
            });
        }
        let orders = self.0.orders.borrow().clone();
        Ok(Response::new(pb::RegisterBrokerResponse {
            cluster_id: TopicId(*self.0.cluster.lock().unwrap()).to_bytes().to_vec().into(),
            revision: orders.revision,
            assignments: orders.assignments,
            deleted_topics: orders.deleted,
            // Far apart: whatever a test waits for must not wait for the next beat.
            heartbeat_ms: 60_000,
        }))
    }

    async fn unregister_broker(
        &self,
        _: Request<pb::UnregisterBrokerRequest>,
    ) -> Result<Response<pb::UnregisterBrokerResponse>, Status> {
        self.0.unregistered.send_modify(|count| *count += 1);
        Ok(Response::new(pb::UnregisterBrokerResponse {}))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<pb::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let mut beats = request.into_inner();
        let shared = Arc::clone(&self.0);
        let (answers, outbound) = mpsc::channel(4);
        tokio::spawn(async move {
            let (mut orders, mut cut) = (shared.orders.subscribe(), shared.cut.subscribe());
            loop {
                tokio::select! {
                    beat = beats.message() => match beat {
                        Ok(Some(beat)) => { shared.applied.send_replace(beat.revision_applied); }
                        _ => return,
                    },
                    _ = cut.changed() => return,
                    _ = orders.changed() => {
                        let Orders { revision, assignments, deleted } = orders.borrow_and_update().clone();
                        let order = pb::HeartbeatResponse { revision, assignments, deleted_topics: deleted, register: false };
                        let _ = answers.send(Ok(order)).await;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    /// Accepts whatever is proposed on the newest state.
    async fn propose_isr(
        &self,
        request: Request<pb::ProposeIsrRequest>,
    ) -> Result<Response<pb::ProposeIsrResponse>, Status> {
        let mut answers = Vec::new();
        for proposal in request.into_inner().proposals {
            let mut outcome = None;
            self.0.orders.send_if_modified(|orders| {
                let of_it = |one: &&mut pb::Assignment| {
                    (&one.topic_id, one.partition) == (&proposal.topic_id, proposal.partition)
                };
                let Some(stored) = orders.assignments.iter_mut().find(of_it) else { return false };
                let newest = stored.partition_epoch == proposal.partition_epoch;
                if newest {
                    stored.partition_epoch += 1;
                    stored.isr = proposal.isr.clone();
                }
                let state = pb::IsrState {
                    leader_epoch: stored.leader_epoch,
                    partition_epoch: stored.partition_epoch,
                    isr: stored.isr.clone(),
                    eligible: Vec::new(),
                    min_insync_replicas: stored.min_insync_replicas,
                    replicas: stored.replicas.iter().map(|replica| replica.broker.clone()).collect(),
                };
                outcome = Some(match newest {
                    true => pb::isr_answer::Outcome::Confirmed(state),
                    false => pb::isr_answer::Outcome::Newer(state),
                });
                false
            });
            answers.push(pb::IsrAnswer { outcome });
            self.0.proposed.send_modify(|all| all.push(proposal));
        }
        Ok(Response::new(pb::ProposeIsrResponse { answers }))
    }

    async fn hand_over(&self, _: Request<pb::HandOverRequest>) -> Result<Response<pb::HandOverResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_brokers(&self, _: Request<pb::GetBrokersRequest>) -> Result<Response<pb::GetBrokersResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn init_producer(
        &self,
        _: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn create_topic(
        &self,
        _: Request<pb::CreateTopicRequest>,
    ) -> Result<Response<pb::CreateTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_topics(&self, _: Request<pb::ListTopicsRequest>) -> Result<Response<pb::ListTopicsResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn describe_topic(
        &self,
        _: Request<pb::DescribeTopicRequest>,
    ) -> Result<Response<pb::DescribeTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn alter_topic(&self, _: Request<pb::AlterTopicRequest>) -> Result<Response<pb::AlterTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn delete_topic(
        &self,
        _: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

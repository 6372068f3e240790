//! What the controller can be asked, and the handle that asks.

use std::time::Duration;

use goulette_meta::{Entry, keys::Leaving};
use goulette_replication::{LeaderId, controller::Proposal};
use goulette_types::{BrokerId, Incarnation, PartitionId, ProducerEpoch, ProducerId, Revision, TopicId, TopicName};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    RequestError,
    plan::{
        adopt::Adoption,
        broker::{Registration, Yields},
        partition::Verdict,
        rebalance::Order,
        topic::{Alteration, NewTopic},
    },
};

/// Requests that may wait.
const QUEUE: usize = 256;
/// How long a caller waits for its answer.
const DEADLINE: Duration = Duration::from_secs(20);

pub(super) type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// A request, and where its answer goes.
pub(super) enum Request {
    CreateTopic { topic: NewTopic, reply: Reply<Revision> },
    AlterTopic { name: TopicName, alteration: Alteration, reply: Reply<Revision> },
    DeleteTopic { name: TopicName, reply: Reply<TopicId> },
    Register { registration: Registration, reply: Reply<()> },
    Unregister { broker: BrokerId, incarnation: Incarnation, reply: Reply<()> },
    MarkDown { broker: BrokerId, incarnation: Incarnation, reply: Reply<()> },
    HandOver { broker: BrokerId, incarnation: Incarnation, why: Yields, reply: Reply<HandedOver> },
    Recovered { broker: BrokerId, incarnation: Incarnation, reply: Reply<()> },
    Propose { leader: LeaderId, proposals: Vec<(PartitionId, Proposal)>, reply: Reply<Vec<Judged>> },
    Elect { partitions: Vec<PartitionId>, unclean: Option<BrokerId>, reply: Reply<()> },
    Reassign { orders: Vec<Order>, reply: Reply<()> },
    Rebalance { reply: Reply<Vec<Order>> },
    Drain { broker: BrokerId, leaving: Option<Leaving>, reply: Reply<()> },
    Import { entries: Vec<Entry>, reply: Reply<u64> },
    Adopt { adoptions: Vec<Adoption>, reply: Reply<Revision> },
    InitProducer { present: Option<(ProducerId, ProducerEpoch)>, reply: Reply<(ProducerId, ProducerEpoch)> },
}

/// What became of a proposal.
pub(crate) type Judged = Result<Verdict, RequestError>;

/// How a broker's leaderships were given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandedOver {
    pub(crate) revision: Revision,
    /// Partitions for which another one leads now.
    pub(crate) handed_over: u32,
    /// Partitions that nobody else can lead.
    pub(crate) kept: u32,
}

/// Asks the controller; the controller ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct ControllerHandle {
    requests: mpsc::Sender<Request>,
}

impl ControllerHandle {
    /// A handle, and what its requests arrive by.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, arrivals) = mpsc::channel(QUEUE);
        (Self { requests }, arrivals)
    }

    /// Makes a topic; answers the revision at which it was complete.
    pub(crate) async fn create_topic(&self, topic: NewTopic) -> Result<Revision, RequestError> {
        self.ask(|reply| Request::CreateTopic { topic, reply }).await
    }

    /// Changes a topic.
    pub(crate) async fn alter_topic(&self, name: TopicName, alteration: Alteration) -> Result<Revision, RequestError> {
        self.ask(|reply| Request::AlterTopic { name, alteration, reply }).await
    }

    /// Deletes a topic.
    pub(crate) async fn delete_topic(&self, name: TopicName) -> Result<TopicId, RequestError> {
        self.ask(|reply| Request::DeleteTopic { name, reply }).await
    }

    /// Makes a broker live and elects it where it can lead.
    pub(crate) async fn register(&self, registration: Registration) -> Result<(), RequestError> {
        self.ask(|reply| Request::Register { registration, reply }).await
    }

    /// Records a planned stop.
    pub(crate) async fn unregister(&self, broker: BrokerId, incarnation: Incarnation) -> Result<(), RequestError> {
        self.ask(|reply| Request::Unregister { broker, incarnation, reply }).await
    }

    /// Records that a broker does not answer.
    pub(crate) async fn mark_down(&self, broker: BrokerId, incarnation: Incarnation) -> Result<(), RequestError> {
        self.ask(|reply| Request::MarkDown { broker, incarnation, reply }).await
    }

    /// Gives a broker's leaderships to others, as far as they can take them.
    pub(crate) async fn hand_over(
        &self,
        broker: BrokerId,
        incarnation: Incarnation,
        why: Yields,
    ) -> Result<HandedOver, RequestError> {
        self.ask(|reply| Request::HandOver { broker, incarnation, why, reply }).await
    }

    /// Lets a broker lead again whose disk has come back.
    pub(crate) async fn recovered(&self, broker: BrokerId, incarnation: Incarnation) -> Result<(), RequestError> {
        self.ask(|reply| Request::Recovered { broker, incarnation, reply }).await
    }

    /// Judges what a leader proposes, no partition twice; answers in order.
    pub(crate) async fn propose(
        &self,
        leader: LeaderId,
        proposals: Vec<(PartitionId, Proposal)>,
    ) -> Result<Vec<Judged>, RequestError> {
        self.ask(|reply| Request::Propose { leader, proposals, reply }).await
    }

    /// Elects the preferred leaders of partitions, or by an operator's order a replica that may lack records.
    pub(crate) async fn elect(
        &self,
        partitions: Vec<PartitionId>,
        unclean: Option<BrokerId>,
    ) -> Result<(), RequestError> {
        self.ask(|reply| Request::Elect { partitions, unclean, reply }).await
    }

    /// Orders other replicas for partitions; none: takes the order back.
    pub(crate) async fn reassign(&self, orders: Vec<Order>) -> Result<(), RequestError> {
        self.ask(|reply| Request::Reassign { orders, reply }).await
    }

    /// Orders what evens out the brokers' loads; answers what was ordered.
    pub(crate) async fn rebalance(&self) -> Result<Vec<Order>, RequestError> {
        self.ask(|reply| Request::Rebalance { reply }).await
    }

    /// Orders everything away from a broker, or takes the order back.
    pub(crate) async fn drain(&self, broker: BrokerId, leaving: Option<Leaving>) -> Result<(), RequestError> {
        self.ask(|reply| Request::Drain { broker, leaving, reply }).await
    }

    /// Takes metadata over where there is no topic; answers the generation that begins.
    pub(crate) async fn import(&self, entries: Vec<Entry>) -> Result<u64, RequestError> {
        self.ask(|reply| Request::Import { entries, reply }).await
    }

    /// Makes topics of what brokers hold.
    pub(crate) async fn adopt(&self, adoptions: Vec<Adoption>) -> Result<Revision, RequestError> {
        self.ask(|reply| Request::Adopt { adoptions, reply }).await
    }

    /// Numbers a producer.
    pub(crate) async fn init_producer(
        &self,
        present: Option<(ProducerId, ProducerEpoch)>,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        self.ask(|reply| Request::InitProducer { present, reply }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Stopping,
        })?;
        match timeout(DEADLINE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err(RequestError::Stopping),
            Err(_elapsed) => Err(RequestError::Late),
        }
    }
}

impl Request {
    /// Answers that it cannot be done here.
    pub(super) fn refuse(self, error: RequestError) {
        // A caller that has gone does not hear the answer.
        match self {
            Request::CreateTopic { reply, .. } | Request::AlterTopic { reply, .. } => drop(reply.send(Err(error))),
            Request::DeleteTopic { reply, .. } => drop(reply.send(Err(error))),
            Request::Register { reply, .. }
            | Request::Unregister { reply, .. }
            | Request::MarkDown { reply, .. }
            | Request::Recovered { reply, .. }
            | Request::Elect { reply, .. }
            | Request::Reassign { reply, .. }
            | Request::Drain { reply, .. } => drop(reply.send(Err(error))),
            Request::Rebalance { reply } => drop(reply.send(Err(error))),
            Request::Import { reply, .. } => drop(reply.send(Err(error))),
            Request::Adopt { reply, .. } => drop(reply.send(Err(error))),
            Request::HandOver { reply, .. } => drop(reply.send(Err(error))),
            Request::Propose { reply, .. } => drop(reply.send(Err(error))),
            Request::InitProducer { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

//! What the controller can be asked, and the handle that asks.

use std::time::Duration;

use goulette_types::{BrokerId, Incarnation, ProducerEpoch, ProducerId, Revision, TopicId, TopicName};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    RequestError,
    plan::{
        broker::Registration,
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
    InitProducer { present: Option<(ProducerId, ProducerEpoch)>, reply: Reply<(ProducerId, ProducerEpoch)> },
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
            Request::Register { reply, .. } | Request::Unregister { reply, .. } | Request::MarkDown { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Request::InitProducer { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

//! The one task that writes metadata.
//!
//! Requests wait in a bounded queue and are carried out one after the other: plan a step on the catalog, commit it,
//! apply it, until no step is left. Being a task of its own, it finishes what it began when the caller has gone.

use std::{sync::Arc, time::Duration};

use goulette_env::Env;
use goulette_logging::{error, info, warn};
use goulette_meta::{MetaStore, Outcome, keys};
use goulette_types::{
    BrokerId, ClusterId, Incarnation, ProducerEpoch, ProducerId, Revision, Timestamp, TopicId, TopicName,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    RequestError, StartError,
    catalog::Catalog,
    plan::{
        self, Step,
        broker::Registration,
        producer::Init,
        topic::{Alteration, NewTopic},
    },
    state::State,
};

/// Requests that may wait.
const QUEUE: usize = 256;
/// How long a caller waits for its answer.
const DEADLINE: Duration = Duration::from_secs(20);

type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

enum Request {
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

/// Owns the store; see the module.
pub(crate) struct Controller {
    env: Env,
    store: Arc<dyn MetaStore>,
    state: Arc<State>,
    requests: mpsc::Receiver<Request>,
    /// Set once the store has failed: nothing more can be written.
    failed: Option<String>,
}

impl Controller {
    /// Loads the catalog, and makes the cluster if there is none yet.
    ///
    /// # Errors
    /// [`StartError::OtherCluster`] if another cluster was insisted on; those of the store.
    pub(crate) async fn start(
        env: Env,
        store: Arc<dyn MetaStore>,
        cluster_id: Option<ClusterId>,
        replication_factor: u32,
    ) -> Result<(Self, ControllerHandle, Arc<State>), StartError> {
        let state = Arc::new(State::new(Catalog::load(&store.range(keys::PREFIX).await?)?));
        let (sender, requests) = mpsc::channel(QUEUE);
        let mut controller = Self { env, store, state: Arc::clone(&state), requests, failed: None };
        if state.catalog().cluster().is_none() {
            let made = cluster_id.unwrap_or_else(|| ClusterId(controller.env.random.next_id()));
            controller
                .once(|catalog, now| Ok(plan::cluster::create(catalog, now, made, replication_factor)))
                .await
                .map_err(StartError::Make)?;
            info!("made cluster {made}");
        }
        let stored = state.catalog().cluster().expect("made, or there before").cluster_id;
        if let Some(given) = cluster_id.filter(|&given| given != stored) {
            return Err(StartError::OtherCluster { stored, given });
        }
        Ok((controller, ControllerHandle { requests: sender }, state))
    }

    /// Works until the last handle is dropped or the store fails; answers why it failed.
    pub(crate) async fn run(mut self) -> Option<String> {
        self.tidy().await;
        while self.failed.is_none() {
            let Some(request) = self.requests.recv().await else { break };
            self.carry_out(request).await;
        }
        self.failed
    }

    async fn carry_out(&mut self, request: Request) {
        // A caller that has gone does not hear the answer; what it asked for is done all the same.
        match request {
            Request::CreateTopic { topic, reply } => drop(reply.send(self.create_topic(topic).await)),
            Request::AlterTopic { name, alteration, reply } => {
                drop(reply.send(self.alter_topic(name, alteration).await));
            }
            Request::DeleteTopic { name, reply } => drop(reply.send(self.delete_topic(name).await)),
            Request::Register { registration, reply } => drop(reply.send(self.register(registration).await)),
            Request::Unregister { broker, incarnation, reply } => {
                let plan = |catalog: &Catalog, now| plan::broker::unregister(catalog, now, &broker, incarnation);
                drop(reply.send(self.once(plan).await));
            }
            Request::MarkDown { broker, incarnation, reply } => {
                let plan = |catalog: &Catalog, now| Ok(plan::broker::mark_down(catalog, now, &broker, incarnation));
                drop(reply.send(self.once(plan).await));
            }
            Request::InitProducer { present, reply } => drop(reply.send(self.init_producer(present).await)),
        }
    }

    async fn create_topic(&mut self, topic: NewTopic) -> Result<Revision, RequestError> {
        let id = TopicId(self.env.random.next_id());
        self.once(|catalog, now| plan::topic::create(catalog, now, id, &topic)).await?;
        self.all(|catalog, now| plan::topic::fill(catalog, now, &topic.name)).await?;
        info!("topic {} has {} partitions", topic.name, topic.partitions);
        Ok(self.state.catalog().revision())
    }

    async fn alter_topic(&mut self, name: TopicName, alteration: Alteration) -> Result<Revision, RequestError> {
        self.once(|catalog, now| plan::topic::alter(catalog, now, &name, &alteration)).await?;
        self.all(|catalog, now| plan::topic::fill(catalog, now, &name)).await?;
        info!("topic {name} is altered");
        Ok(self.state.catalog().revision())
    }

    async fn delete_topic(&mut self, name: TopicName) -> Result<TopicId, RequestError> {
        let id = self.state.catalog().topic(&name).map(|topic| topic.id);
        let Some(id) = id else { return Err(RequestError::UnknownTopic { topic: name }) };
        self.once(|catalog, now| plan::topic::delete(catalog, now, &name).map(Some)).await?;
        self.all(|catalog, now| Ok(plan::topic::sweep(catalog, now))).await?;
        info!("topic {name} ({id}) is deleted");
        Ok(id)
    }

    async fn register(&mut self, registration: Registration) -> Result<(), RequestError> {
        self.all(|catalog, now| plan::broker::register(catalog, now, &registration)).await?;
        // It may be the broker that an interrupted creation was waiting for.
        self.tidy().await;
        Ok(())
    }

    async fn init_producer(
        &mut self,
        present: Option<(ProducerId, ProducerEpoch)>,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let init = plan::producer::init(&self.state.catalog(), present)?;
        match init {
            Init::Epoch(id, epoch) => Ok((id, epoch)),
            Init::New(id, step) => self.commit(step).await.map(|()| (id, ProducerEpoch(0))),
        }
    }

    /// Finishes what an earlier sentinel left half done.
    async fn tidy(&mut self) {
        let incomplete: Vec<_> = {
            let catalog = self.state.catalog();
            let incomplete = catalog.topics().filter(|(_, topic)| !catalog.is_complete(topic));
            incomplete.map(|(name, _)| name.clone()).collect()
        };
        for name in incomplete {
            if let Err(error) = self.all(|catalog, now| plan::topic::fill(catalog, now, &name)).await {
                warn!("topic {name} stays incomplete for now: {error}");
            }
        }
        if let Err(error) = self.all(|catalog, now| Ok(plan::topic::sweep(catalog, now))).await {
            warn!("deleted topics still have metadata: {error}");
        }
    }

    /// Carries out one step, if there is one to do.
    async fn once(
        &mut self,
        plan: impl FnOnce(&Catalog, Timestamp) -> Result<Option<Step>, RequestError>,
    ) -> Result<(), RequestError> {
        let step = plan(&self.state.catalog(), self.now())?;
        match step {
            Some(step) => self.commit(step).await,
            None => Ok(()),
        }
    }

    /// Carries out steps until none is left.
    async fn all(
        &mut self,
        plan: impl Fn(&Catalog, Timestamp) -> Result<Option<Step>, RequestError>,
    ) -> Result<(), RequestError> {
        loop {
            let step = plan(&self.state.catalog(), self.now())?;
            match step {
                Some(step) => self.commit(step).await?,
                None => return Ok(()),
            }
        }
    }

    async fn commit(&mut self, step: Step) -> Result<(), RequestError> {
        match self.store.txn(step.txn()).await {
            Ok(Outcome::Committed(revision)) => {
                self.apply(revision, &step);
                Ok(())
            }
            Ok(Outcome::Conflict) => {
                self.reload().await?;
                Err(RequestError::Overtaken)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn apply(&self, revision: Revision, step: &Step) {
        {
            let mut catalog = self.state.catalog_mut();
            step.changes.iter().for_each(|change| catalog.apply(revision, change));
        }
        self.state.publish();
    }

    /// The catalog is not what the store holds: somebody else writes too.
    async fn reload(&mut self) -> Result<(), RequestError> {
        let snapshot = match self.store.range(keys::PREFIX).await {
            Ok(snapshot) => snapshot,
            Err(error) => return Err(self.fail(error)),
        };
        match Catalog::load(&snapshot) {
            Ok(catalog) => {
                *self.state.catalog_mut() = catalog;
                self.state.publish();
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The store is not to be trusted any more: the sentinel stops, and a new start reads what is true.
    fn fail(&mut self, cause: impl std::error::Error) -> RequestError {
        let message = goulette_logging::Chain(&cause).to_string();
        error!("the metadata store failed: {message}");
        self.failed = Some(message.clone());
        RequestError::Store(message)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.env.clock.wall_ms())
    }
}

#[cfg(test)]
mod tests;

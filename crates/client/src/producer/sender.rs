//! The one task behind a producer: owns the core, every batch that is not settled, and the streams.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use goulette_proto::pb;
use goulette_records::{Batch, BatchBuilder};
use goulette_types::{Acks, BrokerId, ErrorKind, Offset, PartitionIndex, ProducerEpoch, ProducerId};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Client, ClientError, ProducerOptions, SendError, TopicRoutes,
    client::lock,
    producer::{
        accumulator::{BatchId, ClosedBatch},
        api::Shared,
        core::{Core, CoreOptions, Effect, Event, Identity, LINK_BATCHES_MAX, LeaderRef, RequestId, Send},
        delivery::{Acked, Completer},
        link::{self, LinkEvent},
    },
    routes,
};

/// How often the core is told the time while it has something unsettled: how late a pause or a deadline may end.
const TICK: Duration = Duration::from_millis(20);
/// Reports of links and calls that may wait for the sender; beyond, they wait in turn.
const INBOX: usize = 256;

/// What the producer's users ask of the task.
pub(crate) enum Command {
    /// Settle every batch that exists now, then say what failed first since the last time.
    Flush(oneshot::Sender<Result<(), SendError>>),
}

/// What the sender's own tasks report.
enum Report {
    Link(LinkId, BrokerId, LinkEvent),
    Routes(Result<Arc<TopicRoutes>, ClientError>),
    Identity(Result<Identity, ClientError>),
}

/// One attempt at a stream: reports of an earlier one are of no interest.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LinkId(u64);

struct Link {
    id: LinkId,
    requests: mpsc::Sender<pb::ProduceRequest>,
    task: AbortHandle,
}

/// A batch until it is settled.
struct InHand {
    partition: PartitionIndex,
    records: u32,
    window_bytes: usize,
    completer: Completer,
    body: Body,
}

/// Sealed (compressed, numbered, checksummed) when it is sent for the first time.
enum Body {
    Open(BatchBuilder),
    Sealed(Batch),
    /// Only while one becomes the other.
    Taken,
}

struct Flush {
    /// Batches before this one.
    before: BatchId,
    reply: oneshot::Sender<Result<(), SendError>>,
}

pub(crate) struct Sender {
    client: Client,
    shared: Arc<Shared>,
    routes: Arc<TopicRoutes>,
    acks: Acks,
    core: Core,
    effects: Vec<Effect>,
    in_hand: BTreeMap<BatchId, InHand>,
    links: HashMap<BrokerId, Link>,
    next_link: u64,
    reports: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Report>,
    tasks: JoinSet<()>,
    flushes: Vec<Flush>,
    /// Since the last flush.
    first_failure: Option<SendError>,
}

impl Sender {
    pub(crate) fn new(client: Client, routes: Arc<TopicRoutes>, options: ProducerOptions, shared: Arc<Shared>) -> Self {
        let core_options = CoreOptions {
            idempotent: options.idempotent,
            delivery_timeout: options.delivery_timeout,
            backoff: client.options().backoff,
            seed: client.random(),
        };
        let (reports, inbox) = mpsc::channel(INBOX);
        Self {
            core: Core::new(core_options, leaders(&routes)),
            client,
            shared,
            routes,
            acks: options.acks,
            effects: Vec::new(),
            in_hand: BTreeMap::new(),
            links: HashMap::new(),
            next_link: 0,
            reports,
            inbox,
            tasks: JoinSet::new(),
            flushes: Vec::new(),
            first_failure: None,
        }
    }

    /// Runs until the producer is closed (its commands end) or dropped (the task is aborted).
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (tell, mut news) = mpsc::channel(1);
        self.tasks.spawn(routes::watch(self.client.clone(), Arc::clone(&self.routes), tell));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        // Asks for the producer's identity before the first batch needs it.
        self.step(Event::Tick);
        loop {
            let due_at = self.take_due();
            self.answer_flushes();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Flush(reply)) => {
                        let before = lock(&shared.accumulator).flush();
                        self.flushes.push(Flush { before, reply });
                    }
                    None => return,
                },
                Some(report) = self.inbox.recv() => {
                    self.report(report);
                    while let Ok(report) = self.inbox.try_recv() {
                        self.report(report);
                    }
                }
                Some(routes) = news.recv() => self.routed(routes),
                () = shared.wake.notified() => {}
                () = sleep_until(due_at) => {}
                _ = tick.tick(), if !self.core.is_idle() => self.step(Event::Tick),
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Takes batches out of the accumulator until none is due; says when the next one will be.
    fn take_due(&mut self) -> Option<Instant> {
        loop {
            let (due, due_at) = {
                let mut accumulator = lock(&self.shared.accumulator);
                (accumulator.take_due(Instant::now().into_std()), accumulator.due_at())
            };
            if due.is_empty() {
                return due_at.map(Instant::from_std);
            }
            for batch in due {
                self.take(batch);
            }
        }
    }

    fn take(&mut self, closed: ClosedBatch) {
        let window_bytes = closed.window_bytes();
        let ClosedBatch { id, partition, builder, completer, opened } = closed;
        let records = builder.count();
        self.in_hand.insert(id, InHand { partition, records, window_bytes, completer, body: Body::Open(builder) });
        self.step(Event::Closed { batch: id, partition, records, opened });
    }

    fn step(&mut self, event: Event) {
        self.core.step(Instant::now().into_std(), event, &mut self.effects);
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects = effects;
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Connect(broker) => self.connect(broker),
            Effect::Disconnect(broker) => {
                if let Some(link) = self.links.remove(&broker) {
                    link.task.abort();
                }
            }
            Effect::Send(send) => self.send(send),
            Effect::Complete(batch, result) => self.complete(batch, result),
            Effect::Refresh { unreachable } => self.refresh(unreachable),
            Effect::Identify(previous) => self.identify(previous),
        }
    }

    fn connect(&mut self, broker: BrokerId) {
        let leader = self.routes.partitions.iter().filter_map(|route| route.leader.as_ref());
        let address = leader.into_iter().find(|leader| leader.broker == broker).map(|leader| leader.address.clone());
        let address = address.expect("the core knows brokers from these routes only");
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let (requests, outbox) = mpsc::channel(LINK_BATCHES_MAX);
        let (reports, name) = (self.reports.clone(), broker.clone());
        let tell = move |event| {
            let (reports, name) = (reports.clone(), name.clone());
            async move {
                // A sender that is gone has aborted this task, or is about to.
                let _ = reports.send(Report::Link(id, name, event)).await;
            }
        };
        let task = self.tasks.spawn(link::run(self.client.clone(), address, outbox, tell));
        self.links.insert(broker, Link { id, requests, task });
    }

    fn send(&mut self, send: Send) {
        let in_hand = self.in_hand.get_mut(&send.batch).expect("the core only sends batches that are not settled");
        in_hand.completer.sent = true;
        let batch = in_hand.body.seal(send.sequence);
        let request = pb::ProduceRequest {
            request_id: send.request.0,
            topic_id: self.routes.id.to_bytes().to_vec().into(),
            partition: send.partition.0,
            leader_epoch: send.leader_epoch.0,
            acks: pb::Acks::from(self.acks).into(),
            batch: Some(pb::Batch { header: batch.header_bytes().to_vec().into(), records: batch.records().clone() }),
        };
        let link = self.links.get(&send.broker).expect("the core only sends over streams that are up");
        // Never full, as the core keeps no more in flight than the queue holds. A link that has just ended drops the
        // request, and reports its end; that answers for all that it carried.
        let _ = link.requests.try_send(request);
    }

    fn complete(&mut self, batch: BatchId, result: Result<Acked, SendError>) {
        let in_hand = self.in_hand.remove(&batch).expect("a batch is settled once");
        let acked = result.is_ok();
        if let Err(error) = &result {
            self.first_failure.get_or_insert_with(|| error.clone());
        }
        let InHand { partition, records, window_bytes, completer, .. } = in_hand;
        lock(&self.shared.accumulator).settled(partition, records, window_bytes, acked);
        completer.complete(result);
        self.shared.room.notify_waiters();
    }

    fn refresh(&mut self, unreachable: Vec<BrokerId>) {
        let (client, routes, reports) = (self.client.clone(), Arc::clone(&self.routes), self.reports.clone());
        let unreachable = unreachable.iter().map(BrokerId::to_string).collect();
        self.tasks.spawn(async move {
            let result = client.refresh_routes(&routes, unreachable).await;
            let _ = reports.send(Report::Routes(result)).await;
        });
    }

    fn identify(&mut self, previous: Option<Identity>) {
        let (client, reports) = (self.client.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let result = init_producer(&client, previous).await;
            let _ = reports.send(Report::Identity(result)).await;
        });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Link(id, broker, event) => {
                if self.links.get(&broker).is_some_and(|link| link.id == id) {
                    self.link_event(broker, event);
                }
            }
            Report::Routes(Ok(routes)) => self.routed(routes),
            Report::Routes(Err(error)) if error.kind() == ErrorKind::NotFound => {
                self.step(Event::TopicGone { message: error.to_string() });
            }
            Report::Routes(Err(error)) => self.step(Event::RoutesFailed { reason: error.to_string() }),
            Report::Identity(Ok(identity)) => self.step(Event::Identity(identity)),
            Report::Identity(Err(error)) => self.step(Event::IdentityFailed { reason: error.to_string() }),
        }
    }

    fn routed(&mut self, routes: Arc<TopicRoutes>) {
        if routes.id != self.routes.id {
            let message = format!("topic {} was deleted; another one has its name now", routes.topic);
            self.step(Event::TopicGone { message });
            return;
        }
        let led = routes.partitions.iter().map(|partition| partition.leader.is_some()).collect();
        // The core first: it must know of a partition before a record can be put there.
        let leaders = leaders(&routes);
        self.routes = routes;
        self.step(Event::Routes(leaders));
        lock(&self.shared.accumulator).set_led(led);
    }

    fn link_event(&mut self, broker: BrokerId, event: LinkEvent) {
        match event {
            LinkEvent::Up(grant) => {
                self.client.note_broker(&broker, None);
                self.step(Event::Connected { broker, batches_in_flight: grant.batches_in_flight });
            }
            LinkEvent::Answers(answers) => {
                for answer in answers {
                    self.step(event_of(answer));
                }
            }
            LinkEvent::Down(reason) => {
                self.links.remove(&broker);
                self.client.note_broker(&broker, Some(&reason));
                self.step(Event::Disconnected { broker, reason });
            }
        }
    }

    fn answer_flushes(&mut self) {
        let oldest = self.in_hand.first_key_value().map(|(&id, _)| id);
        for flush in self.flushes.extract_if(.., |flush| oldest.is_none_or(|oldest| oldest >= flush.before)) {
            // Who no longer waits does not want to know.
            let _ = flush.reply.send(self.first_failure.take().map_or(Ok(()), Err));
        }
    }
}

impl Drop for Sender {
    /// Also after a panic: whoever waits for room learns that there will be none.
    fn drop(&mut self) {
        lock(&self.shared.accumulator).shut();
        self.shared.room.notify_waiters();
    }
}

impl Body {
    fn seal(&mut self, sequence: Option<(Identity, u32)>) -> &Batch {
        let batch = match std::mem::replace(self, Body::Taken) {
            Body::Open(mut builder) => {
                if let Some((identity, sequence)) = sequence {
                    builder.set_producer(identity.id, identity.epoch, sequence);
                }
                builder.build()
            }
            Body::Sealed(mut batch) => {
                if let Some((identity, sequence)) = sequence {
                    let now = batch.producer().map(|producer| (producer.id, producer.epoch, producer.base_sequence));
                    if now != Some((identity.id, identity.epoch, sequence)) {
                        batch.set_producer(identity.id, identity.epoch, sequence);
                    }
                }
                batch
            }
            Body::Taken => unreachable!("sealing cannot fail half-way"),
        };
        *self = Body::Sealed(batch);
        match self {
            Body::Sealed(batch) => batch,
            _ => unreachable!("just sealed"),
        }
    }
}

fn leaders(routes: &TopicRoutes) -> Vec<Option<LeaderRef>> {
    let leader = |route: &crate::PartitionRoute| {
        route.leader.as_ref().map(|leader| LeaderRef { broker: leader.broker.clone(), epoch: leader.epoch })
    };
    routes.partitions.iter().map(leader).collect()
}

fn event_of(answer: pb::ProduceAck) -> Event {
    let request = RequestId(answer.request_id);
    match answer.error {
        Some(error) => Event::Refused { request, kind: error.kind().into(), message: error.message },
        None => {
            let acks = answer.acks().into();
            let base_offset = answer.base_offset.map(Offset);
            Event::Acked { request, acked: Acked { base_offset, duplicate: answer.duplicate, acks } }
        }
    }
}

async fn init_producer(client: &Client, previous: Option<Identity>) -> Result<Identity, ClientError> {
    let request = pb::InitProducerRequest {
        producer_id: previous.map(|identity| identity.id.0),
        producer_epoch: previous.map_or(0, |identity| identity.epoch.0.into()),
    };
    let answer = client.sentinel_call(|mut sentinel| async move { sentinel.init_producer(request).await }).await?;
    let epoch = u16::try_from(answer.producer_epoch).ok().filter(|&epoch| epoch <= i16::MAX as u16);
    let id = Some(answer.producer_id).filter(|&id| id <= i64::MAX as u64);
    match (id, epoch) {
        (Some(id), Some(epoch)) => Ok(Identity { id: ProducerId(id), epoch: ProducerEpoch(epoch) }),
        _ => Err(ClientError::Malformed {
            role: "sentinel",
            address: client.options().sentinels.join(","),
            reason: format!("producer id {} with epoch {}", answer.producer_id, answer.producer_epoch),
        }),
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

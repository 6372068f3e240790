//! Decides what is sent when, and what an answer, a broken stream or the time means. No I/O: events and `now` in,
//! effects out, which the shell ([`super::sender`]) carries out in order.
//!
//! The rules, per partition:
//! - Batches are sent in order, no more unanswered at a time than the broker grants; a batch keeps its sequence number
//!   through every retry, so the broker recognises what it has already.
//! - When one is refused, nothing more is sent until all that is in flight is answered; then everything that is not
//!   acknowledged is sent again, in order, after a pause. When the stream breaks, or a broker that leads no longer is silent,
//!   the same without waiting for answers.
//! - A gap in the sequence (`OutOfOrder` for the oldest batch) means that an earlier batch was given up or lost. The
//!   partition takes a new producer epoch, and its batches new numbers from 0: nothing of the old epoch is stored any
//!   more once the new one was seen.
//! - A batch whose time is up is given up: as unknown if it may be stored.

mod asking;
mod event;
mod partition;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use goulette_types::{BrokerId, ErrorKind, PartitionIndex};

pub(crate) use self::event::{Effect, Event, Identity, LeaderRef, RequestId, Send};
use self::{
    asking::Asking,
    partition::{Partition, Queued, Refusal},
};
use crate::{
    Backoff, SendError,
    backoff::Pauses,
    producer::{accumulator::BatchId, delivery::Acked},
};

/// Batches in flight on one stream, over all of its partitions; also the room of the queue in front of it.
pub(crate) const LINK_BATCHES_MAX: usize = 1024;
/// After so long without an answer to a request, a sentinel is asked whether somebody else leads.
const SILENCE: Duration = Duration::from_secs(2);

/// What the core must know of the producer's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreOptions {
    pub(crate) idempotent: bool,
    pub(crate) delivery_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) seed: u64,
}

/// Knows every batch that is not settled. Only decides.
#[derive(Debug)]
pub(crate) struct Core {
    options: CoreOptions,
    pauses: Pauses,
    partitions: Vec<Partition>,
    links: BTreeMap<BrokerId, Link>,
    /// Every request that is unanswered, also of batches that were given up meanwhile: they still count as in flight.
    requests: HashMap<RequestId, Sent>,
    next_request: RequestId,
    /// The newest one; a partition may still be at an older epoch, as brokers count epochs per partition.
    identity: Option<Identity>,
    identify: Asking,
    refresh: Asking,
    unreachable: BTreeSet<BrokerId>,
    /// Batches that are not settled.
    unsettled: usize,
}

/// Where a request went, and when.
#[derive(Clone, Debug)]
struct Sent {
    broker: BrokerId,
    partition: PartitionIndex,
    at: Instant,
}

/// The stream to one broker.
#[derive(Debug, Default)]
struct Link {
    state: LinkState,
    in_flight: usize,
    /// In a row, without an answer in between.
    failures: u32,
}

#[derive(Debug, Default)]
enum LinkState {
    #[default]
    Idle,
    /// Down; not to be tried before.
    Down(Instant),
    Connecting,
    Up {
        batches_in_flight: u32,
    },
}

impl Core {
    pub(crate) fn new(options: CoreOptions, routes: Vec<Option<LeaderRef>>) -> Self {
        let mut identify = Asking::default();
        identify.wanted = options.idempotent;
        Self {
            options,
            pauses: Pauses::new(options.backoff, options.seed),
            partitions: routes.into_iter().map(Partition::new).collect(),
            links: BTreeMap::new(),
            requests: HashMap::new(),
            next_request: RequestId(0),
            identity: None,
            identify,
            refresh: Asking::default(),
            unreachable: BTreeSet::new(),
            unsettled: 0,
        }
    }

    /// Whether there is nothing to wait for: no tick is needed.
    pub(crate) fn is_idle(&self) -> bool {
        self.unsettled == 0
    }

    /// Takes in what happened and appends what is to be done to `effects`.
    pub(crate) fn step(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Closed { batch, partition, records, opened } => {
                self.unsettled += 1;
                self.partitions[partition.0 as usize].queue.push_back(Queued::new(batch, records, opened));
                self.pump(now, partition, effects);
            }
            Event::Connected { broker, batches_in_flight } => {
                let link = self.links.entry(broker.clone()).or_default();
                // A broker that grants nothing would never be sent anything, nor asked again.
                link.state = LinkState::Up { batches_in_flight: batches_in_flight.max(1) };
                // It may be back in a new epoch: what was asked in vain while it was away must not delay the next
                // question. How often one can connect is limited by the pauses of the link.
                self.refresh.forget_failures();
                self.pump_led_by(now, &broker, effects);
            }
            Event::Disconnected { broker, reason } => self.disconnected(now, broker, &reason, effects),
            Event::Acked { request, acked } => {
                self.answered(now, request, effects, |core, partition, effects| {
                    core.refresh.forget_failures();
                    if let Some(queued) = core.partitions[partition.0 as usize].acked(request) {
                        core.settle(queued.batch, Ok(acked), effects);
                    }
                });
            }
            Event::Refused { request, kind, message } => {
                self.answered(now, request, effects, |core, partition, effects| {
                    core.refused(now, partition, request, kind, message, effects);
                });
            }
            Event::Routes(leaders) => self.routed(now, leaders, effects),
            Event::RoutesFailed { reason } => self.refresh.answered(now, &mut self.pauses, reason),
            Event::TopicGone { message } => {
                self.refresh.answered(now, &mut self.pauses, String::new());
                self.give_up_all(&message, effects);
            }
            Event::Identity(identity) => {
                self.identify.answered(now, &mut self.pauses, String::new());
                self.identify.forget_failures();
                self.identity = Some(identity);
                self.pump_all(now, effects);
            }
            Event::IdentityFailed { reason } => {
                self.identify.answered(now, &mut self.pauses, reason);
                self.identify.wanted = true;
            }
            Event::Tick => {
                self.expire(now, effects);
                self.doubt_the_silent(now);
                self.pump_all(now, effects);
            }
        }
        self.ask(now, effects);
    }

    /// Asks the sentinels what there is to ask, when it is time.
    fn ask(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.refresh.may_ask(now) {
            effects.push(Effect::Refresh { unreachable: std::mem::take(&mut self.unreachable).into_iter().collect() });
        }
        if self.identify.may_ask(now) {
            effects.push(Effect::Identify(self.identity));
        }
    }

    /// A request has its answer, whichever: there is room for another one.
    fn answered(
        &mut self,
        now: Instant,
        request: RequestId,
        effects: &mut Vec<Effect>,
        apply: impl FnOnce(&mut Self, PartitionIndex, &mut Vec<Effect>),
    ) {
        let Some(Sent { broker, partition, .. }) = self.requests.remove(&request) else {
            return;
        };
        let link = self.links.get_mut(&broker).expect("a request was sent over a link");
        let was_full = link.in_flight == LINK_BATCHES_MAX;
        link.in_flight -= 1;
        link.failures = 0;
        apply(self, partition, effects);
        self.partitions[partition.0 as usize].one_less_in_flight();
        self.pump(now, partition, effects);
        if was_full {
            self.pump_led_by(now, &broker, effects);
        }
    }

    fn refused(
        &mut self,
        now: Instant,
        partition: PartitionIndex,
        request: RequestId,
        kind: ErrorKind,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let state = &mut self.partitions[partition.0 as usize];
        match Refusal::of(kind) {
            Refusal::Fatal => {
                if let Some(queued) = state.remove(request) {
                    self.settle(queued.batch, Err(SendError::Refused { kind, message }), effects);
                }
            }
            Refusal::Gap => state.gap(request, message, now, &mut self.pauses),
            Refusal::Retry { may_be_stored, stale_route } => {
                state.retry(request, may_be_stored, message, now, &mut self.pauses);
                self.refresh.wanted |= stale_route;
            }
        }
    }

    fn disconnected(&mut self, now: Instant, broker: BrokerId, reason: &str, effects: &mut Vec<Effect>) {
        let link = self.links.entry(broker.clone()).or_default();
        link.failures += 1;
        link.in_flight = 0;
        link.state = LinkState::Down(now + self.pauses.pause(link.failures));
        let lost: Vec<_> =
            self.requests.extract_if(|_, sent| sent.broker == broker).map(|(_, sent)| sent.partition).collect();
        for partition in lost {
            self.partitions[partition.0 as usize].connection_lost(reason);
        }
        let waits = |partition: &&mut Partition| partition.is_led_by(&broker) && !partition.queue.is_empty();
        let mut waiting = false;
        for partition in self.partitions.iter_mut().filter(waits) {
            partition.obstacle(reason);
            waiting = true;
        }
        if waiting {
            self.unreachable.insert(broker);
            self.refresh.wanted = true;
        }
        self.pump_all(now, effects);
    }

    fn routed(&mut self, now: Instant, leaders: Vec<Option<LeaderRef>>, effects: &mut Vec<Effect>) {
        self.refresh.answered(now, &mut self.pauses, String::new());
        for (index, leader) in leaders.into_iter().enumerate() {
            match self.partitions.get_mut(index) {
                Some(partition) => partition.led_by(leader),
                None => self.partitions.push(Partition::new(leader)),
            }
        }
        self.pump_all(now, effects);
    }

    /// Who does not answer for long may lead no longer: perhaps a sentinel knows. From one that does lead no longer nothing
    /// is waited for: cut off as it may be, it might never answer.
    fn doubt_the_silent(&mut self, now: Instant) {
        let silent = |sent: &Sent| now >= sent.at + SILENCE;
        if !self.requests.values().any(silent) {
            return;
        }
        self.refresh.wanted = true;
        let partitions = &mut self.partitions;
        let elsewhere = |sent: &Sent| {
            let leader = &partitions[sent.partition.0 as usize].leader;
            leader.as_ref().is_some_and(|leader| leader.broker != sent.broker)
        };
        let given_up: Vec<_> = self.requests.extract_if(|_, sent| silent(sent) && elsewhere(sent)).collect();
        for (_, sent) in given_up {
            let partition = &mut partitions[sent.partition.0 as usize];
            self.links.get_mut(&sent.broker).expect("a request was sent over a link").in_flight -= 1;
            partition.connection_lost("another broker leads the partition now");
        }
    }

    /// Gives up the batches whose time is up.
    fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let timeout = self.options.delivery_timeout;
        let mut silent = BTreeSet::new();
        for index in 0..self.partitions.len() {
            while let Some(queued) = self.partitions[index].expired(now, timeout) {
                let reason = self.obstacle(index);
                silent.extend(
                    queued.request.and_then(|request| self.requests.get(&request)).map(|sent| sent.broker.clone()),
                );
                let error = match queued.may_be_stored() {
                    true => SendError::OutcomeUnknown { reason: format!("no answer within {timeout:?}: {reason}") },
                    false => SendError::Expired { timeout, reason },
                };
                self.settle(queued.batch, Err(error), effects);
            }
        }
        // A stream on which a request stays unanswered for so long is of no use to the others either.
        for broker in silent {
            effects.push(Effect::Disconnect(broker.clone()));
            self.disconnected(now, broker, "the broker did not answer", effects);
        }
    }

    /// What keeps a partition's batches from being delivered, in words.
    fn obstacle(&self, index: usize) -> String {
        let partition = &self.partitions[index];
        let asked = |asking: &Asking| Some(asking.reason.clone()).filter(|reason| !reason.is_empty());
        let no_identity = || asked(&self.identify).filter(|_| self.options.idempotent && self.identity.is_none());
        let no_leader = || partition.leader.is_none().then(|| "the partition has no leader".to_owned());
        let own = || Some(partition.obstacle.clone()).filter(|obstacle| !obstacle.is_empty());
        let reason = no_identity().or_else(own).or_else(|| asked(&self.refresh)).or_else(no_leader);
        reason.unwrap_or_else(|| "the broker did not answer".to_owned())
    }

    fn give_up_all(&mut self, message: &str, effects: &mut Vec<Effect>) {
        for index in 0..self.partitions.len() {
            for queued in self.partitions[index].give_up() {
                let error = SendError::Refused { kind: ErrorKind::NotFound, message: message.to_owned() };
                self.settle(queued.batch, Err(error), effects);
            }
        }
    }

    fn settle(&mut self, batch: BatchId, result: Result<Acked, SendError>, effects: &mut Vec<Effect>) {
        self.unsettled -= 1;
        effects.push(Effect::Complete(batch, result));
    }

    fn pump_all(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for index in 0..self.partitions.len() {
            self.pump(now, PartitionIndex(index as u32), effects);
        }
    }

    fn pump_led_by(&mut self, now: Instant, broker: &BrokerId, effects: &mut Vec<Effect>) {
        for index in 0..self.partitions.len() {
            if self.partitions[index].is_led_by(broker) {
                self.pump(now, PartitionIndex(index as u32), effects);
            }
        }
    }

    /// Sends what may be sent of a partition, or sees to what it lacks.
    fn pump(&mut self, now: Instant, index: PartitionIndex, effects: &mut Vec<Effect>) {
        loop {
            let partition = &mut self.partitions[index.0 as usize];
            if !partition.has_unsent(now) {
                return;
            }
            let Some(leader) = partition.leader.clone() else {
                self.refresh.wanted = true;
                return;
            };
            let link = self.links.entry(leader.broker.clone()).or_default();
            let batches_in_flight = match link.state {
                LinkState::Up { batches_in_flight } => batches_in_flight,
                LinkState::Connecting => return,
                LinkState::Down(retry_at) if now < retry_at => return,
                LinkState::Idle | LinkState::Down(_) => {
                    link.state = LinkState::Connecting;
                    effects.push(Effect::Connect(leader.broker));
                    return;
                }
            };
            let allowed = if self.options.idempotent { batches_in_flight } else { 1 };
            if partition.in_flight >= allowed || link.in_flight >= LINK_BATCHES_MAX {
                return;
            }
            let sequence = match self.options.idempotent {
                true => match self.number(index, effects) {
                    Some(sequence) => Some(sequence),
                    None => return,
                },
                false => None,
            };
            let request = self.next_request;
            // Numbering may have given up every batch that was left.
            let Some(batch) = self.partitions[index.0 as usize].send_next(request) else {
                return;
            };
            self.next_request = RequestId(request.0 + 1);
            self.links.get_mut(&leader.broker).expect("looked at above").in_flight += 1;
            self.requests.insert(request, Sent { broker: leader.broker.clone(), partition: index, at: now });
            effects.push(Effect::Send(Send {
                request,
                broker: leader.broker,
                partition: index,
                leader_epoch: leader.epoch,
                batch,
                sequence,
            }));
        }
    }

    /// The number of the partition's next batch to send; none while there is no identity to number it with.
    fn number(&mut self, index: PartitionIndex, effects: &mut Vec<Effect>) -> Option<(Identity, u32)> {
        let partition = &mut self.partitions[index.0 as usize];
        if partition.needs_new_epoch() {
            // Old numbers may still be on their way; the new epoch begins when each of them has its answer.
            if partition.in_flight > 0 {
                return None;
            }
            let Some(newest) = self.identity.filter(|&newest| partition.identity != Some(newest)) else {
                self.identify.wanted = true;
                return None;
            };
            for unknown in partition.begin_epoch(newest) {
                let reason = "an earlier batch was given up without an answer".to_owned();
                self.settle(unknown, Err(SendError::OutcomeUnknown { reason }), effects);
            }
        }
        self.partitions[index.0 as usize].number_next()
    }
}

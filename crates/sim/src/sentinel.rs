//! A sentinel: the plans that run in earnest, between a cache, requests that wait, and guarded writes of a store that may not
//! answer.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use goulette_sentinel::simulated::{Metadata, Request, Transaction};
use goulette_types::{Incarnation, Timestamp};

use crate::{
    network::Node,
    time::{Clock, Time, millis, seconds},
    world::{Event, Message, World},
};

/// A sentinel's process; it remembers nothing between its lives.
#[derive(Debug)]
pub(crate) struct Sentinel {
    clock: Clock,
    life: u32,
    alive: bool,
    pub(crate) paused_until: Time,
    /// The term in which it believes to lead.
    term: Option<u64>,
    cache: Option<Rc<Metadata>>,
    /// What the cache says is to be read anew before anything is decided on it.
    behind: bool,
    /// When each broker was heard last.
    heard: BTreeMap<u8, Duration>,
    /// Brokers that are probed, and until when.
    probing: BTreeMap<u8, Duration>,
    /// Brokers that registered in this term, in which start of theirs and in which life of the metadata.
    introduced: BTreeMap<u8, (Incarnation, u64)>,
    /// Registrations of brokers whose earlier start is asked first whether it lives, and until when.
    doubtful: BTreeMap<u8, (Duration, Request)>,
    requests: VecDeque<Request>,
    /// The read or write under way.
    attempt: Option<u64>,
    writing: Option<Rc<Transaction>>,
    ticks: u64,
}

const TICK: Time = millis(400);
const SESSION: Duration = Duration::from_secs(6);
const PROBE: Duration = Duration::from_secs(1);
const STORE_PATIENCE: Time = seconds(2);
const PREDECESSOR: Duration = Duration::from_secs(2);
const REQUESTS_MAX: usize = 64;
/// What the clocks say is added to this: one in 2026.
const EPOCH_MS: i64 = 1_780_000_000_000;

impl Sentinel {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            life: 0,
            alive: false,
            paused_until: Time(0),
            term: None,
            cache: None,
            behind: true,
            heard: BTreeMap::new(),
            probing: BTreeMap::new(),
            introduced: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            requests: VecDeque::new(),
            attempt: None,
            writing: None,
            ticks: 0,
        }
    }

    pub(crate) fn crash(&mut self) {
        *self = Self { life: self.life + 1, ..Self::new(self.clock) };
    }

    pub(crate) fn add(&mut self, request: Request) {
        if self.term.is_some() && self.requests.len() < REQUESTS_MAX && !self.requests.contains(&request) {
            self.requests.push_back(request);
        }
    }

    /// A broker registers in this term.
    fn introduce(&mut self, broker: u8, local: Duration, request: Request) {
        let generation = self.cache.as_ref().map_or(0, |metadata| metadata.generation());
        if let Request::Register { incarnation, .. } = &request {
            self.introduced.insert(broker, (*incarnation, generation));
        }
        self.heard.insert(broker, local);
        self.probing.remove(&broker);
        self.add(request);
    }
}

impl World {
    pub(crate) fn start_sentinel(&mut self, index: u8) {
        let sentinel = &mut self.sentinels[index as usize];
        if !sentinel.alive {
            sentinel.alive = true;
            let life = sentinel.life;
            self.after(Time(1), Event::SentinelTick { sentinel: index, life });
        }
    }

    pub(crate) fn sentinel_tick(&mut self, index: u8, life: u32) {
        let now = self.now;
        let sentinel = &mut self.sentinels[index as usize];
        if sentinel.life != life || !sentinel.alive {
            return;
        }
        let local = sentinel.clock.read(now);
        sentinel.ticks += 1;
        let turn = sentinel.ticks;
        self.after(TICK, Event::SentinelTick { sentinel: index, life });
        self.tell_store(index, Message::Campaign { sentinel: index });
        let sentinel = &mut self.sentinels[index as usize];
        let Some(metadata) = sentinel.cache.clone() else { return };
        if turn.is_multiple_of(3) {
            self.push(index, &metadata);
        }
        let sentinel = &mut self.sentinels[index as usize];
        if sentinel.term.is_none() {
            return;
        }
        if turn.is_multiple_of(3) {
            // What others did to the store is told by a watch, sooner or later.
            sentinel.behind = true;
            sentinel.add(Request::Tend);
        }
        let unproven: Vec<_> = sentinel.doubtful.extract_if(.., |_, (until, _)| local > *until).collect();
        for (broker, (_, request)) in unproven {
            sentinel.introduce(broker, local, request);
        }
        let silent: Vec<_> =
            (sentinel.heard.iter()).filter(|(_, at)| local > **at + SESSION).map(|(broker, _)| *broker).collect();
        for broker in silent {
            self.probe(index, broker);
        }
        let sentinel = &mut self.sentinels[index as usize];
        let failed: Vec<_> =
            (sentinel.probing.iter()).filter(|(_, until)| local > **until).map(|(broker, _)| *broker).collect();
        for broker in failed {
            self.unseat(index, broker, &metadata);
        }
        self.next_request(index);
    }

    fn unseat(&mut self, index: u8, broker: u8, metadata: &Metadata) {
        let name = &self.brokers[broker as usize].name;
        let sentinel = &mut self.sentinels[index as usize];
        sentinel.probing.remove(&broker);
        sentinel.heard.remove(&broker);
        if let Some((incarnation, true)) = metadata.known(name) {
            sentinel.add(Request::MarkDown { broker: name.clone(), incarnation });
        }
    }

    fn probe(&mut self, index: u8, broker: u8) {
        let sentinel = &mut self.sentinels[index as usize];
        if sentinel.term.is_some() && !sentinel.probing.contains_key(&broker) {
            let until = sentinel.clock.read(self.now) + PROBE;
            sentinel.probing.insert(broker, until);
            self.call(Node::Sentinel(index), Node::Broker(broker), Message::Probe { sentinel: index });
        }
    }

    /// Tells the brokers what this sentinel believes, which may be old.
    fn push(&mut self, index: u8, metadata: &Metadata) {
        for broker in 0..self.plan.brokers {
            let name = &self.brokers[broker as usize].name;
            if let Some((incarnation, true)) = metadata.known(name) {
                let message = Message::Assign { incarnation, state: metadata.partition() };
                self.call(Node::Sentinel(index), Node::Broker(broker), message);
            }
        }
    }

    fn tell_store(&mut self, index: u8, message: Message) {
        self.exchange(Node::Sentinel(index), Node::Store, message);
    }

    /// Requests to the store and its answers get lost on their own terms; a lost answer makes an unknown outcome.
    fn exchange(&mut self, from: Node, to: Node, message: Message) {
        let lost = !self.healed && self.random.chance(self.plan.store_lost);
        if lost || self.network.is_cut(from, to) {
            return;
        }
        let late = !self.healed && self.random.chance(self.plan.store_lost);
        let delay =
            if late { self.random.time(millis(100), seconds(6)) } else { self.random.time(millis(1), millis(5)) };
        self.after(delay, Event::Deliver { from, to, message });
    }

    pub(crate) fn store_hears(&mut self, message: Message) {
        let (sentinel, answer) = match message {
            Message::Campaign { sentinel } => (sentinel, Message::Term(self.store.campaign(self.now, sentinel))),
            Message::Read { sentinel, attempt } => {
                (sentinel, Message::ReadAnswer { attempt, metadata: Rc::new(self.store.metadata.clone()) })
            }
            Message::Write { sentinel, term, attempt, transaction } => {
                let before = self.store.metadata.partition().version();
                let written = self.store.write(sentinel, term, &transaction);
                self.check_metadata(before);
                (sentinel, Message::WriteAnswer { attempt, written })
            }
            _ => return,
        };
        self.exchange(Node::Store, Node::Sentinel(sentinel), answer);
    }

    pub(crate) fn store_timeout(&mut self, index: u8, life: u32, attempt: u64) {
        let sentinel = &mut self.sentinels[index as usize];
        if sentinel.life == life && sentinel.attempt == Some(attempt) {
            // Whether it was written nobody knows: the request is looked at again, after a read.
            sentinel.attempt = None;
            sentinel.writing = None;
            sentinel.behind = true;
            self.next_request(index);
        }
    }

    /// Plans the next transaction on the cache, and sends it.
    fn next_request(&mut self, index: u8) {
        loop {
            let attempt = self.fresh_id();
            let sentinel = &mut self.sentinels[index as usize];
            let (Some(term), None, Some(request)) = (sentinel.term, sentinel.attempt, sentinel.requests.front()) else {
                return;
            };
            let Some(metadata) = sentinel.cache.clone().filter(|_| !sentinel.behind) else {
                return self.exchange_attempt(index, attempt, |attempt| Message::Read { sentinel: index, attempt });
            };
            let now = Timestamp(EPOCH_MS + sentinel.clock.read(self.now).as_millis() as i64);
            if let Some(transaction) = metadata.next(now, request, self.plan.crowded) {
                let transaction = Rc::new(transaction);
                sentinel.writing = Some(Rc::clone(&transaction));
                let write = |attempt| Message::Write { sentinel: index, term, attempt, transaction };
                return self.exchange_attempt(index, attempt, write);
            }
            // Nothing (more) to write.
            sentinel.requests.pop_front();
            self.push(index, &metadata);
        }
    }

    fn exchange_attempt(&mut self, index: u8, attempt: u64, message: impl FnOnce(u64) -> Message) {
        let sentinel = &mut self.sentinels[index as usize];
        sentinel.attempt = Some(attempt);
        let life = sentinel.life;
        self.after(STORE_PATIENCE, Event::StoreTimeout { sentinel: index, life, attempt });
        self.tell_store(index, message(attempt));
    }

    pub(crate) fn sentinel_hears(&mut self, index: u8, from: Node, message: Message) {
        let now = self.now;
        let sentinel = &mut self.sentinels[index as usize];
        if !sentinel.alive {
            return;
        }
        let local = sentinel.clock.read(now);
        match (message, from) {
            (Message::Term(term), _) => {
                if term.is_some() && sentinel.term != term {
                    // Newly elected: everything is read anew, and every broker gets a full session.
                    sentinel.requests.clear();
                    sentinel.probing.clear();
                    sentinel.doubtful.clear();
                    sentinel.introduced.clear();
                    sentinel.heard = (0..self.plan.brokers).map(|broker| (broker, local)).collect();
                    sentinel.attempt = None;
                    sentinel.behind = true;
                    sentinel.term = term;
                    sentinel.add(Request::Tend);
                }
                sentinel.term = term;
                self.next_request(index);
            }
            (Message::ReadAnswer { attempt, metadata }, _) if sentinel.attempt == Some(attempt) => {
                sentinel.attempt = None;
                sentinel.behind = false;
                sentinel.cache = Some(metadata);
                self.next_request(index);
            }
            (Message::WriteAnswer { attempt, written }, _) if sentinel.attempt == Some(attempt) => {
                sentinel.attempt = None;
                let transaction = sentinel.writing.take();
                let cache = sentinel.cache.as_mut().map(Rc::make_mut);
                sentinel.behind = match (cache, transaction) {
                    (Some(cache), Some(transaction)) if written => !cache.write(&transaction),
                    _ => true,
                };
                if let Some(metadata) = sentinel.cache.clone().filter(|_| !sentinel.behind) {
                    self.push(index, &metadata);
                }
                self.next_request(index);
            }
            (message, Node::Broker(broker)) => self.sentinel_hears_broker(index, broker, local, message),
            (Message::Route, client) => {
                let leader = sentinel.cache.as_ref().and_then(|metadata| metadata.partition().leader);
                let leader = leader.map(|leader| self.index_of(&leader.broker));
                self.call(Node::Sentinel(index), client, Message::RouteAnswer { leader });
            }
            (Message::Unreachable { broker }, _) => self.probe(index, broker),
            _ => {}
        }
    }

    fn sentinel_hears_broker(&mut self, index: u8, broker: u8, local: Duration, message: Message) {
        let name = self.brokers[broker as usize].name.clone();
        let sentinel = &mut self.sentinels[index as usize];
        if sentinel.term.is_none() {
            return;
        }
        match message {
            Message::Register { incarnation, storage, held } => {
                let request = Request::Register { broker: name.clone(), incarnation, storage, held };
                let known = sentinel.cache.as_ref().and_then(|metadata| metadata.known(&name));
                if known.is_some_and(|(known, _)| known != incarnation) {
                    // Two processes under one name? The earlier one may prove that it lives.
                    sentinel.doubtful.insert(broker, (local + PREDECESSOR, request));
                    return self.call(Node::Sentinel(index), Node::Broker(broker), Message::Probe { sentinel: index });
                }
                sentinel.introduce(broker, local, request);
            }
            Message::Heartbeat { incarnation } => {
                let Some(metadata) = &sentinel.cache else { return };
                let introduced = sentinel.introduced.get(&broker) == Some(&(incarnation, metadata.generation()));
                if introduced && metadata.is_live(&name, incarnation) {
                    sentinel.heard.insert(broker, local);
                    sentinel.probing.remove(&broker);
                } else {
                    let again = Message::RegisterAgain { incarnation };
                    self.call(Node::Sentinel(index), Node::Broker(broker), again);
                }
            }
            Message::ProbeAnswer { incarnation } => {
                let Some(metadata) = &sentinel.cache else { return };
                let known = metadata.known(&name).is_some_and(|(known, _)| known == incarnation);
                if known {
                    sentinel.heard.insert(broker, local);
                    sentinel.probing.remove(&broker);
                }
                if let Some((_, request)) = sentinel.doubtful.remove(&broker)
                    && !known
                {
                    sentinel.introduce(broker, local, request);
                }
            }
            Message::Propose(proposal) => sentinel.add(Request::Propose(proposal)),
            Message::HandOver { incarnation } => sentinel.add(Request::HandOver { broker: name, incarnation }),
            Message::Left { incarnation } => sentinel.add(Request::Unregister { broker: name, incarnation }),
            _ => {}
        }
        self.next_request(index);
    }
}

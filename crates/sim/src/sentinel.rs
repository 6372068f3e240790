//! A sentinel: the controller's decisions between reads and guarded writes of a store that may not answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use goulette_replication::{
    PartitionState,
    controller::{self, LiveBroker, Proposal, Reported},
};
use goulette_types::{BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, StorageId};

use crate::{
    network::Node,
    store::{Metadata, Registered},
    time::{Clock, Time, millis, seconds},
    world::{Event, Message, World},
};

/// Something that the leader sentinel has to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Register { broker: u8, incarnation: Incarnation, storage: StorageId, seen: (LeaderEpoch, PartitionEpoch) },
    Down { broker: u8, incarnation: Incarnation },
    HandOver { broker: u8, incarnation: Incarnation },
    Propose(Proposal),
    Report { incarnation: Incarnation, reported: Reported },
    Settle,
    Prefer,
    StartMove(Vec<BrokerId>),
    FinishMove,
    CancelMove,
    SetMinimum(Option<u32>),
    Unclean(BrokerId),
}

/// A sentinel's process; it remembers nothing between its lives.
#[derive(Debug)]
pub(crate) struct Sentinel {
    clock: Clock,
    life: u32,
    alive: bool,
    pub(crate) paused_until: Time,
    /// The term in which it believes to lead.
    term: Option<u64>,
    pub(crate) cache: Option<Metadata>,
    /// When each broker was heard last.
    heard: BTreeMap<u8, Duration>,
    /// Brokers that are probed, and until when.
    probing: BTreeMap<u8, Duration>,
    tasks: VecDeque<Task>,
    /// The read or write under way.
    attempt: Option<u64>,
    writing: Option<Metadata>,
    ticks: u64,
}

const TICK: Time = millis(400);
const SESSION: Duration = Duration::from_secs(6);
const PROBE: Duration = Duration::from_secs(1);
const STORE_PATIENCE: Time = seconds(2);
const TASKS_MAX: usize = 64;

impl Sentinel {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            life: 0,
            alive: false,
            paused_until: Time(0),
            term: None,
            cache: None,
            heard: BTreeMap::new(),
            probing: BTreeMap::new(),
            tasks: VecDeque::new(),
            attempt: None,
            writing: None,
            ticks: 0,
        }
    }

    pub(crate) fn crash(&mut self) {
        *self = Self { life: self.life + 1, ..Self::new(self.clock) };
    }

    /// The first task is written. A change of a broker is followed by what it means for the partition.
    fn task_done(&mut self) {
        if matches!(self.tasks.pop_front(), Some(Task::Register { .. } | Task::Down { .. })) {
            self.tasks.push_front(Task::Settle);
        }
    }

    pub(crate) fn add(&mut self, task: Task) {
        if self.term.is_some() && self.tasks.len() < TASKS_MAX && !self.tasks.contains(&task) {
            self.tasks.push_back(task);
        }
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
        if metadata.partition.moving.is_some() {
            sentinel.add(Task::FinishMove);
        } else if turn.is_multiple_of(12) {
            sentinel.add(Task::Prefer);
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
        self.next_task(index);
    }

    fn unseat(&mut self, index: u8, broker: u8, metadata: &Metadata) {
        let name = &self.brokers[broker as usize].name;
        let sentinel = &mut self.sentinels[index as usize];
        sentinel.probing.remove(&broker);
        sentinel.heard.remove(&broker);
        if let Some(registered) = metadata.brokers.get(name).filter(|registered| registered.live) {
            sentinel.add(Task::Down { broker, incarnation: registered.broker.incarnation });
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
            if let Some(registered) = metadata.brokers.get(name).filter(|registered| registered.live) {
                let incarnation = registered.broker.incarnation;
                let message = Message::Assign { incarnation, state: metadata.partition.clone() };
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
                (sentinel, Message::ReadAnswer { attempt, metadata: Box::new(self.store.metadata.clone()) })
            }
            Message::Write { sentinel, term, attempt, next } => {
                let before = self.store.metadata.partition.version();
                let written = self.store.write(sentinel, term, *next);
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
            // Whether it was written nobody knows: the task is looked at again, and begins with a read.
            sentinel.attempt = None;
            sentinel.writing = None;
            self.next_task(index);
        }
    }

    fn next_task(&mut self, index: u8) {
        let attempt = self.fresh_id();
        let sentinel = &mut self.sentinels[index as usize];
        if sentinel.attempt.is_some() || sentinel.term.is_none() || sentinel.tasks.is_empty() {
            return;
        }
        self.exchange_attempt(index, attempt, |attempt| Message::Read { sentinel: index, attempt });
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
                    sentinel.tasks.clear();
                    sentinel.probing.clear();
                    sentinel.heard = (0..self.plan.brokers).map(|broker| (broker, local)).collect();
                    sentinel.attempt = None;
                    sentinel.term = term;
                    sentinel.add(Task::Settle);
                }
                sentinel.term = term;
                self.next_task(index);
            }
            (Message::ReadAnswer { attempt, metadata }, _) if sentinel.attempt == Some(attempt) => {
                sentinel.attempt = None;
                sentinel.cache = Some((*metadata).clone());
                let (Some(term), Some(task)) = (sentinel.term, sentinel.tasks.front().cloned()) else { return };
                match self.decide_task(&task, &metadata) {
                    Some(next) => {
                        let attempt = self.fresh_id();
                        self.sentinels[index as usize].writing = Some(next.clone());
                        let next = Box::new(next);
                        self.exchange_attempt(index, attempt, |attempt| Message::Write {
                            sentinel: index,
                            term,
                            attempt,
                            next,
                        });
                    }
                    None => {
                        // Nothing to write may mean that it was written, and nobody said so: what follows is due all the same.
                        self.sentinels[index as usize].task_done();
                        self.push(index, &metadata);
                        self.next_task(index);
                    }
                }
            }
            (Message::WriteAnswer { attempt, written }, _) if sentinel.attempt == Some(attempt) => {
                sentinel.attempt = None;
                let next = sentinel.writing.take();
                if let Some(mut next) = next.filter(|_| written) {
                    sentinel.task_done();
                    next.version += 1;
                    sentinel.cache = Some(next.clone());
                    self.push(index, &next);
                }
                self.next_task(index);
            }
            (message, Node::Broker(broker)) => self.sentinel_hears_broker(index, broker, local, message),
            (Message::Route, client) => {
                let leader = sentinel.cache.as_ref().and_then(|metadata| metadata.partition.leader.clone());
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
            Message::Register { incarnation, storage, seen } => {
                sentinel.heard.insert(broker, local);
                sentinel.probing.remove(&broker);
                sentinel.add(Task::Register { broker, incarnation, storage, seen });
            }
            Message::Heartbeat { incarnation, storage } => {
                let Some(metadata) = &sentinel.cache else { return };
                if metadata.is_live(&name, incarnation, storage) {
                    sentinel.heard.insert(broker, local);
                    sentinel.probing.remove(&broker);
                } else {
                    let again = Message::RegisterAgain { incarnation };
                    self.call(Node::Sentinel(index), Node::Broker(broker), again);
                }
            }
            Message::ProbeAnswer { incarnation } => {
                let Some(metadata) = &sentinel.cache else { return };
                let registered = metadata.brokers.get(&name);
                if registered.is_some_and(|registered| registered.broker.incarnation == incarnation) {
                    sentinel.heard.insert(broker, local);
                    sentinel.probing.remove(&broker);
                }
            }
            Message::Propose(proposal) => sentinel.add(Task::Propose(proposal)),
            Message::HandOver { incarnation } => sentinel.add(Task::HandOver { broker, incarnation }),
            Message::Left { incarnation } => sentinel.add(Task::Down { broker, incarnation }),
            Message::Report { incarnation, reported } => sentinel.add(Task::Report { incarnation, reported }),
            _ => {}
        }
        self.next_task(index);
    }

    /// The metadata after a task; `None` if it changes nothing.
    fn decide_task(&self, task: &Task, metadata: &Metadata) -> Option<Metadata> {
        let state = &metadata.partition;
        let mut next = metadata.clone();
        let decided: Result<PartitionState, _> = match task {
            Task::Register { broker, incarnation, storage, seen } => {
                let name = self.brokers[*broker as usize].name.clone();
                if !metadata.is_live(&name, *incarnation, *storage) {
                    let broker = LiveBroker { incarnation: *incarnation, storage: *storage, may_lead: true };
                    next.brokers.insert(name, Registered { broker, live: true });
                }
                let suspected = controller::suspect(state, seen.0, seen.1);
                if suspected.is_ok() || self.plan.split_registration {
                    suspected
                } else {
                    controller::settle(state, &next)
                }
            }
            Task::Down { broker, incarnation } => {
                let name = &self.brokers[*broker as usize].name;
                let registered = next.brokers.get_mut(name)?;
                if registered.broker.incarnation != *incarnation || !registered.live {
                    return None;
                }
                registered.live = false;
                controller::settle(state, &next)
            }
            Task::HandOver { broker, incarnation } => {
                let name = &self.brokers[*broker as usize].name;
                let registered = next.brokers.get_mut(name)?;
                if registered.broker.incarnation != *incarnation {
                    return None;
                }
                registered.broker.may_lead = false;
                controller::hand_over(state, name, &next)
            }
            Task::Propose(proposal) => controller::propose_isr(state, proposal, metadata),
            Task::Report { incarnation, reported } => {
                let Reported { member, .. } = reported;
                if !metadata.is_live(&member.broker, *incarnation, member.storage) {
                    return None;
                }
                controller::report(state, reported, metadata)
            }
            Task::Settle => controller::settle(state, metadata),
            Task::Prefer => controller::elect(state, state.replicas.first()?, metadata),
            Task::StartMove(to) => controller::start_move(state, to),
            Task::FinishMove => controller::finish_move(state, metadata),
            Task::CancelMove => controller::cancel_move(state, metadata),
            Task::SetMinimum(minimum) => controller::set_minimum(state, *minimum),
            Task::Unclean(broker) => controller::elect_unclean(state, broker, metadata),
        };
        if let Ok(partition) = decided {
            next.partition = partition;
        }
        (next != *metadata).then_some(next)
    }
}

//! The event loop: one queue, one clock, everybody's state.

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc};

use goulette_replication::{Member, PartitionState, Stream, ToFollower, ToLeader, controller::Proposal};
use goulette_sentinel::simulated::{Held, Metadata, Transaction};
use goulette_types::{Acks, BrokerId, Incarnation, LeaderEpoch, StorageId};

use crate::{
    broker::Broker,
    client::Clients,
    disk::Record,
    faults::Backups,
    network::{Fate, Network, Node},
    oracle::Oracle,
    plan::Plan,
    random::Random,
    sentinel::Sentinel,
    store::Store,
    time::{Clock, Time, micros, millis, seconds},
    trace::Trace,
};

/// What somebody says to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    // On streams between brokers.
    Open(Stream),
    Opened(Stream),
    ToLeader(ToLeader),
    ToFollower(ToFollower),
    Batches { stream: Stream, epoch: LeaderEpoch, base: u64, records: Vec<Record>, committed: u64, start: u64 },
    // Between brokers and sentinels.
    Register { incarnation: Incarnation, storage: StorageId, held: Held },
    Heartbeat { incarnation: Incarnation },
    RegisterAgain { incarnation: Incarnation },
    Assign { incarnation: Incarnation, state: PartitionState },
    Propose(Proposal),
    HandOver { incarnation: Incarnation },
    Left { incarnation: Incarnation },
    Probe { sentinel: u8 },
    ProbeAnswer { incarnation: Incarnation },
    // Between sentinels and the store.
    Campaign { sentinel: u8 },
    Term(Option<u64>),
    Read { sentinel: u8, attempt: u64 },
    ReadAnswer { attempt: u64, metadata: Rc<Metadata> },
    Write { sentinel: u8, term: u64, attempt: u64, transaction: Rc<Transaction> },
    WriteAnswer { attempt: u64, written: bool },
    // Of clients.
    Route,
    RouteAnswer { leader: Option<u8> },
    Unreachable { broker: u8 },
    Produce { op: u64, acks: Acks },
    Produced { op: u64, result: Result<(Acks, u64), Refusal> },
    Fetch { op: u64, offset: u64 },
    Fetched { op: u64, base: u64, records: Vec<Record> },
    AskEnd { op: u64 },
    EndIs { op: u64, end: u64 },
}

/// Why a producer got no ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    Refused,
    Unknown,
}

/// What happens next.
#[allow(clippy::large_enum_variant, reason = "nearly all events are deliveries; boxing them would cost what it saves")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Deliver {
        from: Node,
        to: Node,
        message: Message,
    },
    /// A node notices that a stream is broken.
    StreamClosed {
        at: Node,
        peer: Node,
        stream: Stream,
    },
    Start {
        broker: u8,
    },
    BrokerTick {
        broker: u8,
        life: u32,
    },
    Synced {
        broker: u8,
        life: u32,
        entries: usize,
    },
    Connect {
        broker: u8,
        life: u32,
    },
    StartSentinel {
        sentinel: u8,
    },
    SentinelTick {
        sentinel: u8,
        life: u32,
    },
    StoreTimeout {
        sentinel: u8,
        life: u32,
        attempt: u64,
    },
    ClientTick {
        client: u8,
    },
    Fault,
    Mend,
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// What a run did, for people and for the check that it did anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events handled.
    pub events: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// Faults of all kinds.
    pub faults: u64,
    /// Leaderships that began.
    pub elections: u64,
    /// Records acknowledged as committed.
    pub acked: u64,
    /// Records whose outcome no client learnt.
    pub unknown: u64,
    /// Records refused before the append.
    pub refused: u64,
    /// Records that consumers read.
    pub consumed: u64,
    /// Reads that had to be fresh, and were answered.
    pub fresh_reads: u64,
    /// Disks that were replaced by empty ones.
    pub wiped: u64,
    /// Times that the metadata was restored from a backup.
    pub restored: u64,
    /// Unclean elections that the operator ordered.
    pub unclean: u64,
    /// Runs in which restored metadata elected a log that lacks the unacknowledged tail that a later leader had committed:
    /// replicas that know of it stop, and so does the run.
    pub parted: u64,
}

impl Stats {
    /// Adds up.
    pub fn add(&mut self, other: &Stats) {
        let Stats { events, simulated_ms, faults, elections, acked, unknown, refused, consumed, fresh_reads, .. } =
            other;
        self.events += events;
        self.simulated_ms += simulated_ms;
        self.faults += faults;
        self.elections += elections;
        self.acked += acked;
        self.unknown += unknown;
        self.refused += refused;
        self.consumed += consumed;
        self.fresh_reads += fresh_reads;
        self.wiped += other.wiped;
        self.restored += other.restored;
        self.unclean += other.unclean;
        self.parted += other.parted;
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The digest of everything that happened.
    pub trace: u64,
    /// What it did.
    pub stats: Stats,
    /// The first promise that was broken.
    pub violation: Option<String>,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
    pub(crate) network: Network,
    pub(crate) store: Store,
    pub(crate) backups: Backups,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) sentinels: Vec<Sentinel>,
    pub(crate) clients: Clients,
    pub(crate) oracle: Oracle,
    /// The faults are over.
    pub(crate) healed: bool,
    verbose: bool,
    ids: u64,
}

/// Runs a seed's plan.
pub fn run(seed: u64) -> Outcome {
    run_plan(seed, Plan::of(seed), false)
}

/// Runs a plan with the chances of a seed; `verbose` prints every event.
pub fn run_plan(seed: u64, plan: Plan, verbose: bool) -> Outcome {
    let mut world = World::new(seed, plan, verbose);
    world.live();
    world.stats.simulated_ms = world.now.0 / 1000;
    Outcome { trace: world.trace.digest(), stats: world.stats, violation: world.oracle.violation() }
}

/// After the faults, all replicas must be in sync and every producer must have been acknowledged within this time.
const CONVERGES_WITHIN: Time = seconds(60);
/// If nobody can lead for so long after the faults, the operator orders an unclean election.
const OPERATOR_ACTS_AFTER: Time = seconds(25);
/// And then all logs must be the same within this one.
const SETTLES_WITHIN: Time = seconds(20);

impl World {
    fn new(seed: u64, plan: Plan, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let clock = |random: &mut Random| Clock {
            offset: random.time(Time(1), seconds(1000)),
            rate: random.between(1000 - plan.drift, 1001 + plan.drift),
        };
        let brokers: Vec<_> = (0..plan.brokers)
            .map(|index| Broker::new(index, clock(&mut random), StorageId(u128::from(index) + 1)))
            .collect();
        let sentinels = (0..plan.sentinels).map(|_| Sentinel::new(clock(&mut random))).collect();
        let members = brokers[..plan.replicas as usize]
            .iter()
            .map(|broker| Member { broker: broker.name.clone(), storage: broker.disk.storage })
            .collect();
        let partition = PartitionState::new(members, plan.min_wanted);
        let clients = Clients::new(&plan);
        let mut world = Self {
            random,
            now: Time(0),
            queue: BinaryHeap::new(),
            sequence: 0,
            trace: Trace::new(),
            stats: Stats::default(),
            network: Network::default(),
            store: Store::new(Metadata::new(partition)),
            backups: Backups::default(),
            brokers,
            sentinels,
            clients,
            oracle: Oracle::default(),
            healed: false,
            verbose,
            ids: 1000,
            plan,
        };
        for broker in 0..world.plan.brokers {
            let at = world.random.time(Time(0), seconds(2));
            world.at(at, Event::Start { broker });
        }
        for sentinel in 0..world.plan.sentinels {
            let at = world.random.time(Time(0), millis(500));
            world.at(at, Event::StartSentinel { sentinel });
        }
        for client in 0..world.clients.count() {
            let at = world.random.time(millis(500), seconds(3));
            world.at(at, Event::ClientTick { client });
        }
        let first = seconds(4) + world.plan.fault_every;
        world.at(first, Event::Fault);
        world
    }

    fn live(&mut self) {
        while self.now < self.plan.faults_until && self.step() {}
        self.heal();
        let deadline = self.now + CONVERGES_WITHIN;
        let operator = self.now + OPERATOR_ACTS_AFTER;
        let mut look = self.now;
        loop {
            if !self.step() {
                return;
            }
            if self.now < look {
                continue;
            }
            look = self.now + millis(500);
            if self.converged() {
                break;
            }
            if self.now > operator {
                self.order_unclean_election();
            }
            if self.now > deadline {
                let why = self.why_not_converged();
                return self.oracle.fail(format!("not converged a minute after the last fault: {why}"));
            }
        }
        self.clients.stop_producing();
        let deadline = self.now + SETTLES_WITHIN;
        while self.now < deadline {
            if !self.step() {
                return;
            }
            if self.now >= look {
                look = self.now + millis(500);
                if self.settled() {
                    return self.final_check();
                }
            }
        }
        self.oracle.fail("the replicas' logs are not the same 20 s after the last record".to_owned());
    }

    /// Handles the next event; false if a promise is broken.
    fn step(&mut self) -> bool {
        let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else {
            self.oracle.fail("nothing happens any more".to_owned());
            return false;
        };
        self.now = self.now.max(at);
        if let Some(resumes) = self.paused(&event) {
            self.at(resumes, event);
            return true;
        }
        self.stats.events += 1;
        self.trace.note(&(self.now, &event));
        if self.verbose {
            println!("{:>12.6} {event:?}", self.now.0 as f64 / 1e6);
        }
        self.handle(event);
        self.oracle.violation().is_none() && self.stats.parted == 0
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => match to {
                Node::Broker(broker) => self.broker_hears(broker, from, message),
                Node::Sentinel(sentinel) => self.sentinel_hears(sentinel, from, message),
                Node::Client(client) => self.client_hears(client, message),
                Node::Store => self.store_hears(message),
            },
            Event::StreamClosed { at: Node::Broker(broker), peer: Node::Broker(peer), stream } => {
                self.stream_closed(broker, peer, stream);
            }
            Event::StreamClosed { .. } => {}
            Event::Start { broker } => self.start_broker(broker),
            Event::BrokerTick { broker, life } => self.broker_tick(broker, life),
            Event::Synced { broker, life, entries } => self.synced(broker, life, entries),
            Event::Connect { broker, life } => self.connect(broker, life),
            Event::StartSentinel { sentinel } => self.start_sentinel(sentinel),
            Event::SentinelTick { sentinel, life } => self.sentinel_tick(sentinel, life),
            Event::StoreTimeout { sentinel, life, attempt } => self.store_timeout(sentinel, life, attempt),
            Event::ClientTick { client } => self.client_tick(client),
            Event::Fault => self.fault(),
            Event::Mend => self.network.mend(),
        }
    }

    /// Until when the node that an event concerns is stopped.
    fn paused(&self, event: &Event) -> Option<Time> {
        let node = match event {
            Event::Deliver { to, .. } => *to,
            Event::StreamClosed { at, .. } => *at,
            Event::BrokerTick { broker, .. } | Event::Synced { broker, .. } | Event::Connect { broker, .. } => {
                Node::Broker(*broker)
            }
            Event::SentinelTick { sentinel, .. } | Event::StoreTimeout { sentinel, .. } => Node::Sentinel(*sentinel),
            _ => return None,
        };
        let until = match node {
            Node::Broker(broker) => self.brokers[broker as usize].paused_until,
            Node::Sentinel(sentinel) => self.sentinels[sentinel as usize].paused_until,
            Node::Client(_) | Node::Store => return None,
        };
        (until > self.now).then_some(until)
    }

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at, sequence: self.sequence, event }));
    }

    pub(crate) fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now + delay, event);
    }

    /// An id that no one else has.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A call: it arrives, or not, or twice, in any order with others.
    pub(crate) fn call(&mut self, from: Node, to: Node, message: Message) {
        let arrivals = self.network.call(&self.plan, &mut self.random, self.now, from, to);
        for at in arrivals {
            self.at(at, Event::Deliver { from, to, message: message.clone() });
        }
    }

    /// A message on a stream between brokers.
    pub(crate) fn send(&mut self, from: u8, to: u8, stream: Stream, message: Message) {
        let (from, to) = (Node::Broker(from), Node::Broker(to));
        match self.network.send(&self.plan, &mut self.random, self.now, stream, from, to) {
            Fate::Arrives(at) => self.at(at, Event::Deliver { from, to, message }),
            Fate::Breaks => self.break_stream(stream),
            Fate::Gone => {}
        }
    }

    /// A stream carries nothing any more; each end notices in its own time.
    pub(crate) fn break_stream(&mut self, stream: Stream) {
        let Some([one, other]) = self.network.close(stream) else { return };
        for (at, peer) in [(one, other), (other, one)] {
            let long = if self.random.chance(200) { seconds(4) } else { millis(100) };
            let delay = self.random.time(micros(100), long);
            self.after(delay, Event::StreamClosed { at, peer, stream });
        }
    }

    pub(crate) fn index_of(&self, broker: &BrokerId) -> u8 {
        let found = self.brokers.iter().position(|other| other.name == *broker);
        found.map_or(0, |index| index as u8)
    }

    pub(crate) fn sentinel_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (0..self.plan.sentinels).map(Node::Sentinel)
    }
}

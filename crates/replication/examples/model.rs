//! `make model`: every order of a few operations on three replicas, breadth first, over the real cores.
//!
//! It begins with a leader and two followers in sync. One partition, three brokers, an arbiter that decides atomically; messages in flight between each pair in order, proposals in
//! flight in any order (each may be accepted late, or lost). The bounds are on crashes, on brokers marked down (rightly or
//! not), on records and on states. Broken promises end the search with the shortest way to them.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    process::ExitCode,
    time::Duration,
};

use goulette_replication::{
    BatchFacts, Effect, FromLeader, LeaderId, LogView, Member, PartitionState, Replica, ReplicaOptions, Stream,
    ToFollower, ToLeader,
    controller::{self, LiveBroker, Proposal},
};
use goulette_types::{BrokerId, Incarnation, LeaderEpoch, Offset, StorageId};

const BROKERS: usize = 3;

/// A record: its epoch, and a number of its own.
type Record = (LeaderEpoch, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Message {
    Up(ToLeader),
    Down(ToFollower),
    Batch { stream: Stream, epoch: LeaderEpoch, base: u64, record: Record, committed: Offset },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Broker {
    replica: Option<Replica>,
    log: Vec<Record>,
    incarnation: u128,
    feeds: BTreeMap<Stream, (usize, u64)>,
}

/// What is left to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    crashes: u8,
    marks: u8,
    records: u8,
    late: u8,
}

#[derive(Clone, Debug, Hash)]
struct World {
    store: PartitionState,
    live: BTreeMap<BrokerId, LiveBroker>,
    brokers: Vec<Broker>,
    queues: BTreeMap<(usize, usize), VecDeque<Message>>,
    proposals: Vec<Proposal>,
    truth: Vec<Record>,
    budget: Budget,
    broken: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver(usize, usize),
    Learn(usize),
    Produce(usize),
    Crash(usize),
    Restart(usize),
    MarkDown(usize),
    Register(usize),
    Accept(usize),
    Lose(usize),
    /// The leader finds that everybody lags.
    Late(usize),
}

fn name(index: usize) -> BrokerId {
    ["a", "b", "c"][index].parse().expect("a name")
}

fn index(broker: &BrokerId) -> usize {
    (0..BROKERS).find(|index| name(*index) == *broker).unwrap_or(0)
}

fn member(index: usize) -> Member {
    Member { broker: name(index), storage: StorageId(index as u128) }
}

impl World {
    fn new(budget: Budget) -> Self {
        let broker = Broker { replica: None, log: Vec::new(), incarnation: 0, feeds: BTreeMap::new() };
        let mut world = Self {
            store: PartitionState::new((0..BROKERS).map(member).collect(), None),
            live: BTreeMap::new(),
            brokers: vec![broker; BROKERS],
            queues: BTreeMap::new(),
            proposals: Vec::new(),
            truth: Vec::new(),
            budget,
            broken: None,
        };
        for index in 0..BROKERS {
            world.start(index);
            world.live.insert(name(index), world.registration(index));
        }
        world.decide(controller::settle(&world.store, &world.live));
        world.calm();
        world
    }

    /// Everybody learns what is stored, and everything arrives: the search begins with a leader and two in-sync followers.
    fn calm(&mut self) {
        (0..BROKERS).for_each(|at| self.take(Action::Learn(at)));
        while let Some((&(from, to), _)) = self.queues.iter().find(|(_, queue)| !queue.is_empty()) {
            self.take(Action::Deliver(from, to));
        }
    }

    fn registration(&self, index: usize) -> LiveBroker {
        let incarnation = Incarnation(self.brokers[index].incarnation);
        LiveBroker { incarnation, storage: StorageId(index as u128), may_lead: true }
    }

    fn start(&mut self, index: usize) {
        let broker = &mut self.brokers[index];
        broker.incarnation += 1;
        let mut log = LogView::default();
        for (base, (epoch, _)) in broker.log.iter().enumerate() {
            log.epochs.note(*epoch, Offset(base as u64));
        }
        let log = LogView::opened(Offset(0), Offset(broker.log.len() as u64), Offset(0), log.epochs);
        let incarnation = Incarnation(broker.incarnation);
        broker.replica = Some(Replica::new(member(index), incarnation, log, ReplicaOptions::default()));
    }

    fn decide(&mut self, decided: Result<PartitionState, controller::Refusal>) {
        let Ok(next) = decided else { return };
        let elected = next.leader_epoch > self.store.leader_epoch;
        self.store = next;
        let leader = self.store.leader.as_ref().map(|leader| index(&leader.broker));
        if let (true, Some(leader)) = (elected, leader)
            && !self.brokers[leader].log.starts_with(&self.truth)
        {
            self.broken = Some(format!("broker {leader} is elected without all that is committed"));
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let queues = self.queues.iter().filter(|(_, queue)| !queue.is_empty());
        actions.extend(queues.map(|((from, to), _)| Action::Deliver(*from, *to)));
        for index in 0..BROKERS {
            let live = self.live.get(&name(index));
            if live.is_some() && self.budget.marks > 0 {
                actions.push(Action::MarkDown(index));
            }
            let Some(replica) = &self.brokers[index].replica else {
                actions.push(Action::Restart(index));
                continue;
            };
            if self.budget.crashes > 0 {
                actions.push(Action::Crash(index));
            }
            if live != Some(&self.registration(index)) {
                actions.push(Action::Register(index));
            }
            if live.is_some() && replica.state().is_none_or(|known| known.version() < self.store.version()) {
                actions.push(Action::Learn(index));
            }
            if replica.leader().is_some() && self.budget.records > 0 {
                actions.push(Action::Produce(index));
            }
            if replica.leader().is_some() && self.budget.late > 0 {
                actions.push(Action::Late(index));
            }
        }
        for at in 0..self.proposals.len() {
            actions.extend([Action::Accept(at), Action::Lose(at)]);
        }
        actions
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Deliver(from, to) => {
                let message = self.queues.get_mut(&(from, to)).and_then(VecDeque::pop_front);
                if let Some(message) = message {
                    self.deliver(from, to, message);
                }
            }
            Action::Learn(at) => {
                let state = self.store.clone();
                self.step(at, Duration::ZERO, |replica, now, effects| replica.update(now, state, effects));
            }
            Action::Produce(at) => {
                self.budget.records -= 1;
                let broker = &mut self.brokers[at];
                let Some(replica) = &mut broker.replica else { return };
                let Ok(epoch) = replica.admit(true) else { return };
                let base = broker.log.len() as u64;
                if !replica.appended(Offset(base), Offset(base + 1)) {
                    self.broken = Some(format!("broker {at} cannot go on at {base}"));
                    return;
                }
                broker.log.push((epoch, self.budget.records));
                self.step(at, Duration::ZERO, |replica, now, effects| replica.durable(now, Offset(base + 1), effects));
                self.feed(at);
            }
            Action::Crash(at) => {
                self.budget.crashes -= 1;
                self.brokers[at].replica = None;
                self.brokers[at].feeds.clear();
                self.queues.retain(|(from, to), _| *from != at && *to != at);
                for other in 0..BROKERS {
                    for stream in [stream(self, at, other), stream(self, other, at)] {
                        self.brokers[other].feeds.remove(&stream);
                        self.step(other, Duration::ZERO, |replica, _, _| replica.stream_closed(&name(at), stream));
                    }
                }
            }
            Action::Restart(at) => self.start(at),
            Action::MarkDown(at) => {
                self.budget.marks -= 1;
                self.live.remove(&name(at));
                self.decide(controller::settle(&self.store, &self.live));
            }
            Action::Register(at) => {
                self.live.insert(name(at), self.registration(at));
                self.decide(controller::settle(&self.store, &self.live));
            }
            Action::Accept(at) => {
                let proposal = self.proposals.remove(at);
                self.decide(controller::propose_isr(&self.store, &proposal, &self.live));
            }
            Action::Lose(at) => {
                self.proposals.remove(at);
            }
            Action::Late(at) => {
                self.budget.late -= 1;
                self.step(at, Duration::from_secs(10), |replica, now, effects| replica.tick(now, effects));
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Up(message) => {
                self.step(to, Duration::ZERO, |replica, now, effects| {
                    replica.from_follower(now, &name(from), message, effects);
                });
            }
            Message::Down(message) => {
                self.step(to, Duration::ZERO, |replica, _, effects| replica.from_leader(message, effects))
            }
            Message::Batch { stream, epoch, base, record, committed } => {
                let facts = BatchFacts { base: Offset(base), end: Offset(base + 1), epoch: record.0 };
                let broker = &mut self.brokers[to];
                let Some(replica) = &mut broker.replica else { return };
                if replica.offer(stream, epoch, &facts).is_err() {
                    return;
                }
                broker.log.push(record);
                let message = ToFollower { stream, leader_epoch: epoch, body: FromLeader::Committed(committed) };
                self.step(to, Duration::ZERO, |replica, now, effects| {
                    replica.durable(now, Offset(base + 1), effects);
                    replica.from_leader(message, effects);
                });
            }
        }
    }

    fn step(&mut self, at: usize, now: Duration, call: impl FnOnce(&mut Replica, Duration, &mut Vec<Effect>)) {
        let Some(replica) = &mut self.brokers[at].replica else { return };
        let mut effects = Vec::new();
        call(replica, now, &mut effects);
        for effect in effects {
            self.act(at, effect);
        }
    }

    fn act(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::ToFollower { broker, message } => self.send(at, index(&broker), Message::Down(message)),
            Effect::ToLeader { leader, message } => self.send(at, index(&leader), Message::Up(message)),
            Effect::Feed { broker, stream, from } => {
                self.brokers[at].feeds.insert(stream, (index(&broker), from.0));
                self.feed(at);
            }
            Effect::Follow { leader } => {
                let stream = stream(self, at, index(&leader));
                self.step(at, Duration::ZERO, |replica, _, effects| replica.stream_opened(stream, effects));
            }
            Effect::Refused { .. } => {
                let leader = self.brokers[at].replica.as_ref().and_then(|replica| replica.follows()).cloned();
                // Again, once the leader that is named leads: a real shell pauses meanwhile.
                if let Some(LeaderId { broker, .. }) = leader
                    && self.brokers[index(&broker)].replica.as_ref().is_some_and(|other| other.leader().is_some())
                {
                    self.act(at, Effect::Follow { leader: broker });
                }
            }
            Effect::Truncate { to, restart } => {
                self.brokers[at].log.truncate(to.0 as usize);
                self.step(at, Duration::ZERO, |replica, now, effects| replica.truncated(now, to, restart, effects));
            }
            Effect::Committed(committed) => self.committed(at, committed.0 as usize),
            Effect::Leads(_) | Effect::Resigned(_) => {
                self.brokers[at].feeds.clear();
            }
            Effect::Propose(proposal) => self.proposals.push(proposal),
            Effect::Stopped(reason) => self.broken = Some(format!("broker {at} stopped: {reason}")),
            Effect::Fresh { .. } | Effect::ReportWanted | Effect::Stale { .. } => {}
        }
    }

    fn committed(&mut self, at: usize, committed: usize) {
        let broker = &self.brokers[at];
        let leads = broker.replica.as_ref().is_some_and(|replica| replica.leader().is_some());
        if leads && committed > self.truth.len() && committed <= broker.log.len() {
            self.truth.extend_from_slice(&broker.log[self.truth.len()..committed]);
        }
        if broker.log.get(..committed).is_none_or(|held| !self.truth.starts_with(held)) {
            self.broken = Some(format!("broker {at} calls {:?} committed, which {:?} is", broker.log, self.truth));
        }
    }

    fn feed(&mut self, at: usize) {
        let broker = &mut self.brokers[at];
        let Some(replica) = &broker.replica else { return };
        let Some(leader) = replica.leader() else { return };
        let (epoch, committed) = (leader.epoch(), replica.log().committed);
        let mut sent = Vec::new();
        for (&stream, (to, next)) in &mut broker.feeds {
            while let Some(&record) = broker.log.get(*next as usize) {
                sent.push((*to, Message::Batch { stream, epoch, base: *next, record, committed }));
                *next += 1;
            }
        }
        for (to, message) in sent {
            self.send(at, to, message);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.brokers[to].replica.is_some() {
            self.queues.entry((from, to)).or_default().push_back(message);
        }
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// The stream that a follower's start has to a leader's.
fn stream(world: &World, follower: usize, leader: usize) -> Stream {
    let start = |index: usize| world.brokers[index].incarnation as u64;
    Stream(((follower as u64 * 10 + start(follower)) * 10 + leader as u64) * 10 + start(leader))
}

fn main() -> ExitCode {
    let states_max: usize = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let budget = Budget { crashes: 1, marks: 1, records: 2, late: 1 };
    let first = World::new(budget);
    let mut seen = HashSet::from([first.digest()]);
    let mut ways: Vec<(usize, Action)> = Vec::new();
    let mut level = vec![(usize::MAX, first)];
    let mut depth = 0;
    let mut commits = 0;
    while !level.is_empty() && seen.len() < states_max {
        depth += 1;
        let mut next = Vec::new();
        'level: for (way, world) in level {
            for action in world.actions() {
                let mut after = world.clone();
                after.take(action);
                let known = !seen.insert(after.digest());
                if known && after.broken.is_none() {
                    continue;
                }
                ways.push((way, action));
                if let Some(what) = after.broken {
                    println!("broken after {depth} steps: {what}");
                    let mut at = ways.len() - 1;
                    while at != usize::MAX {
                        println!("  (backwards) {:?}", ways[at].1);
                        at = ways[at].0;
                    }
                    return ExitCode::FAILURE;
                }
                commits += usize::from(!after.truth.is_empty());
                next.push((ways.len() - 1, after));
                if seen.len() >= states_max {
                    break 'level;
                }
            }
        }
        println!("depth {depth}: {} states, {} new", seen.len(), next.len());
        level = next;
    }
    let whole = if level.is_empty() { "all of them" } else { "the bound" };
    println!(
        "{} states ({whole}) to depth {depth}, {commits} with committed records, no promise broken; {budget:?}",
        seen.len()
    );
    if commits == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

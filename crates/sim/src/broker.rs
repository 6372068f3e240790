//! A broker: the replication core over a simulated disk and network. The shell is as thin as the real one should be.

use std::collections::BTreeMap;

use goulette_replication::{
    Effect, FreshRead, FromLeader, LogView, Member, Outcome, Replica, ReplicaOptions, Report, Role, Stream, ToFollower,
    Waiters,
};
use goulette_sentinel::simulated::Held;
use goulette_types::{Acks, BrokerId, Incarnation, LeaderEpoch, Offset, StorageId};

mod hears;

use crate::{
    disk::{Disk, Entry, Log},
    network::Node,
    time::{Clock, Time, micros, millis, seconds},
    world::{Event, Message, Refusal, World},
};

/// A machine that runs a broker, or does not at the moment.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: BrokerId,
    clock: Clock,
    pub(crate) disk: Disk,
    /// Disks that were replaced.
    pub(crate) replaced: Vec<Disk>,
    life: u32,
    pub(crate) process: Option<Process>,
    pub(crate) paused_until: Time,
    pub(crate) slow_until: Time,
}

/// One start of a broker.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    pub(crate) replica: Replica,
    /// The log as it is written, synced or not.
    pub(crate) log: Log,
    syncing: bool,
    waiters: Waiters<(Node, u64, u64)>,
    fresh: BTreeMap<FreshRead, (Node, u64)>,
    /// Streams to other brokers, which outlive a leadership, and whether the other end stands.
    up: BTreeMap<u8, (Stream, bool)>,
    /// Streams from followers, and what is to be sent next.
    down: BTreeMap<Stream, (u8, Option<u64>)>,
    registered: bool,
    /// It has been asked what it holds; that an old sentinel tells something changes nothing about it.
    report_due: bool,
    pub(crate) stopping: Option<Time>,
}

const TICK: Time = millis(500);
const FRAME: u64 = 16;

impl Broker {
    pub(crate) fn new(index: u8, clock: Clock, storage: StorageId) -> Self {
        let name = format!("b{index}").parse().expect("a broker's name");
        let disk = Disk::new(storage);
        let (paused_until, slow_until) = (Time(0), Time(0));
        Self { name, clock, disk, replaced: Vec::new(), life: 0, process: None, paused_until, slow_until }
    }

    /// The log of one of the disks that this machine ever had.
    pub(crate) fn log_of(&self, storage: StorageId) -> Option<&Log> {
        let disks = std::iter::once(&self.disk).chain(&self.replaced);
        disks.into_iter().find(|disk| disk.storage == storage).map(|disk| &disk.synced)
    }
}

impl Process {
    fn is_up(&self, stream: Stream) -> bool {
        self.up.values().any(|(known, _)| *known == stream)
    }
}

impl World {
    pub(crate) fn start_broker(&mut self, index: u8) {
        if self.brokers[index as usize].process.is_some() {
            return;
        }
        let incarnation = Incarnation(u128::from(self.fresh_id()));
        let broker = &mut self.brokers[index as usize];
        broker.life += 1;
        let log = broker.disk.synced.clone();
        let view = LogView::opened(Offset(log.start), Offset(log.end()), Offset(broker.disk.committed), log.epochs());
        let me = Member { broker: broker.name.clone(), storage: broker.disk.storage };
        broker.process = Some(Process {
            incarnation,
            replica: Replica::new(me, incarnation, view, ReplicaOptions::default()),
            log,
            syncing: false,
            waiters: Waiters::new(LeaderEpoch(0)),
            fresh: BTreeMap::new(),
            up: BTreeMap::new(),
            down: BTreeMap::new(),
            registered: false,
            report_due: false,
            stopping: None,
        });
        let life = broker.life;
        self.check_opened(index);
        self.after(Time(1), Event::BrokerTick { broker: index, life });
    }

    /// The process dies: what is not synced is lost, or some of it.
    pub(crate) fn crash_broker(&mut self, index: u8) {
        for stream in self.network.streams_of(Node::Broker(index)) {
            self.break_stream(stream);
        }
        let broker = &mut self.brokers[index as usize];
        broker.life += 1;
        broker.process = None;
        broker.paused_until = self.now;
        broker.disk.crash(&mut self.random);
    }

    fn process(&mut self, index: u8) -> Option<&mut Process> {
        self.brokers[index as usize].process.as_mut()
    }

    fn alive(&self, index: u8, life: u32) -> bool {
        let broker = &self.brokers[index as usize];
        broker.life == life && broker.process.is_some()
    }

    /// Lets the core decide, then acts.
    fn decide(&mut self, index: u8, decide: impl FnOnce(&mut Replica, std::time::Duration, &mut Vec<Effect>)) {
        let broker = &mut self.brokers[index as usize];
        let now = broker.clock.read(self.now);
        let Some(process) = &mut broker.process else { return };
        let mut effects = Vec::new();
        decide(&mut process.replica, now, &mut effects);
        for effect in effects {
            self.act(index, effect);
        }
    }

    fn act(&mut self, index: u8, effect: Effect) {
        let life = self.brokers[index as usize].life;
        match effect {
            Effect::ToFollower { broker, message } => {
                let to = self.index_of(&broker);
                self.send(index, to, message.stream, Message::ToFollower(message));
            }
            Effect::ToLeader { leader, message } => {
                let to = self.index_of(&leader);
                self.send(index, to, message.stream, Message::ToLeader(message));
            }
            Effect::Feed { broker, stream, from } => {
                let to = self.index_of(&broker);
                let Some(process) = self.process(index) else { return };
                if let Some(down) = process.down.get_mut(&stream).filter(|(peer, _)| *peer == to) {
                    down.1 = Some(from.0);
                }
                self.feed(index);
            }
            Effect::Follow { .. } => {
                self.after(micros(10), Event::Connect { broker: index, life });
            }
            Effect::Truncate { to, restart } => self.write(index, Entry::Truncate { to: to.0, restart }),
            Effect::Committed(committed) => {
                self.check_committed(index, committed.0);
                self.tell_waiters(index);
                self.tell_committed(index);
            }
            Effect::Leads(epoch) => {
                self.stats.elections += 1;
                self.check_leads(index, epoch);
                self.end_epoch(index, epoch);
            }
            Effect::Resigned(epoch) => self.end_epoch(index, LeaderEpoch(epoch.0 + 1)),
            Effect::Propose(proposal) => {
                for sentinel in self.sentinel_nodes() {
                    self.call(Node::Broker(index), sentinel, Message::Propose(proposal.clone()));
                }
            }
            Effect::Fresh { below } => {
                let Some(process) = self.process(index) else { return };
                let later = process.fresh.split_off(&below);
                let end = process.replica.log().committed.0;
                for (client, op) in std::mem::replace(&mut process.fresh, later).into_values() {
                    self.call(Node::Broker(index), client, Message::EndIs { op, end });
                }
            }
            Effect::Refused { stream, .. } => {
                self.break_stream(stream);
            }
            Effect::Stopped(reason) => self.check_stopped(index, reason),
            Effect::Stale { .. } => {}
            Effect::ReportWanted => {
                if let Some(process) = self.process(index) {
                    process.report_due = true;
                }
            }
        }
    }

    /// Tells all sentinels what is held here: with it the answer to a doubt, if there is one.
    fn register(&mut self, index: u8) {
        let storage = self.brokers[index as usize].disk.storage;
        let Some(process) = self.process(index) else { return };
        let incarnation = process.incarnation;
        let report = process.replica.report();
        let log = process.replica.log();
        let mut held =
            Held { seen: process.replica.seen(), log_epoch: log.epochs.last(), end: log.durable, answers: None };
        process.report_due = report == Report::NotSettled;
        if let Report::Ready(reported) = report {
            held.answers = Some(reported.answers);
        }
        for sentinel in self.sentinel_nodes() {
            self.call(Node::Broker(index), sentinel, Message::Register { incarnation, storage, held });
        }
    }

    fn end_epoch(&mut self, index: u8, next: LeaderEpoch) {
        let Some(process) = self.process(index) else { return };
        process.fresh.clear();
        for down in process.down.values_mut() {
            down.1 = None;
        }
        for (_, (client, op, _)) in process.waiters.end_epoch(next) {
            self.call(Node::Broker(index), client, Message::Produced { op, result: Err(Refusal::Unknown) });
        }
    }

    fn tell_waiters(&mut self, index: u8) {
        let Some(process) = self.process(index) else { return };
        let (durable, committed) = (process.replica.log().durable, process.replica.log().committed);
        for (outcome, (client, op, offset)) in process.waiters.reached(durable, committed) {
            let Outcome::Reached(acks) = outcome else { continue };
            if acks == Acks::All {
                self.check_acked(op, offset);
            }
            self.call(Node::Broker(index), client, Message::Produced { op, result: Ok((acks, offset)) });
        }
    }

    fn tell_committed(&mut self, index: u8) {
        let Some(process) = self.process(index) else { return };
        let Some(leader) = process.replica.leader() else { return };
        let (leader_epoch, committed) = (leader.epoch(), process.replica.log().committed);
        let down = process.down.iter().filter(|(_, (_, next))| next.is_some());
        let fed: Vec<_> = down.map(|(stream, (to, _))| (*to, *stream)).collect();
        for (to, stream) in fed {
            let message = ToFollower { stream, leader_epoch, body: FromLeader::Committed(committed) };
            self.send(index, to, stream, Message::ToFollower(message));
        }
    }

    /// Sends followers what is durable here.
    fn feed(&mut self, index: u8) {
        let Some(process) = self.process(index) else { return };
        let Some(leader) = process.replica.leader() else { return };
        let (epoch, durable, committed) =
            (leader.epoch(), process.replica.log().durable.0, process.replica.log().committed.0);
        let start = process.log.start;
        let (mut frames, mut behind) = (Vec::new(), Vec::new());
        for (&stream, (to, next)) in &mut process.down {
            let Some(next) = next else { continue };
            while *next < durable {
                if *next < start {
                    behind.push(stream);
                    break;
                }
                let records: Vec<_> =
                    (*next..durable.min(*next + FRAME)).filter_map(|offset| process.log.get(offset)).collect();
                let base = *next;
                *next += records.len() as u64;
                let message = Message::Batches { stream, epoch, base, records, committed, start };
                frames.push((*to, stream, message));
            }
        }
        for (to, stream, message) in frames {
            self.send(index, to, stream, message);
        }
        for stream in behind {
            self.break_stream(stream);
        }
    }

    pub(crate) fn write(&mut self, index: u8, entry: Entry) {
        let broker = &mut self.brokers[index as usize];
        broker.disk.write(entry);
        if cfg!(goulette_bug = "sync_skipped")
            && let Entry::Append(_) = entry
        {
            let Some(process) = &broker.process else { return };
            let end = process.replica.log().written;
            self.decide(index, |replica, now, effects| replica.durable(now, end, effects));
        }
        self.sync(index);
    }

    fn sync(&mut self, index: u8) {
        let broker = &mut self.brokers[index as usize];
        let (entries, life) = (broker.disk.pending(), broker.life);
        let Some(process) = &mut broker.process else { return };
        if process.syncing || entries == 0 {
            return;
        }
        process.syncing = true;
        let slow = broker.slow_until > self.now;
        let takes =
            if slow { self.random.time(millis(500), seconds(8)) } else { self.random.time(micros(50), self.plan.sync) };
        self.after(takes, Event::Synced { broker: index, life, entries });
    }

    pub(crate) fn synced(&mut self, index: u8, life: u32, entries: usize) {
        if !self.alive(index, life) {
            return;
        }
        let entries = self.brokers[index as usize].disk.sync(entries);
        for entry in entries {
            let Some(process) = self.process(index) else { return };
            match entry {
                Entry::Append(_) => {}
                Entry::Truncate { to, restart } => {
                    process.log.apply(entry);
                    self.decide(index, |replica, now, effects| replica.truncated(now, Offset(to), restart, effects));
                }
                Entry::Trim { start } => {
                    process.log.apply(entry);
                    process.replica.trimmed(Offset(start));
                }
            }
        }
        let durable = self.brokers[index as usize].disk.synced.end();
        self.decide(index, |replica, now, effects| replica.durable(now, Offset(durable), effects));
        if let Some(process) = self.process(index) {
            process.syncing = false;
        }
        self.tell_waiters(index);
        self.feed(index);
        self.sync(index);
        let keeps = self.random.chance(self.plan.checkpoints);
        let broker = &mut self.brokers[index as usize];
        if let Some(process) = &broker.process
            && keeps
        {
            broker.disk.committed = process.replica.log().committed.0.min(broker.disk.synced.end());
        }
    }

    pub(crate) fn connect(&mut self, index: u8, life: u32) {
        if !self.alive(index, life) {
            return;
        }
        let Some(process) = self.process(index) else { return };
        let Some(leader) = process.replica.follows().cloned() else { return };
        let to = self.index_of(&leader.broker);
        let Some(process) = self.process(index) else { return };
        if let Some(&(stream, stands)) = process.up.get(&to) {
            if stands {
                self.decide(index, |replica, _, effects| replica.stream_opened(stream, effects));
            }
            return;
        }
        let stream = self.network.open(Node::Broker(index), Node::Broker(to));
        if let Some(process) = self.process(index) {
            process.up.insert(to, (stream, false));
        }
        self.send(index, to, stream, Message::Open(stream));
    }

    fn has_stream(&self, index: u8, peer: &BrokerId) -> bool {
        let process = self.brokers[index as usize].process.as_ref();
        process.is_some_and(|process| process.up.contains_key(&self.index_of(peer)))
    }

    pub(crate) fn stream_closed(&mut self, index: u8, peer: u8, stream: Stream) {
        let name = self.brokers[peer as usize].name.clone();
        self.decide(index, |replica, _, _| replica.stream_closed(&name, stream));
        let Some(process) = self.process(index) else { return };
        process.down.remove(&stream);
        if process.is_up(stream) {
            process.up.remove(&peer);
            let life = self.brokers[index as usize].life;
            let pause = self.random.time(millis(10), millis(300));
            self.after(pause, Event::Connect { broker: index, life });
        }
    }

    pub(crate) fn broker_tick(&mut self, index: u8, life: u32) {
        if !self.alive(index, life) {
            return;
        }
        self.after(TICK, Event::BrokerTick { broker: index, life });
        self.decide(index, |replica, now, effects| replica.tick(now, effects));
        let now = self.now;
        let Some(process) = self.process(index) else { return };
        let incarnation = process.incarnation;
        let registered = process.registered && !process.report_due;
        let handing_over = process.stopping.is_some();
        let done =
            process.stopping.is_some_and(|since| process.replica.role() != Role::Leader || now > since + seconds(3));
        let connect = process.replica.follows().cloned();
        if !registered {
            self.register(index);
        }
        for sentinel in self.sentinel_nodes() {
            if registered {
                self.call(Node::Broker(index), sentinel, Message::Heartbeat { incarnation });
            }
            if handing_over {
                self.call(Node::Broker(index), sentinel, Message::HandOver { incarnation });
            }
        }
        if let Some(leader) = connect
            && !self.has_stream(index, &leader.broker)
        {
            self.connect(index, life);
        }
        if done {
            return self.stop_broker(index, incarnation);
        }
        self.feed(index);
        self.trim(index);
    }

    /// A planned stop, after the leadership is handed over: everything is synced.
    fn stop_broker(&mut self, index: u8, incarnation: Incarnation) {
        for sentinel in self.sentinel_nodes() {
            self.call(Node::Broker(index), sentinel, Message::Left { incarnation });
        }
        let disk = &mut self.brokers[index as usize].disk;
        disk.sync(usize::MAX);
        self.crash_broker(index);
        let pause = self.random.time(millis(200), seconds(8));
        self.after(pause, Event::Start { broker: index });
    }

    /// Retention: now and then the leader moves `start`, never beyond `committed`.
    fn trim(&mut self, index: u8) {
        let due = self.random.chance(20);
        let Some(process) = self.process(index) else { return };
        let (start, committed) = (process.log.start, process.replica.log().committed.0);
        if due && process.replica.leader().is_some() && committed > start {
            let start = self.random.between(start, committed) + 1;
            self.write(index, Entry::Trim { start });
        }
    }
}

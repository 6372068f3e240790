//! What goes wrong, and how it is put right at the end.

use std::collections::BTreeSet;

use goulette_sentinel::simulated::{Metadata, Request};
use goulette_types::{BrokerId, StorageId};

use crate::{
    disk::Disk,
    network::Node,
    plan::KINDS,
    time::{Time, millis, seconds},
    world::{Event, World},
};

/// Copies of the metadata that an operator may restore.
#[derive(Debug, Default)]
pub(crate) struct Backups(Vec<Metadata>);

impl World {
    /// Draws a fault, and the moment of the next one.
    pub(crate) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let next = Time(self.random.between(self.plan.fault_every.0 / 2, self.plan.fault_every.0 * 2));
        self.after(next, Event::Fault);
        let total: u64 = self.plan.weights.iter().sum();
        if total == 0 {
            return;
        }
        let mut drawn = self.random.below(total);
        for kind in 0..KINDS {
            let weight = self.plan.weights[kind];
            if drawn < weight {
                self.stats.faults += 1;
                return self.inject(kind);
            }
            drawn -= weight;
        }
    }

    fn inject(&mut self, kind: usize) {
        let broker = self.random.below(u64::from(self.plan.brokers)) as u8;
        let sentinel = self.random.below(u64::from(self.plan.sentinels)) as u8;
        match kind {
            0 => self.crash_for_a_while(broker),
            1 => {
                // A power cut, of all or some.
                let all = self.random.chance(500);
                for broker in 0..self.plan.brokers {
                    if all || self.random.chance(600) {
                        self.crash_for_a_while(broker);
                    }
                }
            }
            2 => self.wipe(broker),
            3 => {
                let until = self.now + self.random.time(millis(500), seconds(15));
                self.brokers[broker as usize].paused_until = until;
            }
            4 => self.split(),
            5 => {
                let nodes = self.nodes();
                let (Some(&from), Some(&to)) = (self.random.pick(&nodes), self.random.pick(&nodes)) else { return };
                self.network.cut(from, to);
                self.mend_later();
            }
            6 => {
                let other = self.random.below(u64::from(self.plan.brokers)) as u8;
                let (one, other) = (Node::Broker(broker), Node::Broker(other));
                self.network.cut(one, other);
                self.network.cut(other, one);
                self.mend_later();
            }
            7 => {
                let now = self.now;
                if let Some(process) = &mut self.brokers[broker as usize].process {
                    process.stopping.get_or_insert(now);
                }
            }
            8 => self.brokers[broker as usize].slow_until = self.now + self.random.time(seconds(1), seconds(15)),
            9 => {
                self.sentinels[sentinel as usize].crash();
                let pause = self.random.time(millis(100), seconds(6));
                self.after(pause, Event::StartSentinel { sentinel });
            }
            10 => {
                let until = self.now + self.random.time(millis(500), seconds(10));
                self.sentinels[sentinel as usize].paused_until = until;
            }
            11 => {
                self.network.slowness = self.random.time(millis(10), millis(800));
                self.mend_later();
            }
            12 => self.cut_off_from_sentinels(broker),
            13 => self.operator(),
            _ => self.restore(),
        }
    }

    fn crash_for_a_while(&mut self, broker: u8) {
        if self.brokers[broker as usize].process.is_some() {
            self.crash_broker(broker);
            let pause = self.random.time(millis(100), seconds(9));
            self.after(pause, Event::Start { broker });
        }
    }

    fn mend_later(&mut self) {
        let pause = self.random.time(millis(500), seconds(12));
        self.after(pause, Event::Mend);
    }

    fn nodes(&self) -> Vec<Node> {
        let brokers = (0..self.plan.brokers).map(Node::Broker);
        let clients = (0..self.clients.count()).map(Node::Client);
        brokers.chain(self.sentinel_nodes()).chain(clients).chain([Node::Store]).collect()
    }

    /// Two halves that do not hear each other; the store is on one side.
    fn split(&mut self) {
        let mut nodes = self.nodes();
        self.random.shuffle(&mut nodes);
        let at = self.random.between(1, nodes.len() as u64) as usize;
        let (one, other) = nodes.split_at(at);
        for &left in one {
            for &right in other {
                self.network.cut(left, right);
                self.network.cut(right, left);
            }
        }
        self.mend_later();
    }

    /// A broker that clients and brokers reach, but that no sentinel does.
    fn cut_off_from_sentinels(&mut self, broker: u8) {
        for sentinel in self.sentinel_nodes() {
            self.network.cut(Node::Broker(broker), sentinel);
            self.network.cut(sentinel, Node::Broker(broker));
        }
        self.mend_later();
    }

    /// A disk is replaced by an empty one, if another disk remains that holds all that is committed.
    fn wipe(&mut self, broker: u8) {
        let state = self.store.metadata.partition();
        if state.doubt.is_some() {
            return;
        }
        let intact = |name: &BrokerId, storage: StorageId| {
            self.brokers.iter().any(|other| other.name == *name && other.disk.storage == storage)
        };
        let me = &self.brokers[broker as usize].name;
        let others = state.isr.iter().filter(|member| member.broker != *me && intact(&member.broker, member.storage));
        if others.count() == 0 {
            return;
        }
        self.crash_broker(broker);
        let storage = StorageId(u128::from(self.fresh_id()));
        let broken = std::mem::replace(&mut self.brokers[broker as usize].disk, Disk::new(storage));
        self.brokers[broker as usize].replaced.push(broken);
        self.stats.wiped += 1;
        let pause = self.random.time(millis(100), seconds(9));
        self.after(pause, Event::Start { broker });
    }

    fn everybody_is_told(&mut self, task: &Request) {
        for sentinel in &mut self.sentinels {
            sentinel.add(task.clone());
        }
    }

    /// The operator moves the partition, gives that up, or wants another minimum.
    fn operator(&mut self) {
        let mut names: Vec<_> = self.brokers.iter().map(|broker| broker.name.clone()).collect();
        self.random.shuffle(&mut names);
        names.truncate(usize::from(self.plan.replicas));
        let task = match self.random.below(4) {
            0 | 1 => Request::Reassign(names),
            2 => Request::Reassign(Vec::new()),
            _ => {
                let fixed = self.random.between(1, u64::from(self.plan.replicas) + 1) as u32;
                Request::SetMinimum(self.random.chance(600).then_some(fixed))
            }
        };
        self.everybody_is_told(&task);
    }

    /// Takes a backup, or restores one: all brokers register anew, and the stored ISR is in doubt. (A backup from before a
    /// move, or from before a disk was replaced, names replicas that do not exist any more; no protocol mends that.)
    fn restore(&mut self) {
        let current = &self.store.metadata;
        if self.stats.wiped > 0 || self.backups.0.is_empty() || self.random.chance(600) {
            self.backups.0.push(current.clone());
            return;
        }
        let present = current.partition();
        let usable = |backup: &&Metadata| {
            let backup = backup.partition();
            backup.replicas == present.replicas && backup.moving.is_none() && present.moving.is_none()
        };
        let Some(backup) = self.backups.0.iter().find(usable) else { return };
        let restored = current.restored(backup);
        self.store.metadata = restored;
        self.stats.restored += 1;
    }

    /// The faults end: everything runs, everything is connected.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.network.healed = true;
        self.network.mend();
        for broker in 0..self.plan.brokers {
            let node = &mut self.brokers[broker as usize];
            node.paused_until = self.now;
            node.slow_until = self.now;
            if node.process.is_none() {
                self.after(Time(1), Event::Start { broker });
            }
        }
        for sentinel in 0..self.plan.sentinels {
            self.sentinels[sentinel as usize].paused_until = self.now;
            self.after(Time(1), Event::StartSentinel { sentinel });
        }
    }

    /// Nobody can lead, long after the faults: the operator takes the loss, if a disk is really gone.
    pub(crate) fn order_unclean_election(&mut self) {
        let state = self.store.metadata.partition();
        if self.stats.wiped == 0 || state.leader.is_some() {
            return;
        }
        let best = self.brokers.iter().filter(|broker| state.replicas.contains(&broker.name));
        let best = best
            .max_by_key(|broker| broker.disk.synced.records.last().map(|last| (last.epoch, broker.disk.synced.end())));
        if let Some(name) = best.map(|broker| broker.name.clone()) {
            self.stats.unclean += 1;
            self.everybody_is_told(&Request::ElectUnclean(name));
        }
    }

    /// Everybody is in sync, somebody leads, producers are acknowledged.
    pub(crate) fn converged(&self) -> bool {
        let state = self.store.metadata.partition();
        state.moving.is_none()
            && state.doubt.is_none()
            && state.isr.len() == state.replicas.len()
            && self.clients.all_acked()
    }

    pub(crate) fn why_not_converged(&self) -> String {
        let roles: Vec<_> =
            self.brokers.iter().map(|broker| broker.process.as_ref().map(|process| process.replica.role())).collect();
        format!("{:?}, roles {roles:?}, all producers acknowledged: {}", self.store.metadata, self.clients.all_acked())
    }

    /// All replicas hold the same, synced and committed.
    pub(crate) fn settled(&self) -> bool {
        let state = self.store.metadata.partition();
        let ends: BTreeSet<_> = self
            .brokers
            .iter()
            .filter(|broker| state.replicas.contains(&broker.name))
            .map(|broker| {
                let log = broker.process.as_ref().map(|process| process.replica.log());
                log.filter(|log| log.is_settled() && log.committed == log.written).map(|log| log.written)
            })
            .collect();
        ends.len() == 1 && ends.first().is_some_and(Option::is_some)
    }
}

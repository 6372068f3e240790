//! What the cluster promised, compared with what it does, after each step.
//!
//! `truth` is the partition as it was ever committed. The first to commit an offset adds to it; from then on nobody may
//! hold anything else there as committed, nobody may lead without it, and no ack or answer may contradict it.

use std::collections::BTreeMap;

use goulette_replication::{Member, StopReason};
use goulette_types::{Incarnation, LeaderEpoch, PartitionEpoch};

use crate::{disk::Record, world::World};

/// The judge of a run.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    truth: Vec<Record>,
    /// Who led in which epoch.
    leaders: BTreeMap<LeaderEpoch, (u8, Incarnation)>,
    acked: Vec<(u64, u64)>,
    acked_end: u64,
    /// Up to where each broker's committed records are compared.
    compared: BTreeMap<u8, u64>,
    violation: Option<String>,
    /// Behind the last record that was committed in its own epoch: so much survives restored metadata. What a later leader
    /// committed of an earlier one's tail leaves no trace in the logs until that leader's own records follow.
    solid: u64,
    /// Records lost by unclean elections: what clients know of later offsets counts no more.
    forgiven_from: Option<u64>,
    /// Restored metadata elected a log without such a tail: whoever knows of it stops, and a person has to decide.
    parted: bool,
}

impl Oracle {
    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.clone()
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Behind the last record that was acknowledged as committed.
    pub(crate) fn acked_end(&self) -> u64 {
        self.acked_end
    }

    fn forgiven(&self, offset: u64) -> bool {
        self.forgiven_from.is_some_and(|from| offset >= from)
    }

    /// I1, I3: an ack names the record's place, behind those acknowledged before.
    pub(crate) fn acked(&mut self, id: u64, offset: u64, before: Option<u64>) {
        if before.is_some_and(|before| before >= offset) && self.forgiven_from.is_none() {
            self.fail(format!("I3: record {id} got offset {offset}, not behind {before:?}, the producer's last one"));
        }
        if self.truth.get(offset as usize).map(|record| record.id) != Some(id) && !self.forgiven(offset) {
            self.fail(format!(
                "I1: record {id} was acknowledged at {offset}, where {:?} is committed",
                self.truth.get(offset as usize)
            ));
        }
        self.acked.push((offset, id));
        self.acked_end = self.acked_end.max(offset + 1);
    }

    /// I5: what a consumer sees is committed, for ever.
    pub(crate) fn consumed(&mut self, base: u64, records: &[Record]) {
        for (offset, record) in (base..).zip(records) {
            if self.truth.get(offset as usize) != Some(record) && !self.forgiven(offset) {
                let truth = self.truth.get(offset as usize);
                self.fail(format!("I5: a consumer read {record:?} at {offset}, where {truth:?} is committed"));
            }
        }
    }

    /// A fresh read knows of everything that was acknowledged before it was asked for.
    pub(crate) fn fresh_read(&mut self, floor: u64, end: u64) {
        if end < floor && self.forgiven_from.is_none() {
            self.fail(format!("I5: a read that must be fresh said {end}, but {floor} had been acknowledged before"));
        }
    }
}

impl World {
    /// A broker has opened its disk: what its checkpoint calls committed is.
    pub(crate) fn check_opened(&mut self, index: u8) {
        let Some(process) = &self.brokers[index as usize].process else { return };
        let committed = process.replica.log().committed.0;
        self.oracle.compared.insert(index, process.log.start);
        self.compare(index, committed);
    }

    /// I2, I8: `committed` of a broker has risen.
    pub(crate) fn check_committed(&mut self, index: u8, committed: u64) {
        let broker = &self.brokers[index as usize];
        let Some(process) = &broker.process else { return };
        if let Some(leader) = process.replica.leader() {
            let known = self.oracle.truth.len() as u64;
            for offset in known..committed {
                let Some(record) = process.log.get(offset) else {
                    return self.oracle.fail(format!("I1: broker {index} commits {offset} without having it"));
                };
                self.oracle.truth.push(record);
                if record.epoch == leader.epoch() {
                    self.oracle.solid = offset + 1;
                }
            }
            // I7: on disk, not only said to be.
            let state = leader.state();
            let minimum = state.min_insync as usize;
            // Who was moved away since then has emptied its log: an old leader hears late what was true when it was said.
            let present = self.store.metadata.partition();
            let moved_away = |member: &Member| {
                let later = present.leader_epoch > state.leader_epoch;
                later && !present.replicas.contains(&member.broker)
            };
            let holds = |member: &Member| {
                let broker = &self.brokers[self.index_of(&member.broker) as usize];
                moved_away(member)
                    || broker.log_of(member.storage).is_some_and(|log| {
                        log.end() >= committed
                            && committed.checked_sub(1).is_none_or(|last| {
                                log.get(last).is_none_or(|record| Some(&record) == self.oracle.truth.get(last as usize))
                            })
                    })
            };
            let holders = state.isr.iter().filter(|member| holds(member)).count();
            if holders < minimum.max(state.isr.len()) {
                let epoch = leader.epoch();
                return self.oracle.fail(format!(
                    "I7: broker {index} commits {committed} in epoch {epoch}, synced by {holders} of {} in sync (minimum {minimum})",
                    state.isr.len()
                ));
            }
        }
        self.compare(index, committed);
    }

    fn compare(&mut self, index: u8, committed: u64) {
        let Some(process) = &self.brokers[index as usize].process else { return };
        let from = self.oracle.compared.get(&index).copied().unwrap_or_default().max(process.log.start);
        for offset in from..committed {
            let (held, truth) = (process.log.get(offset), self.oracle.truth.get(offset as usize).copied());
            if held != truth && !self.oracle.forgiven(offset) {
                return self
                    .oracle
                    .fail(format!("I2: broker {index} holds {held:?} as committed at {offset}, where {truth:?} is"));
            }
        }
        self.oracle.compared.insert(index, committed);
    }

    /// I6: a broker begins to lead.
    pub(crate) fn check_leads(&mut self, index: u8, epoch: LeaderEpoch) {
        let Some(process) = &self.brokers[index as usize].process else { return };
        let me = (index, process.incarnation);
        let other = *self.oracle.leaders.entry(epoch).or_insert(me);
        if other != me {
            // Restored metadata may give an epoch again of which no replica remembers anything: nothing was written in
            // it that lasted, and whoever led in it is no more.
            let lives = self.brokers[other.0 as usize]
                .process
                .as_ref()
                .is_some_and(|other_process| other_process.incarnation == other.1);
            if self.stats.restored == 0 || lives {
                return self.oracle.fail(format!("I6: brokers {} and {index} both lead in epoch {epoch}", other.0));
            }
            self.oracle.leaders.insert(epoch, me);
        }
    }

    /// I1: whoever is elected has, on its disk, all that was ever committed.
    fn check_elected(&mut self) {
        let state = self.store.metadata.partition();
        let Some(leader) = &state.leader else { return };
        let index = self.index_of(&leader.broker);
        let seat = state.isr.iter().find(|member| member.broker == leader.broker);
        let log = seat.and_then(|member| self.brokers[index as usize].log_of(member.storage));
        let Some(log) = log else {
            return self.oracle.fail(format!("I1: broker {index} is elected with a disk that it never had: {state:?}"));
        };
        let truth = &self.oracle.truth;
        let kept = (log.start..log.end()).take_while(|at| log.get(*at).as_ref() == truth.get(*at as usize)).count();
        let same = log.start + kept as u64;
        let known = truth.len() as u64;
        let by_restore = self.stats.restored > 0 && self.oracle.solid <= same && same < known;
        self.oracle.parted |= by_restore;
        if state.unclean == Some(state.leader_epoch) || by_restore {
            let lost = same.min(known);
            self.oracle.truth.truncate(lost as usize);
            self.oracle.forgiven_from = Some(self.oracle.forgiven_from.map_or(lost, |from| from.min(lost)));
        } else if same < known && !self.oracle.forgiven(same) {
            self.oracle.fail(format!(
                "I1: broker {index} is elected with a log that parts at {same} from what is committed up to {known}: {state:?}"
            ));
        }
    }

    /// I1: whoever is told `committed` is.
    pub(crate) fn check_acked(&mut self, id: u64, offset: u64) {
        let committed = self.oracle.truth.get(offset as usize).map(|record| record.id);
        if committed != Some(id) && !self.oracle.forgiven(offset) {
            self.oracle.fail(format!("I1: record {id} is acknowledged at {offset}, where {committed:?} is committed"));
        }
    }

    /// A replica that gives up: only an unclean election explains it, or restored metadata, which end the run.
    pub(crate) fn check_stopped(&mut self, index: u8, reason: StopReason) {
        if self.oracle.parted {
            self.stats.parted = 1;
        } else if self.stats.unclean == 0 {
            self.oracle.fail(format!("broker {index} stopped: {reason}"));
        }
    }

    /// I6: epochs of the metadata only rise.
    pub(crate) fn check_metadata(&mut self, before: (LeaderEpoch, PartitionEpoch)) {
        let state = self.store.metadata.partition();
        let after = state.version();
        let whole = !state.isr.is_empty()
            && state.isr.iter().all(|member| state.replicas.contains(&member.broker))
            && (!state.has_minimum() || state.eligible.is_empty());
        if after.0 < before.0 || after.1 < before.1 || !whole {
            self.oracle.fail(format!("I6: the metadata went from {before:?} to {state:?}"));
        } else if after.0 > before.0 {
            self.check_elected();
        }
    }

    /// After everything: each acknowledged record once, at its place, on every replica.
    pub(crate) fn final_check(&mut self) {
        let truth = &self.oracle.truth;
        for &(offset, id) in &self.oracle.acked {
            if truth.get(offset as usize).map(|record| record.id) != Some(id) && !self.oracle.forgiven(offset) {
                return self.oracle.fail(format!("I1: record {id}, acknowledged at {offset}, is lost"));
            }
        }
        let mut ids: Vec<_> = truth.iter().map(|record| record.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|two| two[0] == two[1]) {
            return self.oracle.fail(format!("I4: record {} is there twice", twice[0]));
        }
        for (index, broker) in self.brokers.iter().enumerate() {
            let Some(process) = &broker.process else { continue };
            if !self.store.metadata.partition().replicas.contains(&broker.name) {
                continue;
            }
            for offset in process.log.start..process.log.end() {
                if process.log.get(offset).as_ref() != truth.get(offset as usize) {
                    let held = process.log.get(offset);
                    return self.oracle.fail(format!("I2: at the end broker {index} holds {held:?} at {offset}"));
                }
            }
        }
    }
}

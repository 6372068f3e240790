//! One partition on one broker, in whatever role the metadata gives it.

use std::time::Duration;

use goulette_types::{BrokerId, Incarnation, LeaderEpoch, Offset, PartitionEpoch};

use crate::{
    controller::Reported,
    follower::Follower,
    leader::{FreshRead, Leader, ProduceRefusal},
    log_view::LogView,
    message::{BatchFacts, FromLeader, Refused, Stream, ToFollower, ToLeader},
    state::{LeaderId, Member, PartitionState},
};

mod effect;

pub use effect::{Effect, FollowError, StopReason};

/// How patient a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaOptions {
    /// A follower that has not held all of the leader's log for so long leaves the ISR (`replica_lag_max`).
    pub lag_max: Duration,
    /// A proposal without an outcome is followed by another one after this time.
    pub propose_again: Duration,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self { lag_max: Duration::from_secs(5), propose_again: Duration::from_secs(1) }
    }
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing: no state yet, no leader, or no replica.
    Idle,
    /// Elected, but not leading before all of its log is durable.
    Elected,
    /// It leads.
    Leader,
    /// It follows, after a handshake or before.
    Follower,
    /// It does nothing more.
    Stopped(StopReason),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Inner {
    Idle,
    Elected,
    Leading(Box<Leader>),
    Following(Follower),
    Stopped(StopReason),
}

/// One partition on one broker.
///
/// Feed it everything that concerns the partition, one call after the other, and carry out the effects in order. The
/// log's own progress comes through [`durable`](Self::durable) and [`truncated`](Self::truncated).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    me: Member,
    incarnation: Incarnation,
    options: ReplicaOptions,
    log: LogView,
    state: Option<PartitionState>,
    /// Epochs up to this one are over here, whatever the metadata says: see [`report`](Self::report).
    fenced: Option<LeaderEpoch>,
    /// The doubt that is to be answered.
    doubt: Option<(LeaderEpoch, PartitionEpoch)>,
    /// The partition was moved away from here: what is stored is to go as soon as the log is settled.
    released: bool,
    inner: Inner,
}

/// What [`Replica::report`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// What the sentinel is to be told.
    Ready(Reported),
    /// Appends or a truncation are under way to the disk: ask again when they are durable.
    NotSettled,
    /// Nobody asked, or the doubt is settled.
    NotWanted,
}

impl Replica {
    /// A partition as it was opened by this start of the broker.
    pub fn new(me: Member, incarnation: Incarnation, log: LogView, options: ReplicaOptions) -> Self {
        Self {
            me,
            incarnation,
            options,
            log,
            state: None,
            fenced: None,
            doubt: None,
            released: false,
            inner: Inner::Idle,
        }
    }

    /// The log as the core sees it.
    pub fn log(&self) -> &LogView {
        &self.log
    }

    /// The newest state taken.
    pub fn state(&self) -> Option<&PartitionState> {
        self.state.as_ref()
    }

    /// What it is at the moment.
    pub fn role(&self) -> Role {
        match &self.inner {
            Inner::Idle => Role::Idle,
            Inner::Elected => Role::Elected,
            Inner::Leading(_) => Role::Leader,
            Inner::Following(_) => Role::Follower,
            Inner::Stopped(reason) => Role::Stopped(*reason),
        }
    }

    /// The leadership, while it leads.
    pub fn leader(&self) -> Option<&Leader> {
        match &self.inner {
            Inner::Leading(leader) => Some(leader),
            _ => None,
        }
    }

    /// The leader that it follows, or wants to.
    pub fn follows(&self) -> Option<&LeaderId> {
        match &self.inner {
            Inner::Following(follower) => Some(follower.leader()),
            _ => None,
        }
    }

    /// Takes metadata, if it is newer than all before. A state in doubt may be older: it asks for a report.
    pub fn update(&mut self, now: Duration, state: PartitionState, effects: &mut Vec<Effect>) {
        if let Some(doubt) = &state.doubt {
            let (given, seen) = (doubt.version(), self.seen());
            if given.0 < seen.0 || given.1 < seen.1 {
                // Settled since, or made without knowing what is known here: a registration tells.
                effects.extend([Effect::Stale { given: given.0, seen: seen.0 }, Effect::ReportWanted]);
                return;
            }
            self.doubt = Some(given);
            // What it reports from now on stays true.
            self.fenced = Some(given.0);
            self.resign(effects);
            if !doubt.reports.iter().any(|(member, _)| *member == self.me) {
                effects.push(Effect::ReportWanted);
            }
            return;
        }
        let any_epoch = cfg!(goulette_bug = "no_epoch_check");
        if self.state.as_ref().is_some_and(|known| state.version() <= known.version()) && !any_epoch {
            return;
        }
        let seen = self.log.epochs.last().max(self.fenced.unwrap_or_default());
        let old = state.leader_epoch < seen || self.fenced.is_some_and(|fenced| state.leader_epoch <= fenced);
        if old && !any_epoch {
            effects.push(Effect::Stale { given: state.leader_epoch, seen });
            if state.leader_epoch < self.log.epochs.last() {
                // Not late for this replica alone: the metadata has gone back behind what is on disk.
                effects.push(Effect::ReportWanted);
            }
            return;
        }
        let same_epoch = self.state.as_ref().is_some_and(|known| known.leader_epoch == state.leader_epoch);
        self.state = Some(state.clone());
        self.doubt = None;
        self.released = !state.replicas.contains(&self.me.broker);
        let mine = LeaderId { broker: self.me.broker.clone(), incarnation: self.incarnation };
        let leads_here = match &state.leader {
            Some(leader) if cfg!(goulette_bug = "old_leadership_after_restart") => leader.broker == self.me.broker,
            leader => leader.as_ref() == Some(&mine),
        };
        match (&mut self.inner, state.leader.clone()) {
            (Inner::Leading(leader), _) if leads_here && same_epoch => {
                leader.confirm(now, state, &mut self.log, effects);
            }
            (Inner::Elected, _) if leads_here && same_epoch => {}
            (Inner::Following(_) | Inner::Stopped(_), Some(_)) if same_epoch && !leads_here => {}
            (_, Some(_)) if leads_here => {
                self.resign(effects);
                let written = self.log.epochs.last() == state.leader_epoch;
                if written && !cfg!(goulette_bug = "old_leadership_after_restart") {
                    // Batches of this epoch that were not written in this leadership: meant for an earlier start, or
                    // the metadata has gone back.
                    effects.push(Effect::Stale { given: state.leader_epoch, seen });
                    return;
                }
                self.inner = Inner::Elected;
                self.lead(now, effects);
            }
            (_, Some(leader)) if leader.broker != self.me.broker && state.replicas.contains(&self.me.broker) => {
                self.resign(effects);
                effects.push(Effect::Follow { leader: leader.broker.clone() });
                self.inner = Inner::Following(Follower::new(leader, state.leader_epoch, state.unclean));
            }
            _ => self.resign(effects),
        }
        self.release(effects);
    }

    /// Empties the log of a partition that was moved away. Only a state says so that is newer than all known here and leaves
    /// this replica out; should it be one again, it begins at the leader's start as a new one does.
    fn release(&mut self, effects: &mut Vec<Effect>) {
        let is_empty = self.log.written == Offset::ZERO;
        if self.released && matches!(self.inner, Inner::Idle) && self.log.is_settled() && !is_empty {
            self.log.cutting = Some(Offset::ZERO);
            effects.push(Effect::Truncate { to: Offset::ZERO, restart: true });
        }
    }

    fn resign(&mut self, effects: &mut Vec<Effect>) {
        if let Inner::Leading(leader) = &self.inner {
            effects.push(Effect::Resigned(leader.epoch()));
        }
        self.inner = Inner::Idle;
    }

    /// Leads as soon as the log is settled: its end at the start of the epoch must not rise by what came before.
    fn lead(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(state) = self.state.clone() else { return };
        if !matches!(self.inner, Inner::Elected) || !self.log.is_settled() {
            return;
        }
        let id = LeaderId { broker: self.me.broker.clone(), incarnation: self.incarnation };
        let epoch = state.leader_epoch;
        let mut leader = Leader::new(self.me.clone(), id, self.options, state, &self.log, now);
        effects.push(Effect::Leads(epoch));
        leader.advance(&mut self.log, effects);
        self.inner = Inner::Leading(Box::new(leader));
    }

    /// Leads no longer, without waiting for metadata: a poisoned engine, a planned stop that has handed over.
    pub fn step_down(&mut self, effects: &mut Vec<Effect>) {
        self.fenced = self.fenced.max(self.state.as_ref().map(|state| state.leader_epoch));
        self.resign(effects);
    }

    /// The log is durable up to `end`.
    pub fn durable(&mut self, now: Duration, end: Offset, effects: &mut Vec<Effect>) {
        if self.log.cutting.is_some() || end <= self.log.durable {
            return;
        }
        self.log.durable = end.min(self.log.written);
        match &mut self.inner {
            Inner::Leading(leader) => leader.advance(&mut self.log, effects),
            Inner::Following(follower) => {
                follower.durable(&mut self.log, effects);
                follower.hello(&self.me, self.incarnation, &self.log, effects);
            }
            Inner::Elected => self.lead(now, effects),
            Inner::Idle | Inner::Stopped(_) => self.release(effects),
        }
    }

    /// The truncation that was ordered last is durable.
    pub fn truncated(&mut self, now: Duration, to: Offset, restart: bool, effects: &mut Vec<Effect>) {
        self.log.cut(to, restart);
        match &mut self.inner {
            Inner::Following(follower) => {
                follower.cut(&self.log, effects);
                follower.hello(&self.me, self.incarnation, &self.log, effects);
            }
            Inner::Elected => self.lead(now, effects),
            _ => self.release(effects),
        }
    }

    /// The first kept offset has risen (retention; on a follower, what the leader said).
    pub fn trimmed(&mut self, start: Offset) {
        self.log.start = self.log.start.max(start);
        self.log.committed = self.log.committed.max(self.log.start.min(self.log.durable));
        self.log.epochs.trim(start);
    }

    /// Whether a producer's batch may be appended, and in which epoch. Call [`appended`](Self::appended) under the same
    /// lock, once the log has given it its offsets.
    ///
    /// # Errors
    /// Not leading, or too few in sync for `all`; nothing is stored then.
    pub fn admit(&self, all: bool) -> Result<LeaderEpoch, ProduceRefusal> {
        let leader = self.leader().ok_or(ProduceRefusal::NotLeader)?;
        leader.admits(all)?;
        Ok(leader.epoch())
    }

    /// The leader has handed a batch to its log, which it continues; false (and nothing noted) if it does not.
    #[must_use]
    pub fn appended(&mut self, base: Offset, end: Offset) -> bool {
        let Inner::Leading(leader) = &self.inner else { return false };
        self.log.write(&BatchFacts { base, end, epoch: leader.epoch() })
    }

    /// Whether [`offer`](Self::offer) would take a batch: for a shell whose log may have no room for it just now.
    ///
    /// # Errors
    /// As `offer`.
    pub fn takes(&self, stream: Stream, epoch: LeaderEpoch, batch: &BatchFacts) -> Result<(), FollowError> {
        match &self.inner {
            Inner::Following(follower) => follower.takes(stream, epoch, batch, &self.log),
            _ => Err(FollowError::NotFollowing),
        }
    }

    /// Whether a batch from the leader may be appended; it is noted as handed to the log, so append it now.
    ///
    /// # Errors
    /// It must not be appended; close the stream.
    pub fn offer(&mut self, stream: Stream, epoch: LeaderEpoch, batch: &BatchFacts) -> Result<(), FollowError> {
        match &mut self.inner {
            Inner::Following(follower) => follower.offer(stream, epoch, batch, &mut self.log),
            _ => Err(FollowError::NotFollowing),
        }
    }

    /// A stream to the leader that it follows stands: the handshake begins.
    pub fn stream_opened(&mut self, stream: Stream, effects: &mut Vec<Effect>) {
        if let Inner::Following(follower) = &mut self.inner {
            follower.opened(stream);
            follower.hello(&self.me, self.incarnation, &self.log, effects);
        }
    }

    /// A stream broke, in whatever direction it served.
    pub fn stream_closed(&mut self, peer: &BrokerId, stream: Stream) {
        match &mut self.inner {
            Inner::Following(follower) => follower.closed(stream),
            Inner::Leading(leader) => leader.lost(peer, stream),
            _ => {}
        }
    }

    /// A follower says something. Messages of one stream come in the order in which they were sent.
    pub fn from_follower(&mut self, now: Duration, broker: &BrokerId, message: ToLeader, effects: &mut Vec<Effect>) {
        match &mut self.inner {
            Inner::Leading(leader) => leader.receive(now, broker, message, &mut self.log, effects),
            _ => {
                let leader_epoch = self.state.as_ref().map_or(LeaderEpoch(0), |state| state.leader_epoch);
                let refused = Refused::OtherEpoch { given: message.leader_epoch, current: None };
                let answer = ToFollower { stream: message.stream, leader_epoch, body: FromLeader::Refused(refused) };
                effects.push(Effect::ToFollower { broker: broker.clone(), message: answer });
            }
        }
    }

    /// The leader says something.
    pub fn from_leader(&mut self, message: ToFollower, effects: &mut Vec<Effect>) {
        let Inner::Following(follower) = &mut self.inner else { return };
        if !follower.is_on(message.stream) {
            return;
        }
        let current = self.state.as_ref().map(|state| state.leader_epoch);
        if let FromLeader::Refused(why) = message.body {
            follower.closed(message.stream);
            if matches!(why, Refused::LostData { .. }) {
                self.stop(StopReason::LostData, effects);
            } else {
                effects.push(Effect::Refused { stream: message.stream, why });
            }
            return;
        }
        if Some(message.leader_epoch) != current && !cfg!(goulette_bug = "no_epoch_check") {
            return;
        }
        match message.body {
            FromLeader::Cut(cut) => {
                let answered = follower.answered(cut, &self.me, self.incarnation, &mut self.log, effects);
                if let Err(reason) = answered {
                    self.stop(reason, effects);
                }
            }
            FromLeader::Committed(committed) => follower.pushed(committed, &mut self.log, effects),
            FromLeader::Ping { round } => follower.pong(round, effects),
            FromLeader::Refused(_) => {}
        }
    }

    fn stop(&mut self, reason: StopReason, effects: &mut Vec<Effect>) {
        self.inner = Inner::Stopped(reason);
        effects.push(Effect::Stopped(reason));
    }

    /// Time has passed: call it at least every second. Followers repeat their end, so that their leader hears of them.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        match &mut self.inner {
            Inner::Leading(leader) => leader.tick(now, &self.log, effects),
            Inner::Following(follower) => follower.durable(&mut self.log, effects),
            _ => {}
        }
    }

    /// Asks for a read that must be fresh; `None` if it does not lead.
    pub fn fresh_read(&mut self, effects: &mut Vec<Effect>) -> Option<FreshRead> {
        match &mut self.inner {
            Inner::Leading(leader) => Some(leader.fresh_read(&self.log, effects)),
            _ => None,
        }
    }

    /// The highest leader and partition epoch that this replica has seen: what a broker says when it registers.
    pub fn seen(&self) -> (LeaderEpoch, PartitionEpoch) {
        let known = self.state.as_ref().map(PartitionState::version).unwrap_or_default();
        (known.0.max(self.log.epochs.last()).max(self.fenced.unwrap_or_default()), known.1)
    }

    /// What to tell the sentinel when it doubts the stored ISR. Since it has heard of the doubt the replica neither leads nor
    /// follows in any epoch that it has seen, so the report stays true.
    pub fn report(&self) -> Report {
        let Some(answers) = self.doubt else { return Report::NotWanted };
        if !self.log.is_settled() {
            return Report::NotSettled;
        }
        Report::Ready(Reported { member: self.me.clone(), answers, log: self.log.last() })
    }
}

#[cfg(test)]
mod tests;

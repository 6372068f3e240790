//! Leads one partition in one epoch: how far its followers are, what is committed, who is in sync.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use goulette_types::{BrokerId, LeaderEpoch, Offset};

use crate::{
    controller::Proposal,
    log_view::LogView,
    message::{Cut, FromFollower, FromLeader, Refused, Stream, ToFollower, ToLeader},
    replica::{Effect, ReplicaOptions},
    state::{LeaderId, LogEnd, Member, PartitionState},
};

mod fresh;
mod progress;

pub use fresh::FreshRead;
use fresh::FreshReads;
use progress::{Link, Progress};

/// Why a batch is refused before anything is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceRefusal {
    /// This incarnation does not lead the partition.
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// Too few replicas are in sync for `acks = all`.
    #[error("{in_sync} replicas are in sync, {minimum} are needed")]
    NotEnoughReplicas {
        /// Members of the confirmed ISR.
        in_sync: u32,
        /// The minimum in force.
        minimum: u32,
    },
}

/// The leader of one partition in one epoch.
///
/// Invariants: everything below the log's `committed` is durable on every member of the confirmed ISR and of every
/// proposed one that may have been accepted; `committed` never falls; it rises only while the confirmed ISR has the
/// minimum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    id: LeaderId,
    me: Member,
    options: ReplicaOptions,
    /// The newest state of this epoch: its ISR is the confirmed one.
    state: PartitionState,
    /// Members of proposals on `state` whose outcome is unknown. Only a higher partition epoch settles them.
    proposed: BTreeSet<Member>,
    proposed_at: Option<Duration>,
    /// The log's end at the start of the epoch: all that earlier epochs committed lies below.
    epoch_end: Offset,
    followers: BTreeMap<BrokerId, Progress>,
    fresh: FreshReads,
}

impl Leader {
    /// Begins to lead in the state's epoch, with a log of which everything is durable.
    pub(crate) fn new(
        me: Member,
        id: LeaderId,
        options: ReplicaOptions,
        state: PartitionState,
        log: &LogView,
        now: Duration,
    ) -> Self {
        let mut leader = Self {
            id,
            me,
            options,
            state,
            proposed: BTreeSet::new(),
            proposed_at: None,
            epoch_end: log.durable,
            followers: BTreeMap::new(),
            fresh: FreshReads::default(),
        };
        leader.keep_followers(now);
        leader
    }

    /// The epoch.
    pub fn epoch(&self) -> LeaderEpoch {
        self.state.leader_epoch
    }

    /// The newest state of this epoch.
    pub fn state(&self) -> &PartitionState {
        &self.state
    }

    /// Members whose proposals may have been accepted.
    pub fn proposed(&self) -> &BTreeSet<Member> {
        &self.proposed
    }

    /// The log's end when the epoch began.
    pub fn epoch_end(&self) -> Offset {
        self.epoch_end
    }

    /// The end that a follower has confirmed in this epoch.
    pub fn follower_end(&self, broker: &BrokerId) -> Option<Offset> {
        self.followers.get(broker)?.link.as_ref()?.end
    }

    /// Takes a newer state of the same epoch.
    pub(crate) fn confirm(
        &mut self,
        now: Duration,
        state: PartitionState,
        log: &mut LogView,
        effects: &mut Vec<Effect>,
    ) {
        self.state = state;
        // Proposals were made on an older partition epoch: they have been accepted, and then stand here, or never will be.
        self.proposed.clear();
        self.proposed_at = None;
        self.keep_followers(now);
        let quorum = self.quorum();
        self.fresh.retain(&quorum, effects);
        self.advance(log, effects);
        self.propose(now, log, effects);
    }

    /// The own log's durable end has risen, or something else that may let `committed` rise.
    pub(crate) fn advance(&mut self, log: &mut LogView, effects: &mut Vec<Effect>) {
        let lowest = self.lowest_end(log);
        let enough = self.state.has_minimum() || cfg!(goulette_bug = "commit_below_minimum");
        if let Some(lowest) = lowest
            && enough
            && lowest > log.committed
        {
            log.committed = lowest;
            effects.push(Effect::Committed(lowest));
        }
        self.start_round(log, effects);
    }

    /// The lowest durable end of those that an election may choose; `None` while one of them has not confirmed any.
    fn lowest_end(&self, log: &LogView) -> Option<Offset> {
        if cfg!(goulette_bug = "ack_before_isr") {
            return Some(log.durable);
        }
        let mut lowest = log.durable;
        for member in self.state.isr.iter().chain(&self.proposed).filter(|&member| *member != self.me) {
            let link = self.followers.get(&member.broker)?.link.as_ref()?;
            lowest = lowest.min(link.end.filter(|_| link.member == *member)?);
        }
        Some(lowest)
    }

    /// Takes a follower's message; refusals go back as effects.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        broker: &BrokerId,
        message: ToLeader,
        log: &mut LogView,
        effects: &mut Vec<Effect>,
    ) {
        let stream = message.stream;
        if let Err(refused) = self.take(now, broker, message, log, effects) {
            if let Some(progress) = self.followers.get_mut(broker)
                && progress.link.as_ref().is_some_and(|link| link.stream == stream)
            {
                progress.link = None;
            }
            self.send(broker, stream, FromLeader::Refused(refused), effects);
        }
        self.advance(log, effects);
        self.propose(now, log, effects);
    }

    fn take(
        &mut self,
        now: Duration,
        broker: &BrokerId,
        message: ToLeader,
        log: &LogView,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let ToLeader { stream, leader_epoch: given, body } = message;
        let current = self.epoch();
        if given != current && !cfg!(goulette_bug = "no_epoch_check") {
            return Err(Refused::OtherEpoch { given, current: Some(current) });
        }
        match body {
            FromFollower::Hello { member, incarnation, last } => {
                if member.broker != *broker {
                    return Err(Refused::NotReplica);
                }
                let progress = self.followers.get_mut(broker).ok_or(Refused::NotReplica)?;
                let early = cfg!(goulette_bug = "end_before_handshake").then(|| last.end.min(log.durable));
                progress.link = Some(Link { member, incarnation, stream, end: early });
                // Only what is durable here is ever sent, so that is where the newest epoch ends.
                let shared = log.end_of(last.epoch);
                let shared = shared.map(|shared| LogEnd { end: shared.end.min(log.durable), ..shared });
                let cut = Cut { shared, start: log.start, end: log.durable };
                self.send(broker, stream, FromLeader::Cut(cut), effects);
            }
            FromFollower::Confirm { end } => {
                let (in_sync, committed) = (self.state.isr.clone(), log.committed);
                let progress = self.followers.get_mut(broker).ok_or(Refused::NotReplica)?;
                let link = progress.link_on(stream)?;
                if end > log.durable {
                    return Err(Refused::BeyondEnd { given: end, end: log.durable });
                }
                if end < committed && in_sync.contains(&link.member) {
                    return Err(Refused::LostData { given: end, committed });
                }
                link.end = Some(end);
                progress.heard(now, end, log.durable);
                effects.push(Effect::Feed { broker: broker.clone(), stream, from: end });
                self.send(broker, stream, FromLeader::Committed(log.committed), effects);
                if let Some(round) = self.fresh.asks(broker) {
                    self.send(broker, stream, FromLeader::Ping { round }, effects);
                }
            }
            FromFollower::Durable { end } => {
                let progress = self.followers.get_mut(broker).ok_or(Refused::NotReplica)?;
                let link = progress.link_on(stream)?;
                let before = link.end.ok_or(Refused::NoHandshake)?;
                if end > log.durable {
                    return Err(Refused::BeyondEnd { given: end, end: log.durable });
                }
                if end < before {
                    return Err(Refused::WentBack { given: end, before });
                }
                link.end = Some(end);
                progress.heard(now, end, log.durable);
            }
            FromFollower::Pong { round } => {
                let progress = self.followers.get_mut(broker).ok_or(Refused::NotReplica)?;
                progress.link_on(stream)?.end.ok_or(Refused::NoHandshake)?;
                self.fresh.answered(broker, round, effects);
            }
        }
        Ok(())
    }

    /// The stream to a follower broke: its end counts again after the next handshake.
    pub(crate) fn lost(&mut self, broker: &BrokerId, stream: Stream) {
        if let Some(progress) = self.followers.get_mut(broker)
            && progress.link.as_ref().is_some_and(|link| link.stream == stream)
        {
            progress.link = None;
        }
    }

    /// Whether requests that ask for the end, or for the state of a coordinator, may be answered: all that earlier
    /// epochs may have acknowledged is known to be committed.
    pub fn answers(&self, log: &LogView) -> bool {
        log.committed >= self.epoch_end
    }

    /// Whether a batch may be appended.
    ///
    /// # Errors
    /// [`ProduceRefusal::NotEnoughReplicas`] if `acks = all` could not be reached now.
    pub fn admits(&self, all: bool) -> Result<(), ProduceRefusal> {
        if all && !self.state.has_minimum() {
            return Err(ProduceRefusal::NotEnoughReplicas {
                in_sync: self.state.isr.len() as u32,
                minimum: self.state.min_insync,
            });
        }
        Ok(())
    }

    /// Asks for a read that no later leadership can have made stale; [`Effect::Fresh`] tells when it may be answered.
    pub(crate) fn fresh_read(&mut self, log: &LogView, effects: &mut Vec<Effect>) -> FreshRead {
        let read = self.fresh.add();
        self.start_round(log, effects);
        read
    }

    fn start_round(&mut self, log: &LogView, effects: &mut Vec<Effect>) {
        if !self.fresh.wants_round() || !self.answers(log) {
            return;
        }
        let round = self.fresh.start(self.quorum(), effects);
        let streams: Vec<_> = (self.followers.iter())
            .filter(|(broker, _)| self.fresh.asks(broker).is_some())
            .filter_map(|(broker, progress)| {
                let link = progress.link.as_ref().filter(|link| link.end.is_some())?;
                Some((broker.clone(), link.stream))
            })
            .collect();
        for (broker, stream) in streams {
            self.send(&broker, stream, FromLeader::Ping { round }, effects);
        }
    }

    /// Everybody else who may be elected without this leader's knowledge.
    fn quorum(&self) -> BTreeSet<BrokerId> {
        let members = self.state.isr.iter().chain(&self.state.eligible).chain(&self.proposed);
        members.map(|member| member.broker.clone()).filter(|broker| *broker != self.me.broker).collect()
    }

    /// Time has passed: laggards leave, proposals without an answer are repeated.
    pub(crate) fn tick(&mut self, now: Duration, log: &LogView, effects: &mut Vec<Effect>) {
        self.propose(now, log, effects);
    }

    /// The in-sync replicas as they should be: the leader; members that do not lag; and live followers that have reached,
    /// in this epoch, all that may be committed.
    fn wanted(&self, now: Duration, log: &LogView) -> Vec<Member> {
        let needed = log.committed.max(self.epoch_end);
        let mut wanted = Vec::new();
        for broker in &self.state.replicas {
            if *broker == self.me.broker {
                wanted.push(self.me.clone());
                continue;
            }
            let Some(progress) = self.followers.get(broker) else { continue };
            if progress.lags(now, self.options.lag_max) {
                continue;
            }
            let members = self.state.isr.iter().chain(&self.proposed);
            let seat = members.clone().find(|member| member.broker == *broker);
            let linked = progress.link.as_ref().map(|link| (&link.member, link.end));
            match (seat, linked) {
                (Some(seat), None) => wanted.push(seat.clone()),
                (Some(seat), Some((member, _))) if seat == member => wanted.push(seat.clone()),
                (_, Some((member, Some(end)))) if end >= needed => wanted.push(member.clone()),
                _ => {}
            }
        }
        wanted
    }

    fn propose(&mut self, now: Duration, log: &LogView, effects: &mut Vec<Effect>) {
        if let Some(at) = self.proposed_at {
            if now < at + self.options.propose_again {
                return;
            }
            if cfg!(goulette_bug = "isr_timeout_is_an_outcome") {
                self.proposed.clear();
                self.proposed_at = None;
            }
        }
        let wanted = self.wanted(now, log);
        let differs = wanted.len() != self.state.isr.len() || !wanted.iter().all(|member| self.state.in_sync(member));
        // Without a difference only to void what was proposed before: the higher partition epoch does.
        if !differs && self.proposed_at.is_none() {
            return;
        }
        self.proposed.extend(wanted.iter().filter(|member| !self.state.in_sync(member)).cloned());
        self.proposed_at = Some(now);
        effects.push(Effect::Propose(Proposal {
            leader: self.id.clone(),
            leader_epoch: self.epoch(),
            partition_epoch: self.state.partition_epoch,
            isr: wanted,
        }));
    }

    /// One progress for each other replica.
    fn keep_followers(&mut self, now: Duration) {
        let (me, replicas) = (&self.me.broker, &self.state.replicas);
        self.followers.retain(|broker, _| replicas.contains(broker));
        for broker in replicas.iter().filter(|broker| *broker != me) {
            self.followers.entry(broker.clone()).or_insert_with(|| Progress::new(now));
        }
    }

    fn send(&self, broker: &BrokerId, stream: Stream, body: FromLeader, effects: &mut Vec<Effect>) {
        let message = ToFollower { stream, leader_epoch: self.epoch(), body };
        effects.push(Effect::ToFollower { broker: broker.clone(), message });
    }
}

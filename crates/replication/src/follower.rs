//! Follows one leader in one epoch: the handshake, the cut, and what may be appended.

use goulette_types::{Incarnation, LeaderEpoch, Offset};

use crate::{
    log_view::LogView,
    message::{BatchFacts, Cut, FromFollower, Stream, ToLeader},
    replica::{Effect, FollowError, StopReason},
    state::{LeaderId, LogEnd, Member},
};

/// The follower of one partition in one leader epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Follower {
    leader: LeaderId,
    epoch: LeaderEpoch,
    /// The epoch begun by the last unclean election.
    unclean: Option<LeaderEpoch>,
    stream: Option<Stream>,
    phase: Phase,
    /// What the leader says is committed.
    pushed: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// For a stream, or for what was handed to the log to be durable.
    Waiting,
    /// The leader is to say where this (epoch, end) ends in its log.
    Asked(LogEnd),
    /// The truncation is ordered.
    Cutting,
    /// Ends count, batches are taken.
    Following,
}

impl Follower {
    pub(crate) fn new(leader: LeaderId, epoch: LeaderEpoch, unclean: Option<LeaderEpoch>) -> Self {
        Self { leader, epoch, unclean, stream: None, phase: Phase::Waiting, pushed: Offset::ZERO }
    }

    pub(crate) fn leader(&self) -> &LeaderId {
        &self.leader
    }

    pub(crate) fn is_following(&self) -> bool {
        self.phase == Phase::Following
    }

    pub(crate) fn opened(&mut self, stream: Stream) {
        self.stream = Some(stream);
        self.phase = Phase::Waiting;
    }

    pub(crate) fn closed(&mut self, stream: Stream) {
        if self.stream == Some(stream) {
            self.stream = None;
            self.phase = Phase::Waiting;
        }
    }

    pub(crate) fn is_on(&self, stream: Stream) -> bool {
        self.stream == Some(stream)
    }

    /// Begins the handshake as soon as there is a stream and the log is settled: what is under way to the disk would
    /// otherwise stand behind a cut that did not know of it.
    pub(crate) fn hello(&mut self, me: &Member, incarnation: Incarnation, log: &LogView, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Waiting && self.stream.is_some() && log.is_settled() {
            self.ask(me, incarnation, log.last(), effects);
        }
    }

    fn ask(&mut self, me: &Member, incarnation: Incarnation, last: LogEnd, effects: &mut Vec<Effect>) {
        self.phase = Phase::Asked(last);
        self.send(FromFollower::Hello { member: me.clone(), incarnation, last }, effects);
    }

    /// Takes the leader's answer: asks on about an older epoch, or cuts.
    pub(crate) fn answered(
        &mut self,
        cut: Cut,
        me: &Member,
        incarnation: Incarnation,
        log: &mut LogView,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StopReason> {
        let Phase::Asked(asked) = self.phase else { return Ok(()) };
        // Without a shared epoch nothing that is kept here is the leader's; what retention has removed was committed.
        let mut to = if log.start <= cut.end { log.start } else { cut.start };
        if let Some(shared) = cut.shared {
            let own = log.end_of(shared.epoch);
            match own {
                // Both logs have written in this epoch: they agree up to the lower end of it.
                Some(own) if own.epoch == shared.epoch => to = own.end.min(shared.end),
                // KIP-279: an epoch that is unknown here. Ask on about the next one below; that is strictly older.
                Some(own) if own.epoch < asked.epoch => {
                    self.ask(me, incarnation, own, effects);
                    return Ok(());
                }
                _ => {}
            }
        }
        if cfg!(goulette_bug = "truncate_to_committed") {
            to = log.committed;
        }
        // Below the leader's start nothing is kept there, below the own start nothing here: begin anew, empty.
        let restart = to < cut.start || to < log.start;
        let to = to.max(cut.start);
        let unclean = self.unclean.is_some_and(|unclean| log.epochs.last() < unclean);
        if to < log.committed && !unclean {
            return Err(StopReason::BelowCommitted { cut: to, committed: log.committed });
        }
        if restart || to < log.written {
            self.phase = Phase::Cutting;
            log.cutting = Some(to);
            effects.push(Effect::Truncate { to, restart });
        } else {
            self.confirm(log, effects);
        }
        Ok(())
    }

    /// The ordered truncation is durable.
    pub(crate) fn cut(&mut self, log: &LogView, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Cutting {
            self.confirm(log, effects);
        }
    }

    fn confirm(&mut self, log: &LogView, effects: &mut Vec<Effect>) {
        self.phase = Phase::Following;
        self.send(FromFollower::Confirm { end: log.durable }, effects);
    }

    /// Whether a batch may be handed to the log.
    pub(crate) fn takes(
        &self,
        stream: Stream,
        epoch: LeaderEpoch,
        batch: &BatchFacts,
        log: &LogView,
    ) -> Result<(), FollowError> {
        if epoch != self.epoch && !cfg!(goulette_bug = "no_epoch_check") {
            return Err(FollowError::OtherEpoch { given: epoch, current: self.epoch });
        }
        if !self.is_following() || !(self.is_on(stream) || cfg!(goulette_bug = "no_epoch_check")) {
            return Err(FollowError::NotFollowing);
        }
        if batch.epoch > epoch || !log.continues(batch) {
            return Err(FollowError::Gap { expected: log.written, given: batch.base });
        }
        Ok(())
    }

    /// As [`takes`](Self::takes), and notes the batch.
    pub(crate) fn offer(
        &mut self,
        stream: Stream,
        epoch: LeaderEpoch,
        batch: &BatchFacts,
        log: &mut LogView,
    ) -> Result<(), FollowError> {
        self.takes(stream, epoch, batch, log)?;
        if !log.write(batch) {
            return Err(FollowError::Gap { expected: log.written, given: batch.base });
        }
        Ok(())
    }

    /// The leader says what is committed; the follower believes in as much of it as it holds durably.
    pub(crate) fn pushed(&mut self, committed: Offset, log: &mut LogView, effects: &mut Vec<Effect>) {
        self.pushed = self.pushed.max(committed);
        self.keep_committed(log, effects);
    }

    /// The durable end has risen.
    pub(crate) fn durable(&mut self, log: &mut LogView, effects: &mut Vec<Effect>) {
        if self.is_following() {
            self.send(FromFollower::Durable { end: log.durable }, effects);
            self.keep_committed(log, effects);
        }
    }

    fn keep_committed(&mut self, log: &mut LogView, effects: &mut Vec<Effect>) {
        let committed = self.pushed.min(log.durable);
        if self.is_following() && committed > log.committed {
            log.committed = committed;
            effects.push(Effect::Committed(committed));
        }
    }

    pub(crate) fn pong(&self, round: u64, effects: &mut Vec<Effect>) {
        if self.is_following() {
            self.send(FromFollower::Pong { round }, effects);
        }
    }

    fn send(&self, body: FromFollower, effects: &mut Vec<Effect>) {
        if let Some(stream) = self.stream {
            let message = ToLeader { stream, leader_epoch: self.epoch, body };
            effects.push(Effect::ToLeader { leader: self.leader.broker.clone(), message });
        }
    }
}

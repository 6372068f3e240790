//! One partition's batches, oldest first, and how far each has got.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use goulette_types::{BrokerId, ErrorKind};

use super::{Identity, LeaderRef, RequestId};
use crate::{backoff::Pauses, producer::accumulator::BatchId};

/// Sequence numbers of an epoch end here. Kafka's wrap; a new epoch needs no rule of its own for that.
pub(super) const SEQUENCE_MAX: u32 = i32::MAX as u32;

/// A batch that is not settled.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) batch: BatchId,
    records: u32,
    opened: Instant,
    /// Its number within the partition's epoch, once it was sent.
    sequence: Option<u32>,
    /// The request that is under way.
    pub(super) request: Option<RequestId>,
    /// An attempt ended without saying whether it was stored.
    lost: bool,
}

impl Queued {
    pub(super) fn new(batch: BatchId, records: u32, opened: Instant) -> Self {
        Self { batch, records, opened, sequence: None, request: None, lost: false }
    }

    pub(super) fn may_be_stored(&self) -> bool {
        self.lost || self.request.is_some()
    }
}

/// What a refusal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The same again.
    Retry { may_be_stored: bool, stale_route: bool },
    /// A batch before this one is missing.
    Gap,
    /// Nothing helps.
    Fatal,
}

impl Refusal {
    pub(super) fn of(kind: ErrorKind) -> Self {
        let refused = Refusal::Retry { may_be_stored: false, stale_route: false };
        let elsewhere = Refusal::Retry { may_be_stored: false, stale_route: true };
        match kind {
            ErrorKind::Busy | ErrorKind::StorageFull | ErrorKind::NotEnoughReplicas => refused,
            // A broker may not have heard of a new topic yet. If it is gone, the sentinel will say so.
            ErrorKind::NotLeader | ErrorKind::Offline | ErrorKind::NotFound => elsewhere,
            ErrorKind::Unavailable | ErrorKind::OutcomeUnknown | ErrorKind::DeadlineExceeded => {
                Refusal::Retry { may_be_stored: true, stale_route: true }
            }
            ErrorKind::OutOfOrder => Refusal::Gap,
            ErrorKind::Invalid
            | ErrorKind::TooLarge
            | ErrorKind::AlreadyExists
            | ErrorKind::Conflict
            | ErrorKind::Fenced
            | ErrorKind::OutOfRange
            | ErrorKind::Corrupt
            | ErrorKind::Unsupported
            | ErrorKind::Internal => Refusal::Fatal,
        }
    }
}

/// A partition's place, numbering and queue.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) leader: Option<LeaderRef>,
    /// Not settled, oldest first. Those with a sequence number come before those without.
    pub(super) queue: VecDeque<Queued>,
    /// How many of them, from the oldest, have been sent in this round.
    sent: usize,
    /// Unanswered requests, also of batches that were given up meanwhile.
    pub(super) in_flight: u32,
    /// Something was refused: nothing is sent until all in flight is answered, then all again.
    rewinding: bool,
    /// Refusals in a row.
    failures: u32,
    not_before: Option<Instant>,
    /// Whose numbers the batches have.
    pub(super) identity: Option<Identity>,
    next_sequence: u32,
    renew: bool,
    /// A batch of this epoch was given up and may be stored: it may have left a gap, or not.
    given_up_unknown: bool,
    /// What stood in the way last.
    pub(super) obstacle: String,
}

impl Partition {
    pub(super) fn new(leader: Option<LeaderRef>) -> Self {
        Self {
            leader,
            queue: VecDeque::new(),
            sent: 0,
            in_flight: 0,
            rewinding: false,
            failures: 0,
            not_before: None,
            identity: None,
            next_sequence: 0,
            renew: false,
            given_up_unknown: false,
            obstacle: String::new(),
        }
    }

    pub(super) fn is_led_by(&self, broker: &BrokerId) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.broker == *broker)
    }

    /// What is in flight in another epoch of the same broker stays there until it answers, or its stream breaks.
    pub(super) fn led_by(&mut self, leader: Option<LeaderRef>) {
        if self.leader != leader {
            self.rewinding |= self.in_flight > 0;
            self.not_before = None;
            self.leader = leader;
        }
    }

    pub(super) fn obstacle(&mut self, reason: &str) {
        reason.clone_into(&mut self.obstacle);
    }

    /// Whether a batch waits to be sent, and nothing here forbids it.
    pub(super) fn has_unsent(&self, now: Instant) -> bool {
        self.sent < self.queue.len() && !self.rewinding && self.not_before.is_none_or(|not_before| now >= not_before)
    }

    pub(super) fn needs_new_epoch(&self) -> bool {
        let fits = |queued: &Queued| self.next_sequence.checked_add(queued.records).is_some_and(|n| n <= SEQUENCE_MAX);
        let exhausted = || self.queue.get(self.sent).is_some_and(|next| next.sequence.is_none() && !fits(next));
        self.identity.is_none() || self.renew || exhausted()
    }

    /// Numbers everything anew, from 0. Returns the batches for which that is not safe: after one was given up without
    /// an answer, whatever was sent behind it may yet be stored under its old number, and again under a new one.
    pub(super) fn begin_epoch(&mut self, identity: Identity) -> Vec<BatchId> {
        debug_assert_eq!(self.in_flight, 0, "old numbers are still on their way");
        let mut unknown = Vec::new();
        if self.given_up_unknown {
            self.queue.retain(|queued| {
                unknown.extend(queued.lost.then_some(queued.batch));
                !queued.lost
            });
        }
        for queued in &mut self.queue {
            queued.sequence = None;
        }
        self.sent = 0;
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.renew = false;
        self.given_up_unknown = false;
        unknown
    }

    /// The number of the next batch to send: the one that it has, or else the next one.
    pub(super) fn number_next(&mut self) -> Option<(Identity, u32)> {
        let next = self.queue.get_mut(self.sent)?;
        let sequence = *next.sequence.get_or_insert_with(|| {
            let sequence = self.next_sequence;
            self.next_sequence += next.records;
            sequence
        });
        self.identity.map(|identity| (identity, sequence))
    }

    pub(super) fn send_next(&mut self, request: RequestId) -> Option<BatchId> {
        let next = self.queue.get_mut(self.sent)?;
        next.request = Some(request);
        self.sent += 1;
        self.in_flight += 1;
        Some(next.batch)
    }

    /// Called once per answer, behind what the answer says.
    pub(super) fn one_less_in_flight(&mut self) {
        self.in_flight -= 1;
        if self.in_flight == 0 && self.rewinding {
            self.rewinding = false;
            self.sent = 0;
        }
    }

    pub(super) fn acked(&mut self, request: RequestId) -> Option<Queued> {
        self.failures = 0;
        self.obstacle.clear();
        self.remove(request)
    }

    /// Takes the batch out that the request carried, unless it was given up meanwhile.
    pub(super) fn remove(&mut self, request: RequestId) -> Option<Queued> {
        let at = self.queue.iter().position(|queued| queued.request == Some(request))?;
        self.remove_at(at)
    }

    fn remove_at(&mut self, at: usize) -> Option<Queued> {
        self.sent -= usize::from(at < self.sent);
        self.queue.remove(at)
    }

    /// Sends everything from the oldest on again, after a pause, once nothing is in flight any more.
    pub(super) fn retry(
        &mut self,
        request: RequestId,
        may_be_stored: bool,
        message: String,
        now: Instant,
        pauses: &mut Pauses,
    ) {
        if let Some(queued) = self.queue.iter_mut().find(|queued| queued.request == Some(request)) {
            queued.request = None;
            queued.lost |= may_be_stored;
        }
        // The refusals that follow from the first one, of batches behind it, are no new failures.
        if !self.rewinding {
            self.rewinding = true;
            self.failures += 1;
            self.not_before = Some(now + pauses.pause(self.failures));
            self.obstacle = message;
        }
    }

    /// The broker misses something before this batch. If there is an older batch here, that is it, and it comes first
    /// in the retry. If there is none, the gap can only be closed by new numbers.
    pub(super) fn gap(&mut self, request: RequestId, message: String, now: Instant, pauses: &mut Pauses) {
        self.renew |= self.queue.front().is_some_and(|oldest| oldest.request == Some(request));
        self.retry(request, false, message, now, pauses);
    }

    /// One of this partition's requests will not be answered any more; called for each of them.
    pub(super) fn connection_lost(&mut self, reason: &str) {
        for queued in &mut self.queue {
            queued.lost |= queued.request.take().is_some();
        }
        self.rewinding = true;
        self.obstacle(reason);
        self.one_less_in_flight();
    }

    /// Takes out the oldest batch if its time is up.
    pub(super) fn expired(&mut self, now: Instant, timeout: Duration) -> Option<Queued> {
        let oldest = self.queue.front().filter(|oldest| now >= oldest.opened + timeout)?;
        self.given_up_unknown |= oldest.may_be_stored();
        self.remove_at(0)
    }

    /// Takes out everything.
    pub(super) fn give_up(&mut self) -> VecDeque<Queued> {
        self.sent = 0;
        self.renew = self.identity.is_some();
        std::mem::take(&mut self.queue)
    }
}

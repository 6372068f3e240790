//! What the core knows of a replica's log.

use goulette_types::{LeaderEpoch, Offset};

use crate::{epochs::Epochs, message::BatchFacts, state::LogEnd};

/// A log as the core sees it: `start <= committed <= durable <= written`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogView {
    /// The first kept offset.
    pub start: Offset,
    /// The first offset that is not handed to the log yet.
    pub written: Offset,
    /// All below is on stable storage.
    pub durable: Offset,
    /// All below was known to be committed.
    pub committed: Offset,
    /// Which epoch wrote what, up to `written`.
    pub epochs: Epochs,
    /// A truncation that is ordered, but not durable yet: until then the log is in nobody's service.
    pub cutting: Option<Offset>,
}

impl LogView {
    /// A log as it was opened: all of it is durable.
    pub fn opened(start: Offset, end: Offset, committed: Offset, epochs: Epochs) -> Self {
        let committed = committed.min(end).max(start);
        Self { start, written: end, durable: end, committed, epochs, cutting: None }
    }

    /// Where the log stands.
    pub fn last(&self) -> LogEnd {
        LogEnd { epoch: self.epochs.last(), end: self.written }
    }

    /// Whether everything that was handed to the log is durable and no truncation is under way.
    pub fn is_settled(&self) -> bool {
        self.durable == self.written && self.cutting.is_none()
    }

    /// Whether a batch continues the log.
    pub(crate) fn continues(&self, batch: &BatchFacts) -> bool {
        let follows = batch.base == self.written && batch.end > batch.base && self.cutting.is_none();
        follows && batch.epoch >= self.epochs.last()
    }

    /// Notes a batch that is handed to the log; false if it does not continue it.
    pub(crate) fn write(&mut self, batch: &BatchFacts) -> bool {
        if !self.continues(batch) || !self.epochs.note(batch.epoch, batch.base) {
            return false;
        }
        self.written = batch.end;
        true
    }

    /// Notes a durable truncation to `end`; one below `start` empties the log, which then starts at `end`.
    pub(crate) fn cut(&mut self, end: Offset, restart: bool) {
        if restart {
            *self = Self { start: end, written: end, durable: end, committed: end, ..Self::default() };
            return;
        }
        self.epochs.truncate(end);
        self.written = self.written.min(end);
        self.durable = self.durable.min(end);
        self.committed = self.committed.min(end);
        self.cutting = None;
    }

    /// The highest epoch at or below `asked`, and where it ends here.
    pub(crate) fn end_of(&self, asked: LeaderEpoch) -> Option<LogEnd> {
        self.epochs.end_of(asked, self.written)
    }
}

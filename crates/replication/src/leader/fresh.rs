//! Reads that must not be stale: a round trip to all who could have been elected meanwhile.

use std::collections::BTreeSet;

use goulette_types::BrokerId;

use crate::replica::Effect;

/// A read that waits to be known as fresh; they rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FreshRead(pub u64);

/// Reads that share round trips: those that come while a round is under way wait for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct FreshReads {
    /// Reads asked for.
    asked: u64,
    /// Reads that were answered.
    answered: u64,
    rounds: u64,
    round: Option<Round>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    /// Reads below were asked for before the round began.
    below: u64,
    awaited: BTreeSet<BrokerId>,
}

impl FreshReads {
    pub(super) fn add(&mut self) -> FreshRead {
        self.asked += 1;
        FreshRead(self.asked - 1)
    }

    pub(super) fn wants_round(&self) -> bool {
        self.round.is_none() && self.answered < self.asked
    }

    /// Begins a round with these others; ends it at once if there are none.
    pub(super) fn start(&mut self, others: BTreeSet<BrokerId>, effects: &mut Vec<Effect>) -> u64 {
        self.rounds += 1;
        self.round = Some(Round { below: self.asked, awaited: others });
        self.finish(effects);
        self.rounds
    }

    /// The round that waits for this broker.
    pub(super) fn asks(&self, broker: &BrokerId) -> Option<u64> {
        self.round.as_ref().filter(|round| round.awaited.contains(broker)).map(|_| self.rounds)
    }

    pub(super) fn answered(&mut self, broker: &BrokerId, round: u64, effects: &mut Vec<Effect>) {
        if round == self.rounds
            && let Some(current) = &mut self.round
        {
            current.awaited.remove(broker);
            self.finish(effects);
        }
    }

    /// A newer state of the same epoch: nobody else could have been elected before it.
    pub(super) fn retain(&mut self, others: &BTreeSet<BrokerId>, effects: &mut Vec<Effect>) {
        if let Some(round) = &mut self.round {
            round.awaited.retain(|broker| others.contains(broker));
            self.finish(effects);
        }
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        if let Some(round) = self.round.take_if(|round| round.awaited.is_empty()) {
            self.answered = round.below;
            effects.push(Effect::Fresh { below: FreshRead(round.below) });
        }
    }
}

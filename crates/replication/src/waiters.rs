//! Producers that wait until their batch is safe enough.

use std::collections::VecDeque;

use goulette_types::{Acks, LeaderEpoch, Offset};

/// What a waiting producer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The level that it asked for is reached.
    Reached(Acks),
    /// The leadership ended first: the batch may come to be committed, or not.
    Unknown,
}

/// Waiting producers of one partition in the order of their batches, bound to one leader epoch. The shell bounds how
/// many there are (by its budget of bytes), and gives each a deadline of its own.
#[derive(Debug)]
pub struct Waiters<T> {
    epoch: LeaderEpoch,
    for_durable: VecDeque<(Offset, T)>,
    for_committed: VecDeque<(Offset, T)>,
}

impl<T> Waiters<T> {
    /// No waiters, in a leader epoch.
    pub fn new(epoch: LeaderEpoch) -> Self {
        Self { epoch, for_durable: VecDeque::new(), for_committed: VecDeque::new() }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.for_durable.len() + self.for_committed.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until `acks` is reached for a batch that ends before `end`, appended in `epoch`. Ends need not rise: the
    /// duplicate of an older batch waits for the older end.
    ///
    /// # Errors
    /// Gives the waiter back with what to tell it now: with `Acks::None` at once, or if the leadership that the batch
    /// was appended in is over.
    pub fn wait(&mut self, epoch: LeaderEpoch, acks: Acks, end: Offset, waiter: T) -> Result<(), (Outcome, T)> {
        if epoch != self.epoch {
            return Err((Outcome::Unknown, waiter));
        }
        let queue = match acks {
            Acks::None => return Err((Outcome::Reached(Acks::None), waiter)),
            Acks::Leader => &mut self.for_durable,
            Acks::All => &mut self.for_committed,
        };
        let behind = queue.partition_point(|(other, _)| *other <= end);
        queue.insert(behind, (end, waiter));
        Ok(())
    }

    /// Takes out those whose level is reached, in the order of their ends.
    pub fn reached(&mut self, durable: Offset, committed: Offset) -> Vec<(Outcome, T)> {
        let mut told = Vec::new();
        for (queue, end, acks) in
            [(&mut self.for_durable, durable, Acks::Leader), (&mut self.for_committed, committed, Acks::All)]
        {
            let reached = queue.partition_point(|(other, _)| *other <= end);
            told.extend(queue.drain(..reached).map(|(_, waiter)| (Outcome::Reached(acks), waiter)));
        }
        told
    }

    /// The leadership is over, or another one begins: everybody is told that the outcome is unknown.
    pub fn end_epoch(&mut self, next: LeaderEpoch) -> Vec<(Outcome, T)> {
        self.epoch = next;
        let all = self.for_durable.drain(..).chain(self.for_committed.drain(..));
        all.map(|(_, waiter)| (Outcome::Unknown, waiter)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_waits_for_its_own_end() {
        let mut waiters = Waiters::new(LeaderEpoch(3));
        assert_eq!(waiters.wait(LeaderEpoch(3), Acks::None, Offset(1), 0), Err((Outcome::Reached(Acks::None), 0)));
        waiters.wait(LeaderEpoch(3), Acks::Leader, Offset(2), 1).unwrap();
        waiters.wait(LeaderEpoch(3), Acks::All, Offset(2), 2).unwrap();
        waiters.wait(LeaderEpoch(3), Acks::All, Offset(4), 3).unwrap();
        assert_eq!(waiters.reached(Offset(4), Offset(1)), [(Outcome::Reached(Acks::Leader), 1)]);
        assert_eq!(waiters.reached(Offset(4), Offset(3)), [(Outcome::Reached(Acks::All), 2)]);
        assert_eq!(waiters.end_epoch(LeaderEpoch(4)), [(Outcome::Unknown, 3)]);
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_batch_of_an_earlier_leadership_is_never_acknowledged_in_a_later_one() {
        let mut waiters = Waiters::new(LeaderEpoch(4));
        assert_eq!(waiters.wait(LeaderEpoch(3), Acks::All, Offset(1), ()), Err((Outcome::Unknown, ())));
        assert_eq!(waiters.reached(Offset(9), Offset(9)), []);
    }
}

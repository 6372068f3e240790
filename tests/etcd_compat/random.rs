//! Numbers that only look random, so that a printed number replays a run on any machine.

use goulette_types::SplitMix64;

pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(start: u64) -> Self {
        Self(SplitMix64::new(start))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// A number of `0..bound`; `bound` is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times` calls.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

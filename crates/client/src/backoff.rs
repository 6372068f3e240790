//! How long to wait before trying again.

use std::time::Duration;

use goulette_types::SplitMix64;

/// Bounds of the pauses between attempts: they double from `first` up to `max`, less a random part of up to a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// No pause is longer.
    pub max: Duration,
}

impl Default for Backoff {
    /// 50 ms, up to 2 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(2) }
    }
}

impl Backoff {
    /// The pause after `failures` failed attempts in a row (1 for the first), between one half and the whole of its
    /// bound: peers that lost the same broker in the same moment do not come back in the same moment.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let bound = self.first.saturating_mul(1 << doublings).min(self.max);
        let fraction = random as f64 / u64::MAX as f64;
        bound.mul_f64(0.5 + fraction / 2.0)
    }
}

/// Pauses of a core without a source of randomness: a seed stands for it, so that a test replays them.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    random: SplitMix64,
}

impl Pauses {
    pub(crate) fn new(backoff: Backoff, seed: u64) -> Self {
        Self { backoff, random: SplitMix64::new(seed) }
    }

    /// The pause after `failures` failed attempts in a row.
    pub(crate) fn pause(&mut self, failures: u32) -> Duration {
        self.backoff.pause(failures, self.random.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };

    #[test]
    fn pauses_double_up_to_the_bound() {
        let pauses: Vec<_> = (1..=8).map(|failures| BACKOFF.pause(failures, u64::MAX).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(BACKOFF.pause(u32::MAX, u64::MAX), BACKOFF.max);
    }

    #[test]
    fn jitter_takes_away_a_half_at_most() {
        assert_eq!(BACKOFF.pause(1, 0), Duration::from_millis(25));
        let middle = BACKOFF.pause(1, u64::MAX / 2).as_millis();
        assert!((36..=38).contains(&middle), "{middle}");
    }
}

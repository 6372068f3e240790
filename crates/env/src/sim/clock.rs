//! Time that stands still until it is told to go on.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::Clock;

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct SimClock {
    nanoseconds: AtomicU64,
    wall_ms: AtomicI64,
}

impl SimClock {
    /// A clock at zero, whose wall time is `wall_ms`.
    pub fn new(wall_ms: i64) -> Self {
        Self { nanoseconds: AtomicU64::new(0), wall_ms: AtomicI64::new(wall_ms) }
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        self.nanoseconds.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        self.wall_ms.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an operator may.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_time_does_not_follow_a_jump_of_the_wall() {
        let clock = SimClock::new(1_000);
        clock.advance(Duration::from_millis(5));
        clock.set_wall_ms(-7);
        assert_eq!((clock.now(), clock.wall_ms()), (Duration::from_millis(5), -7));
    }
}

//! Simulated time, and clocks that do not agree.

use std::{ops::Add, time::Duration};

/// Microseconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) u64);

pub(crate) const fn micros(count: u64) -> Time {
    Time(count)
}

pub(crate) const fn millis(count: u64) -> Time {
    Time(count * 1000)
}

pub(crate) const fn seconds(count: u64) -> Time {
    Time(count * 1_000_000)
}

impl Add for Time {
    type Output = Time;

    fn add(self, other: Time) -> Time {
        Time(self.0 + other.0)
    }
}

/// A node's monotonic clock: it started at some other value, and runs too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) offset: Time,
    /// 1000 is right.
    pub(crate) rate: u64,
}

impl Clock {
    pub(crate) fn read(self, now: Time) -> Duration {
        Duration::from_micros(self.offset.0 + now.0 * self.rate / 1000)
    }
}

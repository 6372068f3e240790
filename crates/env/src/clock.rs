//! Time: monotonic for deadlines, wall time for what people read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the time.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment of this process; never goes back.
    fn now(&self) -> Duration;

    /// Milliseconds since 1970-01-01 UTC; may jump.
    fn wall_ms(&self) -> i64;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    started: Instant,
}

#[allow(clippy::disallowed_methods, reason = "this is the place that reads the real clocks")]
impl RealClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the place that reads the real clocks")]
impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wall_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }
}

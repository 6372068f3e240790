//! How far one follower is.

use std::time::Duration;

use goulette_types::{Incarnation, Offset};

use crate::{
    message::{Refused, Stream},
    state::Member,
};

/// A follower as its leader sees it, through reconnects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    /// When the follower last held all that the leader held then.
    caught_up_at: Duration,
    /// A moment, and the leader's end then: when the follower reaches it, it was caught up at that moment.
    mark: Option<(Duration, Offset)>,
    pub(super) link: Option<Link>,
}

/// One handshake: progress belongs to this incarnation, this stream and the leader's epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub(super) member: Member,
    pub(super) incarnation: Incarnation,
    pub(super) stream: Stream,
    /// The durable end; `None` until the cut is confirmed.
    pub(super) end: Option<Offset>,
}

impl Progress {
    /// A follower that nothing is known of has its time to appear.
    pub(super) fn new(now: Duration) -> Self {
        Self { caught_up_at: now, mark: None, link: None }
    }

    /// The handshake on this stream.
    pub(super) fn link_on(&mut self, stream: Stream) -> Result<&mut Link, Refused> {
        self.link.as_mut().filter(|link| link.stream == stream).ok_or(Refused::NoHandshake)
    }

    /// The follower says where it ends, while the leader's log ends at `leader_end`.
    pub(super) fn heard(&mut self, now: Duration, end: Offset, leader_end: Offset) {
        if end >= leader_end {
            self.caught_up_at = now;
            self.mark = None;
            return;
        }
        match self.mark {
            Some((at, end_then)) if end >= end_then => {
                self.caught_up_at = self.caught_up_at.max(at);
                self.mark = Some((now, leader_end));
            }
            Some(_) => {}
            None => self.mark = Some((now, leader_end)),
        }
    }

    pub(super) fn lags(&self, now: Duration, lag_max: Duration) -> bool {
        now > self.caught_up_at + lag_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_follower_that_keeps_its_distance_under_load_does_not_lag() {
        let mut progress = Progress::new(Duration::ZERO);
        for second in 1..20u32 {
            // Always one report behind a leader that never pauses.
            progress.heard(SECOND * second, Offset(u64::from(second - 1) * 10), Offset(u64::from(second) * 10));
            assert!(!progress.lags(SECOND * second, SECOND * 5), "second {second}");
        }
    }

    #[test]
    fn one_that_falls_further_and_further_behind_does() {
        let mut progress = Progress::new(Duration::ZERO);
        for second in 1..20u32 {
            progress.heard(SECOND * second, Offset(u64::from(second)), Offset(u64::from(second) * 10));
        }
        assert!(progress.lags(SECOND * 19, SECOND * 5));
    }

    #[test]
    fn one_that_is_silent_does() {
        let mut progress = Progress::new(Duration::ZERO);
        progress.heard(SECOND, Offset(7), Offset(7));
        assert!(!progress.lags(SECOND * 6, SECOND * 5));
        assert!(progress.lags(SECOND * 6 + Duration::from_millis(1), SECOND * 5));
    }
}

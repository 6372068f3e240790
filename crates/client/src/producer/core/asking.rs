//! When to ask a sentinel, and when again.

use std::time::Instant;

use crate::backoff::Pauses;

/// A question to a sentinel: one at a time, and with pauses in between while answers do not help.
#[derive(Debug, Default)]
pub(super) struct Asking {
    pub(super) wanted: bool,
    under_way: bool,
    not_before: Option<Instant>,
    /// Questions in a row without progress in between.
    failures: u32,
    /// Why the last one failed; empty if it did not.
    pub(super) reason: String,
}

impl Asking {
    /// Whether to ask now; then it counts as asked.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        let ask = self.wanted && !self.under_way && self.not_before.is_none_or(|not_before| now >= not_before);
        if ask {
            self.wanted = false;
            self.under_way = true;
        }
        ask
    }

    /// There is an answer, or for `reason` none. One that nobody asked for costs no pause.
    pub(super) fn answered(&mut self, now: Instant, pauses: &mut Pauses, reason: String) {
        if !std::mem::take(&mut self.under_way) {
            return;
        }
        self.failures += 1;
        self.not_before = Some(now + pauses.pause(self.failures));
        self.reason = reason;
    }

    /// Things go well: the next question need not wait.
    pub(super) fn forget_failures(&mut self) {
        self.failures = 0;
        self.not_before = None;
        self.reason.clear();
    }
}

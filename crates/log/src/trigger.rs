//! A flag to wait for.

use std::{
    sync::{Condvar, Mutex},
    time::Duration,
};

use crate::lock;

/// Wakes one waiting thread; pulled while nobody waits, it lets the next wait return at once.
#[derive(Default)]
pub(crate) struct Trigger {
    pulled: Mutex<bool>,
    changed: Condvar,
}

impl Trigger {
    pub(crate) fn pull(&self) {
        *lock(&self.pulled) = true;
        self.changed.notify_one();
    }

    /// Waits for the trigger, at most so long, and takes it back. Returns whether it was pulled.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let pulled = lock(&self.pulled);
        let (mut pulled, _) =
            self.changed.wait_timeout_while(pulled, timeout, |pulled| !*pulled).expect("nobody panics holding a lock");
        std::mem::take(&mut *pulled)
    }
}

//! Who waits for the result of an entry.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::Applied;

/// Those who wait, by the number that their request carries in the log.
#[derive(Default)]
pub(crate) struct Waiters {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Applied>>>,
}

impl Waiters {
    /// Waits for request `id` until the answer is dropped.
    pub(crate) fn wait(&self, id: u64) -> Waiting<'_> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, sender);
        Waiting { waiters: self, id, receiver }
    }

    /// Gives the result of request `id` to whoever waits for it here.
    pub(crate) fn wake(&self, id: u64, applied: Applied) {
        if let Some(waiter) = self.lock().remove(&id) {
            // It may have given up just now.
            let _ = waiter.send(applied);
        }
    }

    /// Whether somebody waits here: results of other members' requests need not be kept.
    pub(crate) fn is_awaited(&self, id: u64) -> bool {
        self.lock().contains_key(&id)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Applied>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait, given up when dropped.
pub(crate) struct Waiting<'w> {
    waiters: &'w Waiters,
    id: u64,
    receiver: oneshot::Receiver<Applied>,
}

impl Waiting<'_> {
    /// The result, when the entry is applied. Never if it is lost: bring a deadline.
    pub(crate) async fn result(&mut self) -> Option<Applied> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.id);
    }
}

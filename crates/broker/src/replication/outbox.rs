//! What partitions have to say on a stream, until the stream's task takes it.

use std::sync::Mutex;

use tokio::sync::Notify;

use crate::sync::lock;

/// Filled from any thread, emptied by one task, all at once. What is put in answers what came from the peer or follows the
/// log, whose appends have their own budget; marks are put in once.
pub(crate) struct Outbox<T> {
    items: Mutex<Vec<T>>,
    filled: Notify,
}

impl<T> Outbox<T> {
    pub(crate) fn new() -> Self {
        Self { items: Mutex::default(), filled: Notify::new() }
    }

    pub(crate) fn push(&self, item: T) {
        let mut items = lock(&self.items);
        items.push(item);
        let first = items.len() == 1;
        drop(items);
        if first {
            self.filled.notify_one();
        }
    }

    /// All that is in it now; may be nothing.
    pub(crate) fn drain(&self) -> Vec<T> {
        std::mem::take(&mut *lock(&self.items))
    }

    /// Waits until something is in it, and takes all. Dropped before it is done, it has taken nothing.
    pub(crate) async fn take(&self) -> Vec<T> {
        loop {
            let items = self.drain();
            if !items.is_empty() {
                return items;
            }
            self.filled.notified().await;
        }
    }
}

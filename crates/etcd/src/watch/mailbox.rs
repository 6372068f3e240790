//! What a watch stream has yet to send.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use goulette_proto::etcd::mvccpb::Event;
use tokio::sync::Notify;

/// Deliveries that may wait in one mailbox.
const DELIVERIES_MAX: usize = 1024;
/// Bytes of keys and values that may wait in one mailbox; one delivery may exceed it alone.
const BYTES_MAX: usize = 8 << 20;

/// All of one watcher's events of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The watcher.
    pub id: i64,
    /// The revision.
    pub revision: i64,
    /// Its events; at least one.
    pub events: Vec<Event>,
}

/// What is in a mailbox.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Something happened.
    Delivery(Delivery),
    /// Nothing of interest to watcher `id` (-1: to any) is missing up to `revision`.
    Progress {
        /// The watcher.
        id: i64,
        /// The revision.
        revision: i64,
    },
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Notice>,
    bytes: usize,
    /// Watchers that must read history, and from which revision on; at most one entry for each watcher.
    behind: Vec<(i64, i64)>,
}

/// A bounded queue with one reader, the stream's task.
#[derive(Debug, Default)]
pub struct Mailbox {
    inner: Mutex<Inner>,
    arrived: Notify,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds events of one revision; false if there is no place.
    pub(super) fn events(&self, id: i64, revision: i64, events: Vec<Event>) -> bool {
        let bytes = size_of(&events);
        {
            let mut inner = self.lock();
            let is_full =
                inner.waiting.len() >= DELIVERIES_MAX || (!inner.waiting.is_empty() && inner.bytes + bytes > BYTES_MAX);
            if is_full {
                return false;
            }
            inner.bytes += bytes;
            inner.waiting.push_back(Notice::Delivery(Delivery { id, revision, events }));
        }
        self.arrived.notify_one();
        true
    }

    /// Adds a sign of progress, if there is place: a reader that lags does not need one.
    pub(super) fn progress(&self, id: i64, revision: i64) {
        {
            let mut inner = self.lock();
            if inner.waiting.len() >= DELIVERIES_MAX {
                return;
            }
            inner.waiting.push_back(Notice::Progress { id, revision });
        }
        self.arrived.notify_one();
    }

    /// Notes that a watcher must read history from revision `from` on.
    pub(super) fn fall_behind(&self, id: i64, from: i64) {
        self.lock().behind.push((id, from));
        self.arrived.notify_one();
    }

    /// The next notice.
    pub fn take(&self) -> Option<Notice> {
        let mut inner = self.lock();
        let notice = inner.waiting.pop_front();
        if let Some(Notice::Delivery(delivery)) = &notice {
            inner.bytes -= size_of(&delivery.events);
        }
        notice
    }

    /// The watchers that fell behind since the last call; to be asked when there is no notice left, because what they
    /// were told before comes first.
    pub fn behind(&self) -> Option<Vec<(i64, i64)>> {
        let mut inner = self.lock();
        (!inner.behind.is_empty()).then(|| std::mem::take(&mut inner.behind))
    }

    /// Whether a watcher is noted as behind.
    pub fn is_behind(&self) -> bool {
        !self.lock().behind.is_empty()
    }

    /// Waits until something may have arrived. For one reader.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_of(events: &[Event]) -> usize {
    events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.key.len() + kv.value.len()).sum()
}

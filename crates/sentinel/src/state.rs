//! What the tasks of a sentinel share: the catalog, and how far brokers have followed it.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use goulette_types::{BrokerId, Revision};
use tokio::{sync::watch, time::timeout};

use crate::{RequestError, catalog::Catalog};

/// Shared state. The controller alone writes the catalog; locks are held for look-ups, never while waiting.
pub(crate) struct State {
    catalog: RwLock<Catalog>,
    changed: watch::Sender<Revision>,
    applied: watch::Sender<BTreeMap<BrokerId, Revision>>,
}

impl State {
    pub(crate) fn new(catalog: Catalog) -> Self {
        let changed = watch::Sender::new(catalog.revision());
        Self { catalog: RwLock::new(catalog), changed, applied: watch::Sender::default() }
    }

    /// The catalog, to look something up.
    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The catalog, to apply a commit; [`publish`](Self::publish) follows.
    pub(crate) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for the catalog to change.
    pub(crate) fn publish(&self) {
        let revision = self.catalog().revision();
        self.changed.send_replace(revision);
    }

    /// Tells when the catalog has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// Waits until the catalog has reached a revision.
    ///
    /// # Errors
    /// [`RequestError::Behind`] if it has not within `deadline`.
    pub(crate) async fn reach(&self, wanted: Revision, deadline: Duration) -> Result<(), RequestError> {
        let mut changed = self.changes();
        match timeout(deadline, changed.wait_for(|&present| present >= wanted)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RequestError::Behind { present: self.catalog().revision(), wanted }),
        }
    }

    /// Notes that a broker acts on everything up to a revision.
    pub(crate) fn note_applied(&self, broker: &BrokerId, revision: Revision) {
        self.applied.send_if_modified(|applied| applied.insert(broker.clone(), revision) != Some(revision));
    }

    /// Waits until all `brokers` act on what revision `revision` says, but no longer than `deadline`.
    pub(crate) async fn await_applied(&self, brokers: &[BrokerId], revision: Revision, deadline: Duration) {
        let mut applied = self.applied.subscribe();
        let done = applied.wait_for(|applied| {
            brokers.iter().all(|broker| applied.get(broker).is_some_and(|&applied| applied >= revision))
        });
        // A broker that is slow costs its clients a retry, no more.
        let _ = timeout(deadline, done).await;
    }
}

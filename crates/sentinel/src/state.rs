//! What the tasks of a sentinel share: the catalog, who leads, how the store does, and how far brokers have followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use goulette_meta::{Change, Changes, KeyError};
use goulette_proto::pb;
use goulette_types::{BrokerId, PartitionId, PartitionIndex, Revision, TopicId};
use tokio::{sync::watch, time::timeout};

use crate::{RequestError, catalog::Catalog};

/// Shared state. The controller alone writes the catalog; locks are held for look-ups, never while waiting.
pub(crate) struct State {
    catalog: RwLock<Catalog>,
    changed: watch::Sender<Revision>,
    applied: watch::Sender<BTreeMap<BrokerId, Revision>>,
    role: watch::Sender<Role>,
    silence: watch::Sender<Option<Silence>>,
    lease_until: watch::Sender<Duration>,
    told_foreign: Mutex<BTreeSet<String>>,
    health: Mutex<BTreeMap<BrokerId, Health>>,
    /// What brokers said they hold when they registered, where the metadata gave them none of it.
    unassigned: Mutex<BTreeMap<BrokerId, Vec<pb::Held>>>,
}

/// What the leader knows of a live broker besides the metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) suspect: bool,
    /// The clock's reading when it was heard last.
    pub(crate) heard: Duration,
    /// The age of the oldest append that its disk has not confirmed.
    pub(crate) oldest_unsynced: Duration,
}

/// What this sentinel is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It writes. With an etcd every write is guarded by the revision that made it the leader.
    Leader(Option<Revision>),
    /// It answers from its copy.
    Follower,
}

/// Who is to be asked for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    Here,
    /// A sentinel's address.
    There(String),
    Nobody,
}

/// The store does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    /// The clock's reading when it answered last.
    pub(crate) since: Duration,
    pub(crate) problem: String,
}

impl State {
    pub(crate) fn new(catalog: Catalog) -> Self {
        let changed = watch::Sender::new(catalog.revision());
        Self {
            catalog: RwLock::new(catalog),
            changed,
            applied: watch::Sender::default(),
            role: watch::Sender::new(Role::Follower),
            silence: watch::Sender::new(None),
            lease_until: watch::Sender::new(Duration::ZERO),
            told_foreign: Mutex::default(),
            health: Mutex::default(),
            unassigned: Mutex::default(),
        }
    }

    /// This sentinel's role, to be looked at and followed.
    pub(crate) fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.send_if_modified(|present| std::mem::replace(present, role) != role);
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(*self.role.borrow(), Role::Leader(_))
    }

    /// Who is to be asked for a change now.
    pub(crate) fn leader(&self) -> Leader {
        if self.leads() {
            return Leader::Here;
        }
        match self.catalog().leading_sentinel() {
            Some((leading, _)) => Leader::There(leading.address.clone()),
            None => Leader::Nobody,
        }
    }

    /// Why a change is refused here.
    pub(crate) fn not_leader(&self) -> RequestError {
        match self.leader() {
            Leader::There(address) => RequestError::NotLeader { leader: Some(address) },
            Leader::Here | Leader::Nobody => RequestError::NotLeader { leader: None },
        }
    }

    /// Since when the store has not answered; `None` while it does.
    pub(crate) fn silence(&self) -> Option<Silence> {
        self.silence.borrow().clone()
    }

    /// Notes that the store has answered; tells whether it was silent before.
    pub(crate) fn note_answer(&self) -> bool {
        self.silence.send_if_modified(|silence| silence.take().is_some())
    }

    /// Notes that the store has not answered; tells whether that is new.
    pub(crate) fn note_silence(&self, since: Duration, problem: String) -> bool {
        let mut is_new = false;
        self.silence.send_modify(|silence| {
            is_new = silence.is_none();
            let since = silence.as_ref().map_or(since, |silence| silence.since);
            *silence = Some(Silence { since, problem });
        });
        is_new
    }

    /// Until when nobody else can lead because this sentinel's lease has ended.
    pub(crate) fn lease_until(&self) -> Duration {
        *self.lease_until.borrow()
    }

    pub(crate) fn set_lease_until(&self, until: Duration) {
        self.lease_until.send_replace(until);
    }

    /// The catalog, to look something up.
    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The catalog, to change it; [`publish`](Self::publish) follows.
    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies what this sentinel has committed.
    pub(crate) fn apply(&self, revision: Revision, changes: &[Change]) {
        {
            let mut catalog = self.catalog_mut();
            changes.iter().for_each(|change| catalog.apply(revision, change));
        }
        self.publish();
    }

    /// Takes over what the store tells.
    ///
    /// # Errors
    /// As [`Catalog::take`].
    pub(crate) fn take(&self, news: &Changes) -> Result<(), KeyError> {
        {
            let mut catalog = self.catalog_mut();
            for change in &news.changes {
                catalog.take(&change.key, change.value.as_deref(), change.revision)?;
            }
            catalog.advance(news.revision);
        }
        self.publish();
        Ok(())
    }

    /// Takes everything anew.
    pub(crate) fn replace(&self, mut catalog: Catalog) {
        let mut present = self.catalog_mut();
        catalog.continues(&present);
        *present = catalog;
        drop(present);
        self.publish();
    }

    /// What is known of a broker's health; nothing of one that has never been heard here.
    pub(crate) fn health(&self, broker: &BrokerId) -> Health {
        self.healths().get(broker).copied().unwrap_or_default()
    }

    pub(crate) fn note_suspect(&self, broker: &BrokerId, suspect: bool) {
        self.healths().entry(broker.clone()).or_default().suspect = suspect;
    }

    pub(crate) fn note_heard(&self, broker: &BrokerId, heard: Duration, oldest_unsynced: Duration) {
        let mut healths = self.healths();
        let health = healths.entry(broker.clone()).or_default();
        (health.heard, health.oldest_unsynced) = (heard, oldest_unsynced);
    }

    /// Notes what a broker holds that the metadata does not give it.
    pub(crate) fn note_unassigned(&self, broker: &BrokerId, held: Vec<pb::Held>) {
        let mut unassigned = self.unassigned.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            unassigned.remove(broker);
        } else {
            unassigned.insert(broker.clone(), held);
        }
    }

    /// What brokers hold of topics that the metadata still does not know.
    pub(crate) fn unknown(&self) -> Vec<(BrokerId, pb::Held)> {
        self.still_unassigned(|catalog, _, id| catalog.topic_name(id.topic).is_none())
    }

    /// What brokers hold of partitions that are elsewhere: they moved while the broker was away, or the metadata went back.
    pub(crate) fn strays(&self) -> Vec<(BrokerId, pb::Held)> {
        self.still_unassigned(|catalog, broker, id| {
            catalog.topic_name(id.topic).is_some() && !catalog.concerns(broker, id)
        })
    }

    fn still_unassigned(
        &self,
        is_meant: impl Fn(&Catalog, &BrokerId, PartitionId) -> bool,
    ) -> Vec<(BrokerId, pb::Held)> {
        let catalog = self.catalog();
        let unassigned = self.unassigned.lock().unwrap_or_else(PoisonError::into_inner);
        let all = unassigned.iter().flat_map(|(broker, held)| held.iter().map(move |held| (broker, held)));
        let meant = all.filter(|(broker, held)| {
            TopicId::try_from(&held.topic_id[..]).is_ok_and(|topic| {
                let id = PartitionId { topic, index: PartitionIndex(held.partition) };
                !catalog.is_deleted(topic) && is_meant(&catalog, broker, id)
            })
        });
        meant.map(|(broker, held)| (broker.clone(), held.clone())).collect()
    }

    pub(crate) fn clear_suspects(&self) {
        self.healths().clear();
    }

    fn healths(&self) -> MutexGuard<'_, BTreeMap<BrokerId, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Foreign keys that have not been told yet, each with what is wrong.
    pub(crate) fn new_foreign(&self) -> Vec<(String, String)> {
        let catalog = self.catalog();
        if catalog.foreign().is_empty() {
            return Vec::new();
        }
        let mut told = self.told_foreign.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|key| catalog.foreign().contains_key(key));
        let new = catalog.foreign().iter().filter(|(key, _)| !told.contains(*key));
        let new: Vec<_> = new.map(|(key, problem)| (key.clone(), problem.clone())).collect();
        told.extend(new.iter().map(|(key, _)| key.clone()));
        new
    }

    /// Wakes those who wait for the catalog to change.
    fn publish(&self) {
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

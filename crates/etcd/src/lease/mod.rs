//! Leases: which exist and what hangs on them is agreed; when they end, only the leader's clock says.
//!
//! [`Lessor`] holds both halves. The agreed half changes within a [`Batch`], on every member alike. The clock half
//! works on the leader alone: elsewhere no lease has an end, and a new leader gives each its full (or last recorded
//! remaining) time, so that none ends early. An end is no removal: it makes the leader propose a revocation.

mod clock;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use goulette_proto::etcd::{
    etcdserverpb::{LeaseCheckpoint, LeaseGrantRequest},
    leasepb,
};
use prost::Message;
use redb::ReadableTable;
use tokio::sync::watch;

use crate::{
    EtcdError,
    store::{Batch, Failure, KeyRange, Store, StoreError, tables},
};
use clock::LeaderClock;
pub use clock::{Remaining, RenewError, Renewed};

/// The longest time to live in seconds, as in etcd.
pub const TTL_MAX: i64 = 9_000_000_000;

/// One lease.
#[derive(Debug)]
struct Lease {
    /// Seconds granted.
    ttl: i64,
    /// Seconds that remained at the last checkpoint; 0 for none.
    remaining: i64,
    /// When it ends, on the leader; `None` elsewhere.
    expiry: Option<Duration>,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    /// The seconds it is given when its time starts anew.
    fn seconds(&self) -> i64 {
        if self.remaining > 0 { self.remaining } else { self.ttl }
    }
}

#[derive(Debug, Default)]
struct Inner {
    leases: HashMap<i64, Lease>,
    /// The lease of each key that has one.
    keys: HashMap<Bytes, i64>,
    clock: Option<LeaderClock>,
}

/// All leases of a member.
pub struct Lessor {
    inner: Mutex<Inner>,
    /// Shorter grants are raised to this; seconds.
    ttl_min: i64,
    /// Moves when a lease is gone, or the clock starts or stops to count.
    changed: watch::Sender<()>,
}

impl Lessor {
    /// No leases. Grants below `ttl_min` seconds are raised to it: a lease must outlive an election.
    pub fn new(ttl_min: i64) -> Self {
        Self { inner: Mutex::new(Inner::default()), ttl_min, changed: watch::Sender::new(()) }
    }

    /// Builds everything from what is stored: at the start, and when another member's state is installed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self, store: &Store) -> Result<(), StoreError> {
        let mut fresh = Inner::default();
        store.scan(tables::LEASE, |_, value| {
            let lease = leasepb::Lease::decode(value)
                .map_err(|error| StoreError::Damaged(format!("a stored lease cannot be read: {error}")))?;
            let (ttl, remaining) = (lease.ttl.max(self.ttl_min), lease.remaining_ttl);
            fresh.leases.insert(lease.id, Lease { ttl, remaining, expiry: None, keys: BTreeSet::new() });
            Ok(())
        })?;
        store.for_each_leased(|key, lease| fresh.attach(lease, key))?;
        *self.lock() = fresh;
        self.changed.send_replace(());
        Ok(())
    }

    /// Follows what a renewal may wait for: that a lease is gone, that this member's clock counts or does not any more.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether the lease exists.
    pub fn exists(&self, id: i64) -> bool {
        self.lock().leases.contains_key(&id)
    }

    /// The keys of a lease in order; `None` if it does not exist.
    pub fn keys(&self, id: i64) -> Option<Vec<Bytes>> {
        self.lock().leases.get(&id).map(|lease| lease.keys.iter().cloned().collect())
    }

    /// Hangs a key on a lease instead of the one that it hung on; 0 for none.
    pub(crate) fn attach(&self, lease: i64, key: &Bytes) {
        let mut inner = self.lock();
        // Most keys have no lease, before and after.
        if lease != 0 || !inner.keys.is_empty() {
            inner.attach(lease, key);
        }
    }

    /// Grants a lease; answers its time to live in seconds.
    ///
    /// # Errors
    /// [`EtcdError::LeaseTtlTooLarge`], [`EtcdError::LeaseExist`], [`EtcdError::LeaseNotFound`] for the id 0.
    pub fn grant(&self, batch: &Batch<'_>, request: &LeaseGrantRequest, now: Duration) -> Result<i64, Failure> {
        if request.id == 0 {
            return Err(EtcdError::LeaseNotFound.into());
        }
        if request.ttl > TTL_MAX {
            return Err(EtcdError::LeaseTtlTooLarge.into());
        }
        let mut inner = self.lock();
        if inner.leases.contains_key(&request.id) {
            return Err(EtcdError::LeaseExist.into());
        }
        let ttl = request.ttl.max(self.ttl_min);
        persist(batch, request.id, ttl, 0)?;
        inner.leases.insert(request.id, Lease { ttl, remaining: 0, expiry: None, keys: BTreeSet::new() });
        inner.start(request.id, now, Duration::ZERO);
        Ok(ttl)
    }

    /// Removes a lease and its keys, all in one revision.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`].
    pub fn revoke(&self, batch: &mut Batch<'_>, id: i64) -> Result<(), Failure> {
        let keys = self.keys(id).ok_or(EtcdError::LeaseNotFound)?;
        let mut transaction = batch.transaction(self);
        for key in keys {
            transaction.delete_range(&KeyRange::single(key))?;
        }
        transaction.end();
        batch.bucket(tables::LEASE)?.remove(&id.to_be_bytes()[..]).map_err(StoreError::from)?;
        self.lock().remove(id);
        self.changed.send_replace(());
        Ok(())
    }

    /// Records how much time leases have left, so that a new leader does not start them anew.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoint(
        &self,
        batch: &Batch<'_>,
        checkpoints: &[LeaseCheckpoint],
        now: Duration,
    ) -> Result<(), StoreError> {
        let mut inner = self.lock();
        for checkpoint in checkpoints {
            if let Some(lease) = inner.leases.get_mut(&checkpoint.id) {
                lease.remaining = checkpoint.remaining_ttl;
                persist(batch, checkpoint.id, lease.ttl, lease.remaining)?;
                inner.schedule_checkpoint(checkpoint.id, now);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn attach(&mut self, lease: i64, key: &Bytes) {
        if let Some(before) = self.keys.remove(key)
            && let Some(lease) = self.leases.get_mut(&before)
        {
            lease.keys.remove(key);
        }
        if let Some(leased) = self.leases.get_mut(&lease) {
            // Copied: the request's buffer must not live as long as the lease.
            let key = Bytes::copy_from_slice(key);
            leased.keys.insert(key.clone());
            self.keys.insert(key, lease);
        }
    }

    fn remove(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            for key in lease.keys {
                self.keys.remove(&key);
            }
        }
    }
}

fn persist(batch: &Batch<'_>, id: i64, ttl: i64, remaining_ttl: i64) -> Result<(), StoreError> {
    let stored = leasepb::Lease { id, ttl, remaining_ttl }.encode_to_vec();
    batch.bucket(tables::LEASE)?.insert(&id.to_be_bytes()[..], &stored[..])?;
    Ok(())
}

impl Store {
    /// Visits every living key that hangs on a lease.
    fn for_each_leased(&self, mut visit: impl FnMut(&Bytes, i64)) -> Result<(), StoreError> {
        let mut leased = HashMap::new();
        // In the order of revisions, so that the last word on each key stands.
        let table = redb::ReadableDatabase::begin_read(&*self.database())?.open_table(tables::KEY)?;
        for change in table.iter()? {
            let kv = crate::store::decode(change?.1.value())?;
            if kv.lease == 0 {
                leased.remove(&kv.key);
            } else {
                leased.insert(kv.key, kv.lease);
            }
        }
        for (key, lease) in &leased {
            visit(key, *lease);
        }
        Ok(())
    }
}

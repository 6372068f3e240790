//! Writing: the effects of a group of agreed entries, in one transaction of the file.

use std::sync::Arc;

use bytes::Bytes;
use goulette_proto::etcd::mvccpb::KeyValue;
use prost::Message;
use redb::{Table, WriteTransaction};

use super::{KeyRange, Memory, Revision, Store, StoreError, change_at, cost, tables};
use crate::{consensus::LogPosition, lease::Lessor};

/// The changes of one revision, as watchers are told: a deletion has only its key and revision, and version 0.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The revision.
    pub revision: i64,
    /// Its changes, in order.
    pub changes: Arc<[KeyValue]>,
}

/// A group of effects that become visible together.
pub struct Batch<'t> {
    pub(crate) store: &'t Store,
    write: &'t WriteTransaction,
    pub(crate) key: Table<'t, &'static [u8], &'static [u8]>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    used: u64,
    changes: Vec<Changes>,
}

impl<'t> Batch<'t> {
    pub(crate) fn new(store: &'t Store, write: &'t WriteTransaction) -> Result<Self, StoreError> {
        let (revision, compacted) = {
            let memory = store.memory();
            (memory.revision, memory.compacted)
        };
        let key = write.open_table(tables::KEY)?;
        Ok(Self { store, write, key, revision, compacted, used: 0, changes: Vec::new() })
    }

    /// The revision as the entries so far have made it.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A bucket other than [`tables::KEY`]; to be dropped before it is opened again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bucket(&self, bucket: tables::Bucket) -> Result<Table<'t, &'static [u8], &'static [u8]>, StoreError> {
        Ok(self.write.open_table(bucket)?)
    }

    /// Notes the last entry of the batch.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_position(&self, position: LogPosition) -> Result<(), StoreError> {
        let mut meta = self.bucket(tables::META)?;
        meta.insert(tables::meta::CONSISTENT_INDEX, &position.index.to_be_bytes()[..])?;
        meta.insert(tables::meta::TERM, &position.term.to_be_bytes()[..])?;
        Ok(())
    }

    /// Takes the changes of keys so far, for those who watch; to be told once the batch is committed.
    pub fn take_changes(&mut self) -> Vec<Changes> {
        std::mem::take(&mut self.changes)
    }

    /// Begins a transaction of etcd's: all its changes share one new revision.
    pub(crate) fn transaction<'b>(&'b mut self, leases: &'b Lessor) -> Transaction<'b, 't> {
        Transaction { batch: self, leases, changes: Vec::new() }
    }

    pub(crate) fn finish(self) -> impl FnOnce(&mut Memory) + use<> {
        let (revision, compacted, used) = (self.revision, self.compacted, self.used);
        move |memory| {
            memory.revision = revision;
            memory.compacted = compacted;
            memory.used += used;
            memory.used_peak = memory.used_peak.max(memory.used);
        }
    }

    fn insert(&mut self, stored: &[u8], kv: &KeyValue) -> Result<(), StoreError> {
        let value = kv.encode_to_vec();
        self.key.insert(stored, &value[..])?;
        self.used += cost(stored, &value);
        Ok(())
    }
}

/// Changes of keys that share one revision.
pub(crate) struct Transaction<'b, 't> {
    pub(crate) batch: &'b mut Batch<'t>,
    pub(crate) leases: &'b Lessor,
    changes: Vec<KeyValue>,
}

impl Transaction<'_, '_> {
    /// The revision as the transaction sees it: one more than before once it has changed anything.
    pub(crate) fn revision(&self) -> i64 {
        self.batch.revision + i64::from(!self.changes.is_empty())
    }

    /// The key as it is now.
    pub(crate) fn live(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        let change = self.batch.store.memory().index.live(key, i64::MAX);
        change.map(|change| change_at(&self.batch.key, change.revision)).transpose()
    }

    pub(crate) fn put(&mut self, key: &Bytes, value: Bytes, lease: i64) -> Result<(), StoreError> {
        let revision = self.next();
        let change = self.batch.store.memory_mut().index.put(key, revision);
        let kv = KeyValue {
            key: key.clone(),
            create_revision: change.created,
            mod_revision: revision.main,
            version: change.version,
            value,
            lease,
        };
        self.batch.insert(&revision.encode(), &kv)?;
        self.leases.attach(lease, key);
        self.changes.push(kv);
        Ok(())
    }

    /// Deletes all keys of the range; answers how many.
    pub(crate) fn delete_range(&mut self, range: &KeyRange) -> Result<i64, StoreError> {
        let mut keys = Vec::new();
        self.batch.store.memory().index.for_each_live(range, i64::MAX, |key, _| keys.push(key.clone()));
        for key in &keys {
            self.delete(key)?;
        }
        Ok(keys.len() as i64)
    }

    fn delete(&mut self, key: &Bytes) -> Result<(), StoreError> {
        let revision = self.next();
        self.batch.store.memory_mut().index.delete(key, revision);
        self.batch.insert(&revision.encode_tombstone(), &KeyValue { key: key.clone(), ..KeyValue::default() })?;
        self.leases.attach(0, key);
        self.changes.push(KeyValue { key: key.clone(), mod_revision: revision.main, ..KeyValue::default() });
        Ok(())
    }

    /// Ends it; answers the store's revision after it.
    pub(crate) fn end(self) -> i64 {
        if !self.changes.is_empty() {
            self.batch.revision += 1;
            self.batch.changes.push(Changes { revision: self.batch.revision, changes: self.changes.into() });
        }
        self.batch.revision
    }

    fn next(&self) -> Revision {
        Revision { main: self.batch.revision + 1, sub: self.changes.len() as i64 }
    }
}

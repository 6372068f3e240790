//! The state that the members agree on: etcd's MVCC, and etcd's other buckets beside it, in one redb file.
//!
//! A [`Batch`] is the only way to change anything: all effects of a group of agreed entries, with the position of the
//! last of them, in one transaction of the file. Most batches are committed without a sync, because the log can bring
//! them back; [`Store::sync`] makes everything durable. The index of keys is in memory ([`index`](self)); values are
//! read from the file.
//!
//! Readers see whole batches: [`Store::read`] holds the published revision, the index and a snapshot of the file
//! together.
//!
//! Files: `tables` (what is stored where), `revision`, `index`, `batch` (writing), `range` (reading), `txn`
//! (etcd's transactions), `compaction`, `hash`, `transfer` (a whole state out and in).

mod batch;
mod compaction;
mod hash;
mod history;
mod index;
mod range;
mod revision;
pub mod tables;
mod transfer;
mod txn;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use goulette_env::Disk;
use goulette_proto::etcd::mvccpb::KeyValue;
use prost::Message;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable};

pub use batch::{Batch, Changes};
pub use compaction::Compaction;
pub use hash::KvHash;
pub use history::History;
pub(crate) use index::{Change, Index};
pub use index::{KeyRange, RangeEnd};
pub use revision::Revision;
pub use transfer::Frozen;
pub(crate) use transfer::Writer;
pub(crate) use txn::{check_delete_request, check_put_request, check_range_request, check_txn_request};

use crate::EtcdError;

/// What can go wrong with the file. Final: the member stops, and its log tells it again what it had applied.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("the store's disk refused")]
    Io(#[from] io::Error),
    /// The file is damaged or the disk refused.
    #[error("the store's file is damaged, or its disk refused")]
    Database(#[source] Box<redb::Error>),
    /// The file was written by another release.
    #[error("{} has format {found}, this binary knows format {known}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// What is stored contradicts itself.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

macro_rules! from_redb {
    ($($source:ty),*) => {$(
        impl From<$source> for StoreError {
            fn from(error: $source) -> Self {
                StoreError::Database(Box::new(error.into()))
            }
        }

        impl From<$source> for Failure {
            fn from(error: $source) -> Self {
                Failure::Fatal(error.into())
            }
        }
    )*};
}

from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        io::Error::other(error)
    }
}

/// Why an operation failed: it is refused, or the store is lost.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The same on every member; nothing is changed.
    #[error(transparent)]
    Refused(#[from] EtcdError),
    /// This member is lost.
    #[error(transparent)]
    Fatal(#[from] StoreError),
}

/// The revision of a store in which nothing was ever written.
pub(crate) const REVISION_FIRST: i64 = 1;
/// What counts as compacted before the first compaction.
pub(crate) const COMPACTED_NEVER: i64 = -1;
/// What a stored change costs beside its key and value: slots and pages of the tree.
const ENTRY_OVERHEAD: u64 = 24;
/// Sizes are told in pages.
const PAGE: u64 = 4096;

/// What is in memory of the state; agrees with what is committed to the file.
pub(crate) struct Memory {
    pub(crate) index: Index,
    /// The current revision.
    pub(crate) revision: i64,
    /// The oldest readable revision; -1 before the first compaction.
    pub(crate) compacted: i64,
    /// Bytes of all stored changes.
    pub(crate) used: u64,
    /// The most that `used` has been since the last defragmentation: freed space is reused, not given back.
    pub(crate) used_peak: u64,
}

/// The store. All calls block.
pub struct Store {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Replaced as a whole when a state is installed, or defragmented.
    database: RwLock<Database>,
    memory: RwLock<Memory>,
    /// The hashes of the last compactions.
    hashes: Mutex<Vec<KvHash>>,
}

/// Sizes of the store in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSize {
    /// What the file takes, free pages included.
    pub total: u64,
    /// What of it is in use.
    pub in_use: u64,
}

impl Store {
    /// Opens the store in `folder`, which the caller has locked; makes it if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]; the folder is then to be left alone.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self, StoreError> {
        let database = tables::open(&*disk, folder)?;
        let memory = load(&database)?;
        Ok(Self {
            disk,
            folder: folder.to_path_buf(),
            database: RwLock::new(database),
            memory: RwLock::new(memory),
            hashes: Mutex::new(Vec::new()),
        })
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.memory().revision
    }

    /// The oldest readable revision; -1 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.memory().compacted
    }

    /// How much is stored.
    pub fn size(&self) -> StoreSize {
        let memory = self.memory();
        let pages = |bytes: u64| (bytes / PAGE + 5) * PAGE;
        StoreSize { total: pages(memory.used_peak), in_use: pages(memory.used) }
    }

    /// A view of one revision, which keeps writers waiting: only for reads that touch little.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(&self) -> Result<Reading<'_>, StoreError> {
        let database = self.database();
        let memory = self.memory();
        let table = database.begin_read()?.open_table(tables::KEY)?;
        Ok(Reading { memory, table })
    }

    /// Reads one value of a bucket as it is committed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, bucket: tables::Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.database().begin_read()?.open_table(bucket)?;
        let value = table.get(key)?.map(|value| value.value().to_vec());
        Ok(value)
    }

    /// All keys and values of a bucket as it is committed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scan(
        &self,
        bucket: tables::Bucket,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let table = self.database().begin_read()?.open_table(bucket)?;
        for entry in table.iter()? {
            let (key, value) = entry?;
            visit(key.value(), value.value())?;
        }
        Ok(())
    }

    /// Carries out `change` as one transaction of the file; its effects become visible together.
    ///
    /// # Errors
    /// What `change` says, or [`StoreError`]. Then this store is lost: memory and file may disagree.
    pub fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = self.database();
        let write = tables::begin(&database, durability)?;
        let mut batch = Batch::new(self, &write)?;
        let result = change(&mut batch)?;
        let published = batch.finish();
        write.commit()?;
        published(&mut self.memory_mut());
        Ok(result)
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync(&self) -> Result<(), StoreError> {
        Ok(tables::begin(&self.database(), Durability::Immediate)?.commit()?)
    }

    pub(crate) fn database(&self) -> RwLockReadGuard<'_, Database> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hashes(&self) -> MutexGuard<'_, Vec<KvHash>> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A view of one revision.
pub struct Reading<'s> {
    pub(crate) memory: RwLockReadGuard<'s, Memory>,
    pub(crate) table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

/// The bytes that a change counts for.
pub(crate) fn cost(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_OVERHEAD
}

/// The change stored under a revision.
pub(crate) fn change_at(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    revision: Revision,
) -> Result<KeyValue, StoreError> {
    let stored = table.get(&revision.encode()[..])?;
    let stored = stored.ok_or_else(|| StoreError::Damaged(format!("revision {revision:?} is not stored")))?;
    decode(stored.value())
}

pub(crate) fn decode(stored: &[u8]) -> Result<KeyValue, StoreError> {
    KeyValue::decode(Bytes::copy_from_slice(stored))
        .map_err(|error| StoreError::Damaged(format!("a stored change cannot be read: {error}")))
}

/// Builds what is in memory from the file.
fn load(database: &Database) -> Result<Memory, StoreError> {
    let read = database.begin_read()?;
    let mut index = Index::default();
    let (mut revision, mut used) = (REVISION_FIRST, 0);
    for entry in read.open_table(tables::KEY)?.iter()? {
        let (stored, value) = entry?;
        used += cost(stored.value(), value.value());
        let (at, deleted) = Revision::decode(stored.value())
            .ok_or_else(|| StoreError::Damaged("a key of history is no revision".to_owned()))?;
        let kv = decode(value.value())?;
        let (created, version) = if deleted { (0, 0) } else { (kv.create_revision, kv.version) };
        index.restore(&kv.key, Change { revision: at, created, version });
        revision = at.main;
    }
    let meta = read.open_table(tables::META)?;
    let compaction = |name| -> Result<Option<i64>, StoreError> {
        let stored = meta.get(name)?;
        Ok(stored.and_then(|bytes| Revision::decode(bytes.value())).map(|(revision, _)| revision.main))
    };
    // What is scheduled counts as done: readers were told so, and the rest is removed soon.
    let scheduled = compaction(tables::meta::SCHEDULED_COMPACT)?;
    let compacted = compaction(tables::meta::FINISHED_COMPACT)?.max(scheduled).unwrap_or(COMPACTED_NEVER);
    // Everything up to the compacted revision may be gone, the newest revision included; it never goes back.
    Ok(Memory { index, revision: revision.max(compacted), compacted, used, used_peak: used })
}

//! The store: opening, reading, writing.

use std::{
    io,
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use goulette_env::{Disk, DiskLock};
use goulette_types::Revision;
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::{
    OpenError, ReadError, WriteError, backend,
    range::{self, RangeQuery, RangeResult},
    revision::{COMPACTED, CURRENT, HISTORY, INDEX, STATE},
    txn::{self, Running, Txn, TxnResult},
};

/// Told the new revision after each commit, on the thread that committed, in order. Must not block.
pub type Listener = Box<dyn Fn(Revision) + Send + Sync>;

/// Keys and values with their history, in one folder. Every call may touch the disk; share it behind an `Arc`.
pub struct Store {
    database: Database,
    /// One write at a time; held until the revision is published, so that revisions are published in order.
    writing: Mutex<()>,
    revision: AtomicU64,
    compacted: AtomicU64,
    listener: OnceLock<Listener>,
    /// Last, so that the folder is free only when the file is closed.
    _lock: Box<dyn DiskLock>,
}

impl Store {
    /// Opens the store in `folder`, or makes an empty one.
    ///
    /// The folder gets a file `mvcc.redb` and a lock file `LOCK`, held until the store is dropped.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if the store is open already.
    pub fn open(disk: &dyn Disk, folder: &Path) -> Result<Self, OpenError> {
        let io = |path: &Path, source| OpenError::Io { path: path.to_path_buf(), source };
        disk.create_dir_all(folder).map_err(|error| io(folder, error))?;
        let lock_path = folder.join("LOCK");
        let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { folder: folder.to_path_buf() },
            _ => io(&lock_path, error),
        })?;
        let opened = backend::open(disk, folder)?;
        Ok(Self {
            database: opened.database,
            writing: Mutex::new(()),
            revision: AtomicU64::new(opened.revision),
            compacted: AtomicU64::new(opened.compacted),
            listener: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Sets who is told of commits; once per store.
    ///
    /// # Panics
    /// The second time.
    pub fn set_listener(&self, listener: Listener) {
        assert!(self.listener.set(listener).is_ok(), "a store has one listener");
    }

    /// The revision of the last commit.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// The oldest revision that can be read; 0 before the first compaction.
    pub fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Ordering::Acquire))
    }

    /// Reads a range of keys.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::Future`] if the revision asked for is not readable.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        let reading = Reading::begin(self)?;
        let at = txn::check_revision(query.revision, reading.revision, reading.compacted)?;
        let (history, index) = (reading.txn.open_table(HISTORY)?, reading.txn.open_table(INDEX)?);
        range::read(&history, &index, query, at, reading.revision)
    }

    /// Carries out a transaction; durable on return.
    ///
    /// # Errors
    /// [`WriteError::DuplicateKey`] if either list writes a key twice. After [`WriteError::Commit`] the store is dead.
    pub fn txn(&self, request: &Txn) -> Result<TxnResult, WriteError> {
        txn::check(&request.success)?;
        txn::check(&request.failure)?;
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let write = self.database.begin_write()?;
        let mut running = Running {
            history: write.open_table(HISTORY)?,
            index: write.open_table(INDEX)?,
            before: self.revision().0,
            changes: 0,
            compacted: self.compacted().0,
        };
        let mut succeeded = true;
        for compare in &request.compares {
            succeeded = succeeded && running.holds(compare)?;
        }
        let ops = if succeeded { &request.success } else { &request.failure };
        let results = ops.iter().map(|op| running.apply(op)).collect::<Result<Vec<_>, _>>()?;
        let revision = running.revision();
        let changed = running.changes > 0;
        drop(running);
        if changed {
            write.open_table(STATE)?.insert(CURRENT, revision)?;
            self.commit(write)?;
            self.revision.store(revision, Ordering::Release);
            if let Some(listener) = self.listener.get() {
                listener(Revision(revision));
            }
        }
        Ok(TxnResult { revision: Revision(revision), succeeded, results })
    }

    /// Begins a change of the tables by the store itself. The guard keeps other writers out.
    pub(crate) fn begin_maintenance(&self) -> Result<(std::sync::MutexGuard<'_, ()>, WriteTransaction), WriteError> {
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((turn, self.database.begin_write()?))
    }

    pub(crate) fn commit(&self, write: WriteTransaction) -> Result<(), WriteError> {
        write.commit().map_err(|error| WriteError::Commit(error.into()))
    }

    pub(crate) fn publish_compacted(&self, revision: u64) {
        self.compacted.store(revision, Ordering::Release);
    }
}

/// A consistent view of the tables with the revisions that belong to it.
pub(crate) struct Reading {
    pub(crate) txn: ReadTransaction,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
}

impl Reading {
    pub(crate) fn begin(store: &Store) -> Result<Self, ReadError> {
        let txn = store.database.begin_read()?;
        let state = txn.open_table(STATE)?;
        let number = |name| state.get(name).map(|value| value.map_or(0, |value| value.value()));
        let (revision, compacted) = (Revision(number(CURRENT)?), Revision(number(COMPACTED)?));
        Ok(Self { txn, revision, compacted })
    }
}

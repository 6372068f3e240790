//! Why a call of the store failed.

use std::{io, path::PathBuf};

use bytes::Bytes;
use goulette_types::{ErrorKind, Revision};

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("{} is in use by another process: stop that one, or choose another folder", .folder.display())]
    Locked {
        /// The store's folder.
        folder: PathBuf,
    },
    /// A later release wrote it.
    #[error("{} has format {found}, this binary knows formats up to {known}: use a newer binary", .path.display())]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The newest format that this binary reads.
        known: u64,
    },
    /// The folder or the file could not be made, opened or synced.
    #[error("cannot open {}", .path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file's content is damaged, or is not a store.
    #[error("cannot read {}", .path.display())]
    Database {
        /// The store's file.
        path: PathBuf,
        /// What the database said.
        source: redb::Error,
    },
}

impl OpenError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            OpenError::Locked { .. } => ErrorKind::Conflict,
            OpenError::Newer { .. } => ErrorKind::Unsupported,
            OpenError::Io { .. } => ErrorKind::Unavailable,
            OpenError::Database { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Why a read, or a request to follow changes, failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision's past has been dropped: start again from the present.
    #[error("revision {asked} is compacted: the oldest readable one is {compacted}")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// No transaction has made this revision yet.
    #[error("revision {asked} is in the future: the current one is {current}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The current revision.
        current: Revision,
    },
    /// The disk or the file failed.
    #[error("cannot read metadata")]
    Storage(#[source] redb::Error),
}

impl ReadError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReadError::Compacted { .. } | ReadError::Future { .. } => ErrorKind::OutOfRange,
            ReadError::Storage(_) => ErrorKind::Internal,
        }
    }
}

/// Why a transaction or a compaction failed. Unless the variant says otherwise, nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Keys have at least one byte.
    #[error("key is not provided")]
    EmptyKey,
    /// One transaction writes a key at most once.
    #[error("duplicate key given in txn request: {key:?}")]
    DuplicateKey {
        /// The key written twice.
        key: Bytes,
    },
    /// A range inside of the transaction, or the revision to compact to, cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk or the file failed before the commit.
    #[error("cannot change metadata")]
    Storage(#[source] redb::Error),
    /// May be stored or not. Every later call fails: only a new opening tells.
    #[error("cannot commit metadata")]
    Commit(#[source] redb::Error),
}

impl WriteError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            WriteError::EmptyKey | WriteError::DuplicateKey { .. } => ErrorKind::Invalid,
            WriteError::Read(error) => error.kind(),
            WriteError::Storage(_) => ErrorKind::Internal,
            WriteError::Commit(_) => ErrorKind::OutcomeUnknown,
        }
    }
}

/// redb has one error type per call; ours need only the sum of them.
macro_rules! from_redb {
    ($($source:ty),*) => {$(
        impl From<$source> for ReadError {
            fn from(error: $source) -> Self {
                ReadError::Storage(error.into())
            }
        }

        impl From<$source> for WriteError {
            fn from(error: $source) -> Self {
                WriteError::Storage(error.into())
            }
        }
    )*};
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError);

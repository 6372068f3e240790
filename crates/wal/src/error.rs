//! What can go wrong, one type per family of calls.

use std::{fmt, io, path::PathBuf, sync::Arc};

use goulette_types::ErrorKind;

use crate::position::WalPosition;

/// Why an entry was not taken; it comes back inside. Nothing of it was or will be stored.
pub enum AppendError<E> {
    /// The queue is full: wait until entries complete.
    Busy(E),
    /// There is no space for a new segment: the log goes on by itself when there is.
    StorageFull(E),
    /// The payload is longer than [`payload_bytes_max`](crate::WalOptions::payload_bytes_max).
    TooLarge(E),
    /// A write or sync failed, or somebody poisoned the log: only a new start may read what was stored.
    Poisoned(E),
    /// The log is being closed.
    Closed(E),
}

impl<E> AppendError<E> {
    /// What was to be appended.
    pub fn into_inner(self) -> E {
        match self {
            Self::Busy(entry)
            | Self::StorageFull(entry)
            | Self::TooLarge(entry)
            | Self::Poisoned(entry)
            | Self::Closed(entry) => entry,
        }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy(_) => ErrorKind::Busy,
            Self::StorageFull(_) => ErrorKind::StorageFull,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Poisoned(_) | Self::Closed(_) => ErrorKind::Unavailable,
        }
    }
}

impl<E> fmt::Display for AppendError<E> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Busy(_) => "the write-ahead log's queue is full",
            Self::StorageFull(_) => "no space for the write-ahead log",
            Self::TooLarge(_) => "the entry does not fit into a segment of the write-ahead log",
            Self::Poisoned(_) => "the write-ahead log is poisoned",
            Self::Closed(_) => "the write-ahead log is closed",
        })
    }
}

impl<E> fmt::Debug for AppendError<E> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AppendError({self})")
    }
}

impl<E> std::error::Error for AppendError<E> {}

/// Why entries that were taken did not complete, or why the log could not be closed in order.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// May be stored or not.
    #[error("the write-ahead log is poisoned: {reason}")]
    Poisoned {
        /// What failed first.
        reason: Arc<str>,
    },
    /// The log was closed while it waited for space; parts may be stored or not.
    #[error("the write-ahead log was closed while it waited for space")]
    ClosedWhileFull,
}

impl WalError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Poisoned { .. } | Self::ClosedWhileFull => ErrorKind::OutcomeUnknown,
        }
    }
}

/// A visitor's own error, which ends the recovery.
pub type VisitError = Box<dyn std::error::Error + Send + Sync>;

/// Why a log could not be recovered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The options are not sound.
    #[error("write-ahead log options: {}", .0.join("; "))]
    Options(Vec<String>),
    /// A call to the disk failed.
    #[error("could not {doing} {}", file.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A newer (or very old) program wrote the segment.
    #[error("{} has format version {found}, this program reads version {known}: start a newer program", file.display())]
    Version {
        /// The segment.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The only version that is read here.
        known: u32,
    },
    /// The segment carries the number of another one.
    #[error("{} holds segment {found}: it was renamed or copied; give it back its name", file.display())]
    Renamed {
        /// The segment.
        file: PathBuf,
        /// The number in its header.
        found: u64,
    },
    /// The segment is of another log.
    #[error("{} belongs to log {found:032x}, the segments before it to {expected:032x}", file.display())]
    OtherLog {
        /// The segment.
        file: PathBuf,
        /// Its log.
        found: u128,
        /// The log of the first segment read.
        expected: u128,
    },
    /// A segment is not there though earlier and later ones are, or though the checkpoint points into it.
    #[error("{} is missing: put it back, or restore this directory", file.display())]
    Missing {
        /// The segment.
        file: PathBuf,
    },
    /// There is no entry at the position from which to read, nor does the log end there.
    #[error("{} holds no entry at {}, from where it was to be read", file.display(), from.offset)]
    Position {
        /// The segment.
        file: PathBuf,
        /// The position.
        from: WalPosition,
    },
    /// The visitor refused an entry.
    #[error("could not replay the entry at {position}")]
    Visit {
        /// Where the entry stands.
        position: WalPosition,
        /// What the visitor said.
        source: VisitError,
    },
}

impl RecoverError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Options(_) | Self::Position { .. } => ErrorKind::Invalid,
            Self::Io { source, .. } if is_full(source) => ErrorKind::StorageFull,
            Self::Io { .. } | Self::Visit { .. } => ErrorKind::Internal,
            Self::Version { .. } => ErrorKind::Unsupported,
            Self::Renamed { .. } | Self::OtherLog { .. } => ErrorKind::Conflict,
            Self::Missing { .. } => ErrorKind::NotFound,
        }
    }
}

/// Why a recovered log could not be opened for appending.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Recovery found a corruption, and nobody called [`accept_loss`](crate::Recovery::accept_loss).
    #[error("the log is corrupt at {position} and the loss was not accepted")]
    LossNotAccepted {
        /// Where what is sound ends.
        position: WalPosition,
    },
    /// A call to the disk failed. The log may be recovered and opened again.
    #[error("could not {doing} {}", file.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl OpenError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::LossNotAccepted { .. } => ErrorKind::Corrupt,
            Self::Io { source, .. } if is_full(source) => ErrorKind::StorageFull,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// A failed call to the disk, with what was tried: what the log's own threads say to each other.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) doing: &'static str,
    pub(crate) file: PathBuf,
    pub(crate) source: io::Error,
}

impl Failure {
    /// No space: nothing is lost, and it may be tried again.
    pub(crate) fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "could not {} {}: {}", self.doing, self.file.display(), self.source)
    }
}

impl From<Failure> for OpenError {
    fn from(Failure { doing, file, source }: Failure) -> Self {
        Self::Io { doing, file, source }
    }
}

impl From<Failure> for RecoverError {
    fn from(Failure { doing, file, source }: Failure) -> Self {
        Self::Io { doing, file, source }
    }
}

/// Names the call that failed.
pub(crate) trait Doing<V> {
    fn doing(self, doing: &'static str, file: &std::path::Path) -> Result<V, Failure>;
}

impl<V> Doing<V> for io::Result<V> {
    fn doing(self, doing: &'static str, file: &std::path::Path) -> Result<V, Failure> {
        self.map_err(|source| Failure { doing, file: file.to_owned(), source })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

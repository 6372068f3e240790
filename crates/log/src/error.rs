//! Why a call was refused or failed: one enum per family of calls.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use goulette_records::BatchError;
use goulette_types::{BrokerId, ErrorKind, LeaderEpoch, Offset, PartitionId, ProducerEpoch, TopicId};
use goulette_wal::RecoverError;

/// Why a data directory could not be opened. Nothing was changed but for what the variant says.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings contradict each other.
    #[error("wrong settings: {}", mistakes.join("; "))]
    Options {
        /// Every mistake.
        mistakes: Vec<String>,
    },
    /// Another process, or another log of this one, works on the directory.
    #[error("data directory {} is in use by another process: stop it, or give another -data", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be made or written to.
    #[error("data directory {} is not writable: {source}", dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The directory was made by another broker.
    #[error("data directory {} belongs to broker {found}, not to {given}: give -id {found} or another -data", dir.display())]
    OtherBroker {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: BrokerId,
        /// Who asks.
        given: BrokerId,
    },
    /// A file was written by a newer version of this program.
    #[error("{} has format version {found}, this program knows up to {known}: start the newer program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The highest version known here.
        known: u64,
    },
    /// A file that only this program writes, always as a whole, is not what it wrote.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A valid WAL entry says what this program cannot carry out.
    #[error("the WAL cannot be replayed: {reason}")]
    Replay {
        /// What it says.
        reason: String,
    },
    /// The WAL cannot be recovered.
    #[error("cannot recover the WAL: {0}")]
    Wal(#[source] RecoverError),
    /// The WAL cannot be opened for appending.
    #[error("cannot open the WAL in {}: {source}", dir.display())]
    WalOpen {
        /// Its folder.
        dir: PathBuf,
        /// Why not.
        source: goulette_wal::OpenError,
    },
    /// The disk failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl OpenError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            OpenError::Options { .. } => ErrorKind::Invalid,
            OpenError::Locked { .. } | OpenError::OtherBroker { .. } => ErrorKind::Conflict,
            OpenError::NotWritable { .. } => ErrorKind::Unavailable,
            OpenError::Newer { .. } => ErrorKind::Unsupported,
            OpenError::Damaged { .. } | OpenError::Replay { .. } => ErrorKind::Corrupt,
            OpenError::Wal(error) => error.kind(),
            OpenError::WalOpen { source, .. } => source.kind(),
            OpenError::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// Why an append failed. Unless the variant says otherwise, nothing was stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else leads now.
    #[error("leader epoch {given} is older than {current}")]
    Fenced {
        /// The epoch of the append.
        given: LeaderEpoch,
        /// The last one that wrote.
        current: LeaderEpoch,
    },
    /// A later life of the producer has written: this one must stop.
    #[error("producer epoch {given} is older than {current}")]
    ProducerFenced {
        /// The epoch of the batch.
        given: ProducerEpoch,
        /// The producer's last one.
        current: ProducerEpoch,
    },
    /// Batches in between are missing: the producer takes a new epoch.
    #[error("the batch begins with sequence {given}, expected was {expected}")]
    OutOfOrder {
        /// The batch's first sequence.
        given: u32,
        /// The next one in order.
        expected: u32,
    },
    /// The batch repeats some records and brings new ones, which no sound producer does.
    #[error("the batch begins with sequence {given}, before {expected}, but ends behind it")]
    Overlap {
        /// The batch's first sequence.
        given: u32,
        /// The next one in order.
        expected: u32,
    },
    /// A batch of another replica does not begin where this one ends.
    #[error("a batch at offset {given} does not follow in a log that ends at {next}")]
    OutOfPlace {
        /// The batch's first offset.
        given: Offset,
        /// The offset to be written next.
        next: Offset,
    },
    /// Too much is waiting for the disk.
    #[error("the disk does not keep up: retry after a pause")]
    Busy,
    /// The disk is full, or nearly.
    #[error(
        "the disk of {} is full ({} MiB are free, {} MiB are held back): free space, or keep less; reading goes on",
        broker.as_ref().map_or("this log".into(), |broker| format!("broker {broker}")), free >> 20, below >> 20
    )]
    StorageFull {
        /// Whose disk it is; none if the directory has no identity.
        broker: Option<BrokerId>,
        /// Bytes that are free.
        free: u64,
        /// Appends are refused while fewer are.
        below: u64,
    },
    /// The batch is larger than a WAL group or a fragment can be.
    #[error("a batch of {bytes} bytes is too large for the log")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// The partition keeps the positions of so many groups that it takes no further one's.
    #[error("partition {partition} has the positions of {groups} groups: use fewer groups, or another topic")]
    TooManyGroups {
        /// The partition.
        partition: PartitionId,
        /// How many there are.
        groups: usize,
    },
    /// The partition's topic was deleted.
    #[error("partition {0} was deleted")]
    Deleted(PartitionId),
    /// The log is closed, or was poisoned before the append was taken.
    #[error("the log is closed: {reason}")]
    Closed {
        /// Why.
        reason: Arc<str>,
    },
    /// May be stored or not. The engine is poisoned and the process exits; only a new start may tell.
    #[error("the append's outcome is unknown: {reason}")]
    Poisoned {
        /// What failed.
        reason: Arc<str>,
    },
}

impl AppendError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            AppendError::Fenced { .. } | AppendError::ProducerFenced { .. } => ErrorKind::Fenced,
            AppendError::OutOfOrder { .. } => ErrorKind::OutOfOrder,
            AppendError::Overlap { .. } => ErrorKind::Invalid,
            AppendError::OutOfPlace { .. } => ErrorKind::Conflict,
            AppendError::Busy => ErrorKind::Busy,
            AppendError::StorageFull { .. } => ErrorKind::StorageFull,
            AppendError::TooLarge { .. } | AppendError::TooManyGroups { .. } => ErrorKind::TooLarge,
            AppendError::Deleted(_) => ErrorKind::NotFound,
            AppendError::Closed { .. } => ErrorKind::Unavailable,
            AppendError::Poisoned { .. } => ErrorKind::OutcomeUnknown,
        }
    }
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is no longer kept.
    #[error("the partition starts at offset {start}")]
    Trimmed {
        /// The first kept offset.
        start: Offset,
    },
    /// The offset lies behind the end.
    #[error("the partition ends at offset {end}")]
    PastEnd {
        /// The first unwritten offset.
        end: Offset,
    },
    /// Stored bytes are not what was written there.
    #[error("the stored batch at offset {from} is corrupt: {reason}")]
    Corrupt {
        /// The first offset that cannot be read.
        from: Offset,
        /// A later offset from which reading may go on, if one is known.
        next: Option<Offset>,
        /// What is wrong.
        reason: String,
    },
    /// A batch that is as it was sent cannot be decoded.
    #[error("the batch at offset {offset} cannot be decoded: {source}")]
    Decode {
        /// The batch's base offset.
        offset: Offset,
        /// What is wrong.
        source: BatchError,
    },
    /// The partition's topic was deleted.
    #[error("partition {0} was deleted")]
    Deleted(PartitionId),
    /// The disk failed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The fragment.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl ReadError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReadError::Trimmed { .. } | ReadError::PastEnd { .. } => ErrorKind::OutOfRange,
            ReadError::Corrupt { .. } | ReadError::Decode { .. } => ErrorKind::Corrupt,
            ReadError::Deleted(_) => ErrorKind::NotFound,
            ReadError::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// Why a partition was not created or a topic not deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// The topic was deleted; its id is never used again.
    #[error("topic {0} was deleted here: its id cannot be used again")]
    Deleted(TopicId),
    /// The disk did not keep up within the deadline; nothing was changed.
    #[error("the disk does not keep up: retry after a pause")]
    Busy,
    /// The log is closed, or was poisoned before the change was taken; nothing was changed.
    #[error("the log is closed: {reason}")]
    Closed {
        /// Why.
        reason: Arc<str>,
    },
    /// The partition's folder could not be made; nothing was changed.
    #[error("cannot make {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// It may be durable or not.
    #[error("the change's outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// What failed.
        reason: Arc<str>,
    },
}

impl ChangeError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ChangeError::Deleted(_) => ErrorKind::NotFound,
            ChangeError::Busy => ErrorKind::Busy,
            ChangeError::Closed { .. } => ErrorKind::Unavailable,
            ChangeError::Io { .. } => ErrorKind::Internal,
            ChangeError::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
        }
    }
}

/// Something failed that leaves the engine unable to go on: it is poisoned, and the process is to exit.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the storage engine has stopped: {reason}")]
pub struct Poisoned {
    /// What failed.
    pub reason: Arc<str>,
}

impl Poisoned {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

/// Why what is durable in the WAL was not carried into fragments, or not described by a checkpoint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FlushError {
    /// There is no space. Nothing is lost: the WAL and the memory go on holding it, and it is tried again.
    #[error("the disk is full: cannot {doing} {}", path.display())]
    StorageFull {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
    },
    /// Nothing can be tried again.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

impl FlushError {
    /// A failed call to the disk. (Never of a sync: that is [`sync`](Self::sync).)
    pub(crate) fn io(doing: &'static str, path: &Path, error: &io::Error) -> Self {
        if is_full(error) {
            return FlushError::StorageFull { doing, path: path.to_owned() };
        }
        Poisoned { reason: format!("cannot {doing} {}: {error}", path.display()).into() }.into()
    }

    /// A failed sync: whatever the reason, nobody knows what became of the bytes.
    pub(crate) fn sync(path: &Path, error: &io::Error) -> Self {
        Poisoned { reason: format!("cannot sync {}: {error}", path.display()).into() }.into()
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            FlushError::StorageFull { .. } => ErrorKind::StorageFull,
            FlushError::Poisoned(poisoned) => poisoned.kind(),
        }
    }
}

/// Whether space is all that lacks: nothing was stored, and it may be tried again.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

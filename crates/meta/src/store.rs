//! The trait that every store of metadata implements.

use std::{fmt, pin::Pin, time::Duration};

use bytes::Bytes;
use goulette_types::{ErrorKind, Revision};

/// A pending answer of a store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, MetaError>> + Send + 'a>>;

/// Keys and values with one revision for all of them; a returned write is durable and seen by every later read.
pub trait MetaStore: Send + Sync + 'static {
    /// Reads one key.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>>;

    /// Reads all keys that begin with `prefix`, as they were at one revision.
    fn range<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot>;

    /// Writes all, if every guard holds; else nothing.
    ///
    /// # Errors
    /// [`MetaError::TooLarge`] over [`MetaTxn::KEYS_MAX`] keys or [`MetaTxn::BYTES_MAX`] bytes. After
    /// [`MetaError::OutcomeUnknown`] it may have happened: read before you decide.
    fn txn(&self, txn: MetaTxn) -> Answer<'_, Outcome>;

    /// Follows the keys that begin with `prefix`, from the changes of revision `from` on.
    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn MetaWatch>;
}

/// A store whose keys can depend on the life of whoever wrote them.
pub trait MetaLeases: MetaStore {
    /// Makes a lease that ends `ttl` (whole seconds, at least one) after its last renewal.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId>;

    /// Renews a lease; false if it has ended already, and its keys with it.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, bool>;

    /// Ends a lease, and its keys with it.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// How the store itself is doing, asked of the member that answers.
    fn condition(&self) -> Answer<'_, Condition>;
}

/// A lease's number in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId(pub i64);

/// How a store of its own process is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The release that answers.
    pub release: String,
    /// Bytes of its file.
    pub size_bytes: u64,
    /// What its administrator has to look after: `NOSPACE`, `CORRUPT`.
    pub alarms: Vec<String>,
    /// Members of its cluster.
    pub members: usize,
}

/// Follows changes; nothing is queued for it, so it may be slow.
pub trait MetaWatch: Send {
    /// Waits for the next changes.
    ///
    /// # Errors
    /// [`MetaError::Compacted`] if some have been dropped meanwhile: load anew, then watch from there.
    fn next(&mut self) -> Answer<'_, Changes>;
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that changed it last.
    pub revision: Revision,
}

/// Keys as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The keys, sorted.
    pub entries: Vec<Stored>,
}

/// Writes, and what must hold for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaTxn {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// Keys with their new values; `None` deletes. Each key once.
    pub writes: Vec<(String, Option<Bytes>)>,
    /// What the written keys live and end with. Only for a store with leases.
    pub lease: Option<LeaseId>,
}

impl MetaTxn {
    /// Keys that one transaction may write, and guards that it may have: a default etcd takes 128 of each.
    pub const KEYS_MAX: usize = 100;
    /// Bytes that its keys and values may have: a default etcd takes 1.5 MiB.
    pub const BYTES_MAX: usize = 512 << 10;

    /// Checks the limits.
    ///
    /// # Errors
    /// [`MetaError::TooLarge`].
    pub fn check(&self) -> Result<(), MetaError> {
        let keys = self.guards.len().max(self.writes.len());
        let bytes = self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        if keys > Self::KEYS_MAX || bytes > Self::BYTES_MAX {
            return Err(MetaError::TooLarge { keys, bytes });
        }
        Ok(())
    }
}

/// A key that must not have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The key.
    pub key: String,
    /// The revision that changed it last; 0 if it must be absent.
    pub revision: Revision,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written, at this revision.
    Committed(Revision),
    /// A guard did not hold: somebody else was faster. Nothing is written.
    Conflict,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Everything up to this revision has been told.
    pub revision: Revision,
    /// The changes, in order.
    pub changes: Vec<KeyChange>,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// The new value; `None`: deleted.
    pub value: Option<Bytes>,
    /// The revision that did it.
    pub revision: Revision,
}

/// What a store's own error is called where only its text and kind matter.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// More than one transaction may carry. Nothing is written.
    #[error(
        "a transaction of {keys} keys and {bytes} bytes is too large: at most {} and {}",
        MetaTxn::KEYS_MAX,
        MetaTxn::BYTES_MAX
    )]
    TooLarge {
        /// Keys that it names.
        keys: usize,
        /// Bytes of keys and values.
        bytes: usize,
    },
    /// Changes asked for have been dropped.
    #[error("changes from revision {from} on are no longer kept")]
    Compacted {
        /// Where the watch wanted to go on.
        from: Revision,
    },
    /// A key is not UTF-8, so it is none of ours.
    #[error("a key under the prefix is not UTF-8")]
    ForeignKey,
    /// The store does not answer; nothing is written. It may answer later.
    #[error("the metadata store does not answer")]
    Unavailable(#[source] Source),
    /// The store refuses this sentinel's name, password or rights; nothing is written.
    #[error("the metadata store refuses access")]
    Denied(#[source] Source),
    /// The store has no room; nothing is written. It may have again.
    #[error("the metadata store is full")]
    Full(#[source] Source),
    /// The store failed; nothing is written.
    #[error("the metadata store failed")]
    Storage(#[source] Source),
    /// The write may have happened. A local store is dead after this: the process has to end.
    #[error("the metadata store failed during a commit, which may have happened")]
    OutcomeUnknown(#[source] Source),
    /// The store is shutting down.
    #[error("the metadata store is closed")]
    Closed,
}

impl MetaError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            MetaError::TooLarge { .. } => ErrorKind::TooLarge,
            MetaError::Compacted { .. } => ErrorKind::OutOfRange,
            MetaError::ForeignKey => ErrorKind::Invalid,
            MetaError::Unavailable(_) => ErrorKind::Unavailable,
            MetaError::Denied(_) => ErrorKind::Invalid,
            MetaError::Full(_) => ErrorKind::StorageFull,
            MetaError::Storage(_) => ErrorKind::Internal,
            MetaError::OutcomeUnknown(_) => ErrorKind::OutcomeUnknown,
            MetaError::Closed => ErrorKind::Unavailable,
        }
    }
}

impl fmt::Debug for dyn MetaStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("MetaStore")
    }
}

//! Transactions: compare, then do one of two lists of operations, all or nothing.

use std::{cmp::Ordering, collections::BTreeSet};

use bytes::Bytes;
use goulette_types::Revision;
use redb::Table;

use crate::{
    ReadError, WriteError,
    range::{self, KeyRange, RangeQuery, RangeResult},
    revision::{IndexKey, KeyValue, Position, StoredChange, change_at, live_at},
};

/// If all compares hold, then `success`, else `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold in the state before the transaction.
    pub compares: Vec<Compare>,
    /// Done, in order, if it holds.
    pub success: Vec<Op>,
    /// Done, in order, if it does not.
    pub failure: Vec<Op>,
}

/// One condition on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// How what is stored must stand to the target.
    pub relation: Relation,
    /// What to compare, and with what.
    pub target: Target,
}

/// How what is stored stands to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Stored = target.
    Equal,
    /// Stored ≠ target.
    NotEqual,
    /// Stored > target.
    Greater,
    /// Stored < target.
    Less,
}

/// What of a key is compared. An absent key counts as 0, and as no value at all: then every compare of values fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// How often the key was written.
    Version(u64),
    /// The revision that created it.
    CreateRevision(Revision),
    /// The revision that changed it last.
    ModRevision(Revision),
    /// Its value.
    Value(Bytes),
    /// Its lease.
    Lease(i64),
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key; at least one byte.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease that binds it; 0 for none.
        lease: i64,
    },
    /// Deletes all keys of a range.
    Delete(KeyRange),
    /// Reads; sees what the operations before it did.
    Range(RangeQuery),
}

impl Op {
    /// Writes a key without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), lease: 0 }
    }
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The key is written.
    Put {
        /// As it was before; `None` if it did not live.
        previous: Option<KeyValue>,
    },
    /// The keys are deleted.
    Delete {
        /// As they were before.
        previous: Vec<KeyValue>,
    },
    /// The keys read.
    Range(RangeResult),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// The store's revision after it: one more than before if anything changed.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One result per operation, in order.
    pub results: Vec<OpResult>,
}

/// Refuses lists of operations that write one key twice: their events could not be told apart by revision.
pub(crate) fn check(ops: &[Op]) -> Result<(), WriteError> {
    let mut written = BTreeSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op {
            if key.is_empty() {
                return Err(WriteError::EmptyKey);
            }
            if !written.insert(key) {
                return Err(WriteError::DuplicateKey { key: key.clone() });
            }
        }
    }
    for op in ops {
        if let Op::Delete(range) = op
            && let Some(&key) = written.range::<Bytes, _>(&range.start..).next()
            && range.contains(key)
        {
            return Err(WriteError::DuplicateKey { key: key.clone() });
        }
    }
    Ok(())
}

/// A transaction that is being carried out: the two tables, and the revision that its changes get.
pub(crate) struct Running<'txn> {
    pub(crate) history: Table<'txn, Position, StoredChange>,
    pub(crate) index: Table<'txn, IndexKey, (u32, bool)>,
    /// The revision before the transaction.
    pub(crate) before: u64,
    /// How many changes it has made.
    pub(crate) changes: u32,
    /// The oldest readable revision.
    pub(crate) compacted: u64,
}

impl Running<'_> {
    /// The store's revision as the transaction sees it.
    pub(crate) fn revision(&self) -> u64 {
        self.before + u64::from(self.changes > 0)
    }

    pub(crate) fn holds(&self, compare: &Compare) -> Result<bool, redb::StorageError> {
        let stored = live_at(&self.history, &self.index, &compare.key, self.before)?;
        let number = |field: fn(&KeyValue) -> u64| stored.as_ref().map_or(0, field);
        let ordering = match &compare.target {
            Target::Version(version) => number(|kv| kv.version).cmp(version),
            Target::CreateRevision(revision) => number(|kv| kv.create_revision.0).cmp(&revision.0),
            Target::ModRevision(revision) => number(|kv| kv.mod_revision.0).cmp(&revision.0),
            Target::Lease(lease) => stored.as_ref().map_or(0, |kv| kv.lease).cmp(lease),
            Target::Value(value) => match &stored {
                Some(kv) => kv.value.cmp(value),
                None => return Ok(false),
            },
        };
        Ok(match compare.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::NotEqual => ordering != Ordering::Equal,
            Relation::Greater => ordering == Ordering::Greater,
            Relation::Less => ordering == Ordering::Less,
        })
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<OpResult, WriteError> {
        match op {
            Op::Put { key, value, lease } => Ok(OpResult::Put { previous: self.put(key, value, *lease)? }),
            Op::Delete(range) => Ok(OpResult::Delete { previous: self.delete(range)? }),
            Op::Range(query) => Ok(OpResult::Range(self.range(query)?)),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Result<Option<KeyValue>, redb::StorageError> {
        let previous = live_at(&self.history, &self.index, key, u64::MAX)?;
        let revision = self.before + 1;
        let (create_revision, version) = match &previous {
            Some(kv) => (kv.create_revision.0, kv.version + 1),
            None => (revision, 1),
        };
        self.history.insert((revision, self.changes), (false, create_revision, version, lease, key, value))?;
        self.index.insert((key, revision), (self.changes, false))?;
        self.changes += 1;
        Ok(previous)
    }

    fn delete(&mut self, keys: &KeyRange) -> Result<Vec<KeyValue>, redb::StorageError> {
        let mut previous = Vec::new();
        range::for_each_live(&self.index, keys, u64::MAX, |position| {
            previous.push(change_at(&self.history, position)?);
            Ok(())
        })?;
        let revision = self.before + 1;
        for kv in &previous {
            self.history.insert((revision, self.changes), (true, 0, 0, 0, kv.key.as_ref(), &b""[..]))?;
            self.index.insert((kv.key.as_ref(), revision), (self.changes, true))?;
            self.changes += 1;
        }
        Ok(previous)
    }

    fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        let current = Revision(self.revision());
        let at = check_revision(query.revision, current, Revision(self.compacted))?;
        range::read(&self.history, &self.index, query, at, current)
    }
}

/// The revision to read at: the one asked for if it is readable, the current one if none was asked for.
pub(crate) fn check_revision(
    asked: Option<Revision>,
    current: Revision,
    compacted: Revision,
) -> Result<u64, ReadError> {
    match asked {
        None => Ok(current.0),
        Some(asked) if asked > current => Err(ReadError::Future { asked, current }),
        Some(asked) if asked < compacted => Err(ReadError::Compacted { asked, compacted }),
        Some(asked) => Ok(asked.0),
    }
}

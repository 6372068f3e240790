//! What the store keeps: every change under the revision that made it, and for every key the revisions that changed it.
//!
//! Three tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `history` | (revision, place in its transaction) | [`StoredChange`] |
//! | `index` | (key, revision) | (place in its transaction, whether it is a deletion) |
//! | `state` | name | number: `format`, `revision`, `compacted` |
//!
//! A transaction writes a key at most once, so (key, revision) is unique. Both tables are sorted, so the newest change
//! of a key at or before a revision is one step back from (key, revision), and the events since a revision are one scan.

use bytes::Bytes;
use goulette_types::Revision;
use redb::{ReadableTable, TableDefinition};

/// One change: deletion?, create revision, version, lease, key, value. A deletion has only its key.
pub(crate) type StoredChange = (bool, u64, u64, i64, &'static [u8], &'static [u8]);
/// A revision, and the change's place in its transaction.
pub(crate) type Position = (u64, u32);
/// A key, and a revision that changed it.
pub(crate) type IndexKey = (&'static [u8], u64);

pub(crate) const HISTORY: TableDefinition<'static, Position, StoredChange> = TableDefinition::new("history");
pub(crate) const INDEX: TableDefinition<'static, IndexKey, (u32, bool)> = TableDefinition::new("index");
pub(crate) const STATE: TableDefinition<'static, &'static str, u64> = TableDefinition::new("state");

/// The version of the layout above.
pub(crate) const FORMAT: &str = "format";
/// The revision of the last transaction.
pub(crate) const CURRENT: &str = "revision";
/// The oldest revision that can be read.
pub(crate) const COMPACTED: &str = "compacted";

/// A key as it was after some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty for a deletion, and where only keys were asked for.
    pub value: Bytes,
    /// The revision that created the key in its present life; 0 for a deletion.
    pub create_revision: Revision,
    /// The revision that changed it last.
    pub mod_revision: Revision,
    /// How often it was written in its present life, from 1; 0 for a deletion.
    pub version: u64,
    /// The lease that it is bound to; 0 for none.
    pub lease: i64,
}

impl KeyValue {
    pub(crate) fn from_stored(position: Position, change: <StoredChange as redb::Value>::SelfType<'_>) -> Self {
        let (_, create_revision, version, lease, key, value) = change;
        Self {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            create_revision: Revision(create_revision),
            mod_revision: Revision(position.0),
            version,
            lease,
        }
    }
}

/// Where the newest change of `key` at or before revision `at` stands, and whether it is a deletion.
pub(crate) fn latest_change(
    index: &impl ReadableTable<IndexKey, (u32, bool)>,
    key: &[u8],
    at: u64,
) -> Result<Option<(Position, bool)>, redb::StorageError> {
    let Some(entry) = index.range((key, 0)..=(key, at))?.next_back() else { return Ok(None) };
    let (found, change) = entry?;
    let (place, deleted) = change.value();
    Ok(Some(((found.value().1, place), deleted)))
}

/// The key as it was at revision `at`; `None` if it did not live then.
pub(crate) fn live_at(
    history: &impl ReadableTable<Position, StoredChange>,
    index: &impl ReadableTable<IndexKey, (u32, bool)>,
    key: &[u8],
    at: u64,
) -> Result<Option<KeyValue>, redb::StorageError> {
    match latest_change(index, key, at)? {
        Some((position, false)) => change_at(history, position).map(Some),
        Some((_, true)) | None => Ok(None),
    }
}

/// The change at a position that the index names.
pub(crate) fn change_at(
    history: &impl ReadableTable<Position, StoredChange>,
    position: Position,
) -> Result<KeyValue, redb::StorageError> {
    let Some(change) = history.get(position)? else {
        return Err(redb::StorageError::Corrupted(format!("the index names revision {position:?}, which is absent")));
    };
    Ok(KeyValue::from_stored(position, change.value()))
}

//! Reading keys, now or as they were at a revision.

use bytes::{BufMut, Bytes, BytesMut};
use goulette_types::Revision;
use redb::ReadableTable;

use crate::{
    ReadError,
    revision::{IndexKey, KeyValue, Position, StoredChange, change_at, latest_change},
};

/// A half-open range of keys, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key behind the range; `None`: there is no end.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Exactly one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        // The least key that is greater: one zero byte more.
        let mut end = BytesMut::with_capacity(start.len() + 1);
        end.put_slice(&start);
        end.put_u8(0);
        Self { start, end: Some(end.freeze()) }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while end.pop_if(|last| *last == u8::MAX).is_some() {}
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Some(end.into())
            }
            None => None,
        };
        Self { start, end }
    }

    /// Every key.
    pub fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    /// The keys.
    pub keys: KeyRange,
    /// As they were at this revision; `None`: now.
    pub revision: Option<Revision>,
    /// At most so many keys; `None`: all.
    pub limit: Option<usize>,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
}

impl RangeQuery {
    /// All of `keys` now, with values.
    pub fn new(keys: KeyRange) -> Self {
        Self { keys, revision: None, limit: None, keys_only: false, count_only: false }
    }

    /// The same at a revision.
    #[must_use]
    pub fn at(self, revision: Revision) -> Self {
        Self { revision: Some(revision), ..self }
    }

    /// The same with a limit.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit: Some(limit), ..self }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The store's revision at the time of the reading, whatever revision was asked for.
    pub revision: Revision,
    /// The keys, sorted.
    pub entries: Vec<KeyValue>,
    /// How many keys the range has, whatever the limit.
    pub count: u64,
    /// Whether the limit cut the answer.
    pub more: bool,
}

/// Reads a range as of revision `at`, which the caller has checked.
pub(crate) fn read(
    history: &impl ReadableTable<Position, StoredChange>,
    index: &impl ReadableTable<IndexKey, (u32, bool)>,
    query: &RangeQuery,
    at: u64,
    current: Revision,
) -> Result<RangeResult, ReadError> {
    let limit = query.limit.unwrap_or(usize::MAX);
    let mut result = RangeResult { revision: current, entries: Vec::new(), count: 0, more: false };
    for_each_live(index, &query.keys, at, |position| {
        result.count += 1;
        if query.count_only {
            return Ok(());
        }
        if result.entries.len() == limit {
            result.more = true;
            return Ok(());
        }
        let mut entry = change_at(history, position)?;
        if query.keys_only {
            entry.value = Bytes::new();
        }
        result.entries.push(entry);
        Ok(())
    })?;
    Ok(result)
}

/// Visits the newest change of each key that lived at revision `at`, in the order of the keys.
///
/// Two look-ups per key, however many versions it has.
pub(crate) fn for_each_live(
    index: &impl ReadableTable<IndexKey, (u32, bool)>,
    keys: &KeyRange,
    at: u64,
    mut visit: impl FnMut(Position) -> Result<(), redb::StorageError>,
) -> Result<(), redb::StorageError> {
    let mut next = (keys.start.to_vec(), 0);
    while let Some(entry) = index.range((next.0.as_slice(), next.1)..)?.next() {
        let key = entry?.0.value().0.to_vec();
        if !keys.contains(&key) {
            break;
        }
        if let Some((position, false)) = latest_change(index, &key, at)? {
            visit(position)?;
        }
        // No change ever has the greatest revision, so this is behind all of the key's changes.
        next = (key, u64::MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_greater_prefix() {
        assert_eq!(KeyRange::prefix("ab").end, Some(Bytes::from("ac")));
        assert_eq!(KeyRange::prefix(&b"a\xff\xff"[..]).end, Some(Bytes::from("b")));
        assert_eq!(KeyRange::prefix(&b"\xff"[..]).end, None);
        assert_eq!(KeyRange::prefix(""), KeyRange::all());
    }

    #[test]
    fn one_key_is_a_range_of_one() {
        let range = KeyRange::key("ab");
        assert!(range.contains(b"ab"));
        assert!(!range.contains(b"aa") && !range.contains(b"ab\0") && !range.contains(b"abc"));
    }
}

//! Where each key's changes are: in memory, as etcd's tree index is, so that a read touches the disk only for values.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use bytes::Bytes;

use super::Revision;

/// Which keys a request means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// Where it ends.
    pub end: RangeEnd,
}

/// Where a range of keys ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RangeEnd {
    /// With its first key.
    Single,
    /// Before this key.
    Before(Bytes),
    /// Not at all.
    Open,
}

impl KeyRange {
    /// As requests write it: without an end it is one key, the end `\0` means all keys from the first on.
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Open,
            _ => RangeEnd::Before(range_end),
        };
        Self { start: key, end }
    }

    /// One key.
    pub fn single(key: Bytes) -> Self {
        Self { start: key, end: RangeEnd::Single }
    }

    /// Whether the key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == self.start,
            RangeEnd::Before(end) => *self.start <= *key && *key < **end,
            RangeEnd::Open => *self.start <= *key,
        }
    }

    /// Whether no key can lie in it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if *end <= self.start)
    }
}

/// One change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    /// The main revision that created this life of the key.
    pub(crate) created: i64,
    /// How often the key was written in this life; 0 marks its deletion.
    pub(crate) version: i64,
}

impl Change {
    fn is_deletion(&self) -> bool {
        self.version == 0
    }
}

/// The changes of all keys. Oldest first for each key, never empty.
#[derive(Debug, Default)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, Vec<Change>>,
}

impl Index {
    /// The change by which `key` lives at revision `at`.
    pub(crate) fn live(&self, key: &[u8], at: i64) -> Option<Change> {
        live_of(self.keys.get(key)?, at)
    }

    /// Calls `visit` for each key of `range` that lives at revision `at`, in the order of keys.
    pub(crate) fn for_each_live(&self, range: &KeyRange, at: i64, mut visit: impl FnMut(&Bytes, Change)) {
        let upper = match &range.end {
            RangeEnd::Single => {
                if let Some((key, changes)) = self.keys.get_key_value(&range.start)
                    && let Some(change) = live_of(changes, at)
                {
                    visit(key, change);
                }
                return;
            }
            // The map panics at an end before the start.
            RangeEnd::Before(_) if range.is_empty() => return,
            RangeEnd::Before(end) => Bound::Excluded(end),
            RangeEnd::Open => Bound::Unbounded,
        };
        for (key, changes) in self.keys.range::<Bytes, _>((Bound::Included(&range.start), upper)) {
            if let Some(change) = live_of(changes, at) {
                visit(key, change);
            }
        }
    }

    /// The changes of a key at revisions `from..=to`, in order, and whether each is a deletion.
    pub(crate) fn changes(&self, key: &[u8], from: i64, to: i64) -> Vec<(Revision, bool)> {
        let all = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let wanted = all.iter().filter(|change| (from..=to).contains(&change.revision.main));
        wanted.map(|change| (change.revision, change.is_deletion())).collect()
    }

    /// Notes a write; answers the change as it is from now on.
    pub(crate) fn put(&mut self, key: &[u8], revision: Revision) -> Change {
        match self.keys.get_mut(key) {
            Some(changes) => {
                let last = changes.last().copied().expect("a key has a change");
                let created = if last.is_deletion() { revision.main } else { last.created };
                let change = Change { revision, created, version: last.version + 1 };
                changes.push(change);
                change
            }
            None => {
                let change = Change { revision, created: revision.main, version: 1 };
                // Copied: the request's buffer must not live as long as the key. Most keys have one change.
                self.keys.insert(Bytes::copy_from_slice(key), vec![change]);
                change
            }
        }
    }

    /// Notes a deletion of a key that lives.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) {
        if let Some(changes) = self.keys.get_mut(key) {
            changes.push(Change { revision, created: 0, version: 0 });
        }
    }

    /// Notes a stored change; they come in the order of their revisions.
    pub(crate) fn restore(&mut self, key: &[u8], change: Change) {
        match self.keys.get_mut(key) {
            Some(changes) => changes.push(change),
            None => {
                self.keys.insert(Bytes::copy_from_slice(key), vec![change]);
            }
        }
    }

    /// Forgets what no reader of revision `at` or a later one can see, and answers what stays of the changes up to
    /// `at`: the newest one of each key that lives at `at`, and the deletions made by `at` itself (a watcher from there
    /// must be told).
    pub(crate) fn compact(&mut self, at: i64) -> HashSet<Revision> {
        let mut kept = HashSet::new();
        self.keys.retain(|_, changes| {
            let first_later = changes.partition_point(|change| change.revision.main <= at);
            if let Some(newest) = first_later.checked_sub(1) {
                let change = changes[newest];
                let stays = !change.is_deletion() || change.revision.main == at;
                if stays {
                    kept.insert(change.revision);
                }
                changes.drain(..if stays { newest } else { first_later });
                changes.shrink_to_fit();
            }
            !changes.is_empty()
        });
        kept
    }

    /// What [`Index::compact`] would keep without deletions: the changes up to `at` that enter a hash. Of a key that is
    /// deleted and written again in revision `at` itself, etcd sees the deletion alone.
    pub(crate) fn kept(&self, at: i64) -> HashSet<Revision> {
        let of_key = |changes: &Vec<Change>| {
            let deleted = changes.iter().position(|change| change.is_deletion() && change.revision.main >= at);
            let life = deleted.map_or(&changes[..], |deleted| &changes[..=deleted]);
            live_of(life, at).map(|change| change.revision)
        };
        self.keys.values().filter_map(of_key).collect()
    }
}

fn live_of(changes: &[Change], at: i64) -> Option<Change> {
    // Most reads ask for the newest.
    let newest = match changes.last() {
        Some(last) if last.revision.main <= at => last,
        _ => changes[..changes.partition_point(|change| change.revision.main <= at)].last()?,
    };
    (!newest.is_deletion()).then_some(*newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision::first(main)
    }

    #[test]
    fn a_key_that_comes_back_counts_anew() {
        let mut index = Index::default();
        index.put(b"k", at(2));
        assert_eq!(index.put(b"k", at(3)), Change { revision: at(3), created: 2, version: 2 });
        index.delete(b"k", at(4));
        assert_eq!(index.put(b"k", at(5)), Change { revision: at(5), created: 5, version: 1 });
        assert_eq!(index.live(b"k", 3).unwrap().version, 2);
        assert_eq!(index.live(b"k", 4), None);
        assert_eq!(index.live(b"k", 1), None);
    }

    #[test]
    fn compaction_keeps_what_lives_and_the_deletion_at_its_revision() {
        let build = || {
            let mut index = Index::default();
            index.put(b"a", at(2));
            index.put(b"a", at(3));
            index.put(b"b", at(4));
            index.delete(b"b", at(5));
            index.put(b"a", at(6));
            index
        };
        let mut index = build();
        assert_eq!(index.compact(5), HashSet::from([at(3), at(5)]));
        assert_eq!(index.live(b"a", 5).unwrap().revision, at(3));
        assert_eq!(index.keys.len(), 2);
        let mut index = build();
        assert_eq!(index.compact(6), HashSet::from([at(6)]));
        assert_eq!(index.keys.len(), 1);
        assert_eq!(build().kept(5), HashSet::from([at(3)]));
    }

    #[test]
    fn a_key_deleted_and_written_in_one_revision_is_not_kept_for_the_hash_of_that_revision() {
        let mut index = Index::default();
        index.put(b"a", at(2));
        index.delete(b"a", Revision { main: 3, sub: 0 });
        index.put(b"a", Revision { main: 3, sub: 1 });
        assert_eq!(index.kept(2), HashSet::from([at(2)]));
        assert_eq!(index.kept(3), HashSet::new());
        assert_eq!(index.kept(4), HashSet::from([Revision { main: 3, sub: 1 }]));
    }

    #[test]
    fn an_end_before_the_start_means_no_keys() {
        let mut index = Index::default();
        index.put(b"b", at(2));
        let range = KeyRange::new(Bytes::from_static(b"c"), Bytes::from_static(b"a"));
        index.for_each_live(&range, 2, |_, _| panic!("no key lies there"));
        assert!(range.is_empty() && !range.contains(b"b"));
    }
}

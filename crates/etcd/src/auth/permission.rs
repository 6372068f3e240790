//! Permissions on ranges of keys, and whether a role's ranges together cover what a request touches.

use std::collections::BTreeMap;

/// What a permission lets one do with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    pub(crate) fn reads(self) -> bool {
        self != Self::Write
    }

    pub(crate) fn writes(self) -> bool {
        self != Self::Read
    }
}

/// One permission of a role, as it was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) access: Access,
    pub(crate) key: Vec<u8>,
    /// Empty: `key` alone. One zero byte: `key` and all above it.
    pub(crate) range_end: Vec<u8>,
}

impl Permission {
    /// Whether key and end name a range at all; etcd refuses to grant others.
    pub(crate) fn is_range(&self) -> bool {
        !self.key.is_empty() && (self.range_end.is_empty() || self.key < self.range_end || is_open(&self.range_end))
    }
}

/// A set of keys: disjoint, non-adjacent half-open ranges by their first key. The end `None` is above all keys.
///
/// Ranges that touch are one: a request over `a..z` is covered by grants of `a..m` and `m..z`.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySet(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl KeySet {
    pub(crate) fn insert(&mut self, key: &[u8], range_end: &[u8]) {
        let (mut start, mut end) = range(key, range_end);
        // All that touch the new range melt into it: those that start within it, and the one before that reaches it.
        while let Some((first, last)) = self.0.range(..=end_or_top(&end, &self.0)).next_back() {
            if is_below(last.as_deref(), &start) {
                break;
            }
            let (first, last) = (first.clone(), last.clone());
            self.0.remove(&first);
            start = start.min(first);
            end = later(end, last);
        }
        self.0.insert(start, end);
    }

    /// Whether every key of the request's range is in the set; an empty `range_end` asks for `key` alone.
    pub(crate) fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let (start, end) = range(key, range_end);
        let Some((_, last)) = self.0.range(..=start.clone()).next_back() else { return false };
        match (last, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(last), Some(end)) => start < *last && end <= *last,
        }
    }
}

fn is_open(range_end: &[u8]) -> bool {
    range_end == [0]
}

/// A request's range as `start..end`.
fn range(key: &[u8], range_end: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let end = match range_end {
        [] => Some([key, &[0]].concat()),
        open if is_open(open) => None,
        end => Some(end.to_vec()),
    };
    (key.to_vec(), end)
}

/// The highest key at which a range may start that touches one ending at `end`.
fn end_or_top(end: &Option<Vec<u8>>, ranges: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Vec<u8> {
    match end {
        Some(end) => end.clone(),
        None => ranges.last_key_value().map(|(first, _)| first.clone()).unwrap_or_default(),
    }
}

fn is_below(end: Option<&[u8]>, start: &[u8]) -> bool {
    end.is_some_and(|end| end < start)
}

fn later(one: Option<Vec<u8>>, other: Option<Vec<u8>>) -> Option<Vec<u8>> {
    Some(one?.max(other?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(&str, &str)]) -> KeySet {
        let mut set = KeySet::default();
        for (key, end) in ranges {
            set.insert(key.as_bytes(), end.as_bytes());
        }
        set
    }

    #[test]
    fn ranges_that_touch_cover_together() {
        let set = set(&[("a", "m"), ("m", "z")]);
        assert!(set.covers(b"a", b"z"));
        assert!(set.covers(b"l", b"n"));
        assert!(!set.covers(b"a", b"zz"));
        assert!(!set.covers(b"z", b""));
    }

    #[test]
    fn a_hole_of_one_key_is_a_hole() {
        let set = set(&[("a", "m"), ("m\0", "z")]);
        assert!(!set.covers(b"a", b"z"));
        assert!(!set.covers(b"m", b""));
    }

    #[test]
    fn a_single_key_is_not_its_prefix() {
        let set = set(&[("a", "")]);
        assert!(set.covers(b"a", b""));
        assert!(!set.covers(b"ab", b""));
        assert!(!set.covers(b"a", b"b"));
    }

    #[test]
    fn an_open_end_covers_all_above() {
        let set = set(&[("m", "\0"), ("a", "c")]);
        assert!(set.covers(b"m", b"\0"));
        assert!(set.covers(b"zzz", b""));
        assert!(!set.covers(b"b", b"\0"));
    }

    proptest! {
        #[test]
        fn covering_is_having_every_key(
            grants in proptest::collection::vec(("[a-e]{1,2}", "[a-e]{1,2}"), 0..6),
            asked in ("[a-e]{1,2}", "[a-e]{1,2}"),
        ) {
            let grants: Vec<_> = grants.into_iter().filter(|(start, end)| start < end).collect();
            prop_assume!(asked.0 < asked.1);
            let set = set(&grants.iter().map(|(start, end)| (start.as_str(), end.as_str())).collect::<Vec<_>>());
            // Borders are strings of at most two letters, so the keys `x` and `x\0` for each stand for all that lie between.
            let mut keys: Vec<String> = Vec::new();
            for first in 'a'..='e' {
                keys.extend([format!("{first}"), format!("{first}\0")]);
                for second in 'a'..='e' {
                    keys.extend([format!("{first}{second}"), format!("{first}{second}\0")]);
                }
            }
            let granted = |key: &String| grants.iter().any(|(start, end)| start <= key && key < end);
            let all = keys.iter().filter(|key| asked.0 <= **key && **key < asked.1).all(granted);
            prop_assert_eq!(set.covers(asked.0.as_bytes(), asked.1.as_bytes()), all);
        }
    }
}

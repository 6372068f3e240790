//! Reading what happened: for watchers that start in the past, or have fallen behind.

use bytes::Bytes;
use goulette_proto::etcd::mvccpb::{Event, KeyValue};

use super::{Failure, RangeEnd, Reading, Revision, Store, StoreError, decode};
use crate::{EtcdError, watch::Interest};

/// Revisions told in one piece, as in etcd.
const REVISIONS_MAX: usize = 1_000;
/// Changes looked at in one piece, wanted or not.
const LOOKED_AT_MAX: usize = 10_000;

/// A piece of history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What is wanted of it, in order; the events of one revision are all here or none.
    pub events: Vec<Event>,
    /// Everything before this revision is told.
    pub next: i64,
    /// The store's revision.
    pub current: i64,
}

impl Store {
    /// The next piece of history from revision `from` on; empty if there is none yet.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`] if changes since `from` may have been dropped.
    pub fn history(&self, interest: &Interest, from: i64) -> Result<History, Failure> {
        let Reading { memory, table } = self.read()?;
        let current = memory.revision;
        if from < memory.compacted {
            return Err(EtcdError::Compacted.into());
        }
        if interest.keys.end == RangeEnd::Single {
            let mut revisions = memory.index.changes(&interest.keys.start, from, current);
            drop(memory);
            let more = revisions.get(REVISIONS_MAX).map(|(revision, _)| revision.main);
            revisions.truncate(REVISIONS_MAX);
            let mut events = Vec::new();
            for (revision, is_deleted) in revisions {
                let change = if is_deleted {
                    deletion(interest.keys.start.clone(), revision.main)
                } else {
                    super::change_at(&table, revision)?
                };
                events.extend(interest.event(&change));
            }
            return Ok(History { events, next: more.unwrap_or(current + 1), current });
        }
        drop(memory);
        let (start, end) = (Revision::first(from).encode(), Revision::first(current + 1).encode());
        let mut history = History { events: Vec::new(), next: current + 1, current };
        let (mut revisions, mut last) = (0, 0);
        for (looked_at, change) in table.range(&start[..]..&end[..]).map_err(StoreError::from)?.enumerate() {
            let (stored, value) = change.map_err(StoreError::from)?;
            let Some((at, is_deleted)) = Revision::decode(stored.value()) else { continue };
            if (looked_at >= LOOKED_AT_MAX || revisions >= REVISIONS_MAX) && at.main != last {
                history.next = at.main;
                break;
            }
            let mut kv = decode(value.value())?;
            if interest.keys.contains(&kv.key) {
                if is_deleted {
                    kv = deletion(kv.key, at.main);
                }
                revisions += usize::from(at.main != last || revisions == 0);
                history.events.extend(interest.event(&kv));
            }
            last = at.main;
        }
        Ok(history)
    }
}

fn deletion(key: Bytes, mod_revision: i64) -> KeyValue {
    KeyValue { key, mod_revision, ..KeyValue::default() }
}

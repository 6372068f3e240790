//! Following changes: a reader asks for what happened since a revision.
//!
//! Nothing is queued for a reader, so a slow one costs nothing and misses nothing: it reads the history when it comes.
//! [`Store::set_listener`](crate::Store::set_listener) tells when there is something new to read.

use goulette_types::Revision;

use crate::{KeyRange, KeyValue, ReadError, Store, revision::HISTORY, store::Reading};

/// Whether a key was written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Written.
    Put,
    /// Deleted.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after it; for a deletion only `key` and `mod_revision` are set.
    pub entry: KeyValue,
}

/// Changes in the order in which they were made; those of one revision are never torn apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The changes.
    pub events: Vec<Event>,
    /// Where to go on: all changes before this revision have been told.
    pub next: Revision,
}

impl Store {
    /// The changes of `keys` from revision `from` on, looking at no more than `revisions_max` revisions.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] if changes since `from` may have been dropped: then load anew, and follow from there.
    pub fn events(&self, keys: &KeyRange, from: Revision, revisions_max: u64) -> Result<Events, ReadError> {
        let reading = Reading::begin(self)?;
        if from < reading.compacted {
            return Err(ReadError::Compacted { asked: from, compacted: reading.compacted });
        }
        let end = reading.revision.0.saturating_add(1).min(from.0.saturating_add(revisions_max));
        if end <= from.0 {
            return Ok(Events { events: Vec::new(), next: from });
        }
        let mut events = Vec::new();
        for change in reading.txn.open_table(HISTORY)?.range((from.0, 0)..(end, 0))? {
            let (position, change) = change?;
            let change = change.value();
            let (deleted, .., key, _) = change;
            if keys.contains(key) {
                let kind = if deleted { EventKind::Delete } else { EventKind::Put };
                events.push(Event { kind, entry: KeyValue::from_stored(position.value(), change) });
            }
        }
        Ok(Events { events, next: Revision(end) })
    }
}

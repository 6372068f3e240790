//! Telling changes to those who watch.
//!
//! [`WatchHub`] knows the watchers that have seen everything so far (*synced*), by key and by range, and puts each
//! revision's changes into the [`Mailbox`] of their stream. Mailboxes are bounded: a watcher whose stream is slow leaves
//! the hub and is noted as *behind*; its stream then reads history from the store at its own pace, and comes back when
//! it has caught up. So nothing is lost, and nobody waits for a slow reader.

mod mailbox;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use goulette_proto::etcd::mvccpb::{Event, KeyValue, event::EventType};

pub use mailbox::{Delivery, Mailbox, Notice};

use crate::store::{Changes, KeyRange, RangeEnd};

/// What a watcher wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The keys.
    pub keys: KeyRange,
    /// Leaves writes out.
    pub no_put: bool,
    /// Leaves deletions out.
    pub no_delete: bool,
}

impl Interest {
    /// The event that a change is, if it is wanted; a deletion has version 0.
    pub fn event(&self, change: &KeyValue) -> Option<Event> {
        let is_delete = change.version == 0;
        let unwanted = if is_delete { self.no_delete } else { self.no_put };
        let kind = if is_delete { EventType::Delete } else { EventType::Put };
        (!unwanted).then(|| Event { r#type: kind as i32, kv: Some(change.clone()), prev_kv: None })
    }
}

/// A watcher that has seen everything so far.
struct Synced {
    mailbox: Arc<Mailbox>,
    id: i64,
    interest: Interest,
    /// The first revision that it is to see.
    start: i64,
}

#[derive(Default)]
struct Inner {
    /// The last revision that was told.
    revision: i64,
    /// Watchers of one key, by key.
    single: HashMap<Bytes, Vec<Arc<Synced>>>,
    /// Watchers of ranges; those of the same range share the comparison.
    ranges: BTreeMap<KeyRange, Vec<Arc<Synced>>>,
}

/// All synced watchers of a member.
pub struct WatchHub {
    inner: Mutex<Inner>,
}

impl WatchHub {
    /// A hub of which nobody needs to be told what happened up to `revision`.
    pub fn new(revision: i64) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { revision, ..Inner::default() }) })
    }

    /// The last revision that was told.
    pub fn revision(&self) -> i64 {
        self.lock().revision
    }

    /// Takes a watcher that has seen everything before `next`, and is to see nothing before. Answers false if there was
    /// something since: then it reads that first.
    pub fn join(&self, mailbox: &Arc<Mailbox>, id: i64, interest: &Interest, next: i64) -> bool {
        let mut inner = self.lock();
        if next <= inner.revision {
            return false;
        }
        let synced = Arc::new(Synced { mailbox: Arc::clone(mailbox), id, interest: interest.clone(), start: next });
        let keys = &interest.keys;
        match keys.end {
            RangeEnd::Single => inner.single.entry(keys.start.clone()).or_default().push(synced),
            _ => inner.ranges.entry(keys.clone()).or_default().push(synced),
        }
        true
    }

    /// Forgets a watcher, if it is here. What is in its mailbox stays there.
    pub fn leave(&self, mailbox: &Arc<Mailbox>, id: i64, keys: &KeyRange) {
        let mut inner = self.lock();
        let is_other = |synced: &Arc<Synced>| synced.id != id || !Arc::ptr_eq(&synced.mailbox, mailbox);
        match keys.end {
            RangeEnd::Single => {
                if let Some(watchers) = inner.single.get_mut(&keys.start) {
                    watchers.retain(is_other);
                    if watchers.is_empty() {
                        inner.single.remove(&keys.start);
                    }
                }
            }
            _ => {
                if let Some(watchers) = inner.ranges.get_mut(keys) {
                    watchers.retain(is_other);
                    if watchers.is_empty() {
                        inner.ranges.remove(keys);
                    }
                }
            }
        }
    }

    /// Puts a sign of progress of watcher `id` (-1: of the whole stream) into the mailbox, behind all events up to its
    /// revision. The caller knows that its watchers are synced and have their start behind them.
    pub fn tell_progress(&self, mailbox: &Mailbox, id: i64) {
        let inner = self.lock();
        mailbox.progress(id, inner.revision);
    }

    /// Tells the changes of some revisions, in order, the last of them `revision`.
    pub fn publish(&self, all: &[Changes], revision: i64) {
        let mut inner = self.lock();
        for changes in all {
            inner.tell(changes);
            inner.revision = changes.revision;
        }
        inner.revision = inner.revision.max(revision);
    }

    /// The store was replaced by a later one: every watcher reads from it what it has not seen.
    pub fn catch_up(&self, revision: i64) {
        let mut inner = self.lock();
        let next = inner.revision + 1;
        let single = std::mem::take(&mut inner.single).into_values();
        let ranges = std::mem::take(&mut inner.ranges).into_values();
        for synced in single.chain(ranges).flatten() {
            synced.mailbox.fall_behind(synced.id, synced.start.max(next));
        }
        inner.revision = inner.revision.max(revision);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&mut self, changes: &Changes) {
        // What each watcher is told of this revision, in one piece.
        let mut told: Vec<(Arc<Synced>, Vec<Event>)> = Vec::new();
        let mut place: HashMap<*const Synced, usize> = HashMap::new();
        let mut add = |synced: &Arc<Synced>, change: &KeyValue| {
            if changes.revision < synced.start {
                return;
            }
            let Some(event) = synced.interest.event(change) else { return };
            let place = *place.entry(Arc::as_ptr(synced)).or_insert_with(|| {
                told.push((Arc::clone(synced), Vec::new()));
                told.len() - 1
            });
            told[place].1.push(event);
        };
        for change in changes.changes.iter() {
            for synced in self.single.get(&change.key).into_iter().flatten() {
                add(synced, change);
            }
            for (keys, watchers) in &self.ranges {
                // They are in the order of their start: the others begin behind the key.
                if keys.start > change.key {
                    break;
                }
                if keys.contains(&change.key) {
                    watchers.iter().for_each(|synced| add(synced, change));
                }
            }
        }
        let mut behind = Vec::new();
        for (synced, events) in told {
            if !synced.mailbox.events(synced.id, changes.revision, events) {
                synced.mailbox.fall_behind(synced.id, changes.revision);
                behind.push(synced);
            }
        }
        for synced in behind {
            self.remove(&synced);
        }
    }

    fn remove(&mut self, gone: &Arc<Synced>) {
        let is_other = |synced: &Arc<Synced>| !Arc::ptr_eq(synced, gone);
        let keys = &gone.interest.keys;
        match keys.end {
            RangeEnd::Single => {
                if let Some(watchers) = self.single.get_mut(&keys.start) {
                    watchers.retain(is_other);
                }
            }
            _ => {
                if let Some(watchers) = self.ranges.get_mut(keys) {
                    watchers.retain(is_other);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(key: &'static str, end: &'static str) -> Interest {
        let keys = KeyRange::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        Interest { keys, no_put: false, no_delete: false }
    }

    fn changes(revision: i64, keys: &[&'static str]) -> Changes {
        let change = |key: &&'static str| KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            mod_revision: revision,
            version: 1,
            ..KeyValue::default()
        };
        Changes { revision, changes: keys.iter().map(change).collect() }
    }

    fn told(mailbox: &Mailbox) -> Vec<(i64, i64, usize)> {
        let mut told = Vec::new();
        while let Some(Notice::Delivery(Delivery { id, revision, events })) = mailbox.take() {
            told.push((id, revision, events.len()));
        }
        told
    }

    #[test]
    fn the_changes_of_a_revision_come_in_one_piece() {
        let hub = WatchHub::new(1);
        let mailbox = Mailbox::new();
        assert!(hub.join(&mailbox, 0, &interest("a", "c"), 2));
        assert!(hub.join(&mailbox, 1, &interest("b", ""), 2));
        hub.publish(&[changes(2, &["a", "b", "c"])], 2);
        assert_eq!(told(&mailbox), [(0, 2, 2), (1, 2, 1)]);
    }

    #[test]
    fn nothing_before_the_start_is_told() {
        let hub = WatchHub::new(1);
        let mailbox = Mailbox::new();
        assert!(hub.join(&mailbox, 0, &interest("a", ""), 3));
        hub.publish(&[changes(2, &["a"]), changes(3, &["a"])], 3);
        assert_eq!(told(&mailbox), [(0, 3, 1)]);
        assert!(!hub.join(&mailbox, 1, &interest("a", ""), 3), "there is something to read first");
    }

    #[test]
    fn a_slow_reader_falls_behind_and_loses_nothing() {
        let hub = WatchHub::new(1);
        let mailbox = Mailbox::new();
        assert!(hub.join(&mailbox, 7, &interest("a", ""), 2));
        let mut revision = 1;
        let behind = loop {
            revision += 1;
            hub.publish(&[changes(revision, &["a"])], revision);
            if let Some(behind) = mailbox.behind() {
                break behind;
            }
            assert!(revision < 100_000, "a mailbox is bounded");
        };
        assert_eq!(behind, [(7, revision)]);
        let seen = told(&mailbox);
        assert_eq!(seen.len() as i64, revision - 2);
        hub.publish(&[changes(revision + 1, &["a"])], revision + 1);
        assert_eq!(told(&mailbox), [], "it has left the hub");
    }

    #[test]
    fn a_replaced_store_sends_everybody_to_history() {
        let hub = WatchHub::new(5);
        let mailbox = Mailbox::new();
        assert!(hub.join(&mailbox, 0, &interest("a", ""), 6));
        assert!(hub.join(&mailbox, 1, &interest("a", "\0"), 50));
        hub.catch_up(20);
        assert_eq!(mailbox.behind(), Some(vec![(0, 6), (1, 50)]));
        assert_eq!(hub.revision(), 20);
    }
}

//! A store as one would write it without a disk: every revision's state, whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use goulette_mvcc::{Event, EventKind, KeyRange, KeyValue, Op, RangeQuery, Store};
use goulette_types::Revision;

type State = BTreeMap<Bytes, KeyValue>;

/// The naive store. `states[r]` is what revision `r` looks like; revision 1 is empty.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    states: Vec<State>,
    events: Vec<Vec<Event>>,
    pub(crate) compacted: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { states: vec![State::new(), State::new()], events: vec![Vec::new(), Vec::new()], compacted: 0 }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// What the operations of one transaction do; nothing if they change nothing.
    pub(crate) fn apply(&mut self, ops: &[Op]) {
        let revision = Revision(self.revision() + 1);
        let mut state = self.states.last().unwrap().clone();
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let before = state.get(key);
                    let entry = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: before.map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: before.map_or(0, |kv| kv.version) + 1,
                        lease: *lease,
                    };
                    events.push(Event { kind: EventKind::Put, entry: entry.clone() });
                    state.insert(key.clone(), entry);
                }
                Op::Delete(range) => {
                    for key in state.keys().filter(|key| range.contains(key)).cloned().collect::<Vec<_>>() {
                        state.remove(&key);
                        let entry = KeyValue {
                            key,
                            value: Bytes::new(),
                            create_revision: Revision(0),
                            mod_revision: revision,
                            version: 0,
                            lease: 0,
                        };
                        events.push(Event { kind: EventKind::Delete, entry });
                    }
                }
                Op::Range(_) => {}
            }
        }
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(events);
        }
    }

    /// The model as it was at an earlier revision.
    pub(crate) fn cut(&self, revision: u64) -> Self {
        let end = revision as usize + 1;
        Self { states: self.states[..end].to_vec(), events: self.events[..end].to_vec(), compacted: self.compacted }
    }

    /// Compares everything that can be read with the store.
    pub(crate) fn check(&self, store: &Store) {
        assert_eq!(store.revision(), Revision(self.revision()));
        assert_eq!(store.compacted(), Revision(self.compacted));
        for revision in self.compacted.max(1)..=self.revision() {
            let read = store.range(&RangeQuery::new(KeyRange::all()).at(Revision(revision))).unwrap();
            let expected: Vec<_> = self.states[revision as usize].values().cloned().collect();
            assert_eq!(read.entries, expected, "at revision {revision}");
        }
        let read = store.events(&KeyRange::all(), Revision(self.compacted), u64::MAX).unwrap();
        let later = &self.events[self.compacted.max(1) as usize..];
        // Of the compacted revision itself only the changes that still show are told, and the deletions.
        let shown = |event: &&Event| {
            event.kind == EventKind::Delete
                || event.entry.mod_revision.0 > self.compacted
                || self.states[self.compacted as usize].get(&event.entry.key) == Some(&event.entry)
        };
        let expected: Vec<_> = later.iter().flatten().filter(shown).cloned().collect();
        let told: Vec<_> = read.events.into_iter().collect();
        assert_eq!(told, expected);
    }
}

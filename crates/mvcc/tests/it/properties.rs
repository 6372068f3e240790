//! The store against the model, on whatever chance proposes.

use std::path::Path;

use goulette_env::sim::SimDisk;
use goulette_mvcc::{KeyRange, Op, Store, Txn, WriteError};
use goulette_types::Revision;
use proptest::prelude::*;

use crate::model::Model;

#[derive(Clone, Debug)]
enum Action {
    Txn(Vec<Op>),
    /// So many revisions behind the current one.
    Compact(u64),
    Reopen,
}

fn key() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), "[xy]{0,4}").prop_map(|(key, value)| Op::put(key, value)),
        2 => key().prop_map(|key| Op::Delete(KeyRange::key(key))),
        1 => key().prop_map(|prefix| Op::Delete(KeyRange::prefix(prefix))),
        1 => (key(), key()).prop_map(|(start, end)| {
            Op::Delete(KeyRange { start: start.into(), end: Some(end.into()) })
        }),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => prop::collection::vec(op(), 0..4).prop_map(Action::Txn),
        1 => (0..5u64).prop_map(Action::Compact),
        1 => Just(Action::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(actions in prop::collection::vec(action(), 1..40)) {
        let mut disk = SimDisk::from_seed(1);
        let mut model = Model::new();
        let mut store = Store::open(&disk, Path::new("store")).unwrap();
        for action in actions {
            match action {
                Action::Txn(ops) => {
                    match store.txn(&Txn { success: ops.clone(), ..Txn::default() }) {
                        Ok(result) => {
                            model.apply(&ops);
                            prop_assert_eq!(result.revision, Revision(model.revision()));
                        }
                        Err(WriteError::DuplicateKey { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                Action::Compact(back) => {
                    let revision = model.revision().saturating_sub(back);
                    if revision > model.compacted {
                        store.compact(Revision(revision)).unwrap();
                        model.compacted = revision;
                    }
                }
                Action::Reopen => {
                    drop(store);
                    disk = disk.restart();
                    store = Store::open(&disk, Path::new("store")).unwrap();
                }
            }
        }
        model.check(&store);
    }
}

//! One fact per test, on the machine's own disk.

use std::{error::Error, path::Path};

use bytes::Bytes;
use goulette_env::RealDisk;
use goulette_mvcc::{
    Compare, EventKind, KeyRange, Op, OpenError, RangeQuery, ReadError, Relation, Store, Target, Txn, WriteError,
};
use goulette_types::Revision;

fn open(folder: &Path) -> Store {
    Store::open(&RealDisk, folder).unwrap()
}

fn write(store: &Store, ops: impl IntoIterator<Item = Op>) -> Revision {
    store.txn(&Txn { success: ops.into_iter().collect(), ..Txn::default() }).unwrap().revision
}

fn put(store: &Store, key: &'static str, value: &'static str) -> Revision {
    write(store, [Op::put(key, value)])
}

fn delete(store: &Store, key: &'static str) -> Revision {
    write(store, [Op::Delete(KeyRange::key(key))])
}

/// The live keys and values at a revision, as `k=v` words.
fn words(store: &Store, query: RangeQuery) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let entries = store.range(&query).unwrap().entries;
    entries.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect::<Vec<_>>().join(" ")
}

fn all() -> RangeQuery {
    RangeQuery::new(KeyRange::all())
}

#[test]
fn a_new_store_is_empty_at_revision_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("deep/er"));
    assert_eq!((store.revision(), store.compacted()), (Revision(1), Revision(0)));
    assert_eq!(store.range(&all()).unwrap().count, 0);
}

#[test]
fn each_change_has_a_revision_and_the_old_ones_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(put(&store, "a", "1"), Revision(2));
    assert_eq!(put(&store, "b", "1"), Revision(3));
    assert_eq!(put(&store, "a", "2"), Revision(4));
    assert_eq!(delete(&store, "b"), Revision(5));
    assert_eq!(delete(&store, "b"), Revision(5), "deleting nothing changes nothing");
    assert_eq!(put(&store, "b", "3"), Revision(6));
    for (revision, expected) in [(1, ""), (2, "a=1"), (3, "a=1 b=1"), (4, "a=2 b=1"), (5, "a=2"), (6, "a=2 b=3")] {
        assert_eq!(words(&store, all().at(Revision(revision))), expected, "at {revision}");
    }
    let b = store.range(&RangeQuery::new(KeyRange::key("b"))).unwrap().entries.remove(0);
    assert_eq!((b.create_revision, b.mod_revision, b.version), (Revision(6), Revision(6), 1), "a deletion ends a life");
    let a = store.range(&RangeQuery::new(KeyRange::key("a"))).unwrap().entries.remove(0);
    assert_eq!((a.create_revision, a.mod_revision, a.version), (Revision(2), Revision(4), 2));
    assert!(matches!(store.range(&all().at(Revision(7))), Err(ReadError::Future { .. })));
}

#[test]
fn a_limit_cuts_but_the_count_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, [Op::put("a", "1"), Op::put("b", "2"), Op::put("c", "3")]);
    let result = store.range(&all().limit(2)).unwrap();
    assert_eq!((result.entries.len(), result.count, result.more), (2, 3, true));
    let result = store.range(&RangeQuery { keys_only: true, ..all() }).unwrap();
    assert!(result.entries.iter().all(|kv| kv.value.is_empty()) && !result.more);
    let result = store.range(&RangeQuery { count_only: true, ..all() }).unwrap();
    assert_eq!((result.entries.len(), result.count), (0, 3));
}

#[test]
fn everything_survives_a_new_opening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, "a", "1");
    put(&store, "a", "2");
    store.compact(Revision(2)).unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!((store.revision(), store.compacted()), (Revision(3), Revision(2)));
    assert_eq!(words(&store, all()), "a=2");
    assert_eq!(put(&store, "b", "1"), Revision(4));
}

#[test]
fn a_second_opener_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path());
    let error = Store::open(&RealDisk, folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_damaged_file_is_an_error_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    #[allow(clippy::disallowed_methods, reason = "damages the file behind the store's back")]
    std::fs::write(folder.path().join("mvcc.redb"), vec![7; 100_000]).unwrap();
    let error = Store::open(&RealDisk, folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }) && error.source().is_some(), "{error}");
}

#[test]
fn a_transaction_is_one_revision_and_its_reads_see_its_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, "old", "1");
    let result = store
        .txn(&Txn {
            success: vec![Op::put("a", "1"), Op::Delete(KeyRange::key("old")), Op::Range(all()), Op::put("b", "1")],
            ..Txn::default()
        })
        .unwrap();
    assert_eq!(result.revision, Revision(3));
    let goulette_mvcc::OpResult::Range(seen) = &result.results[2] else { panic!("a range") };
    assert_eq!((seen.revision, seen.count), (Revision(3), 1));
    assert_eq!(words(&store, all()), "a=1 b=1");
}

#[test]
fn compares_choose_the_branch() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, "a", "m");
    let holds = |key: &'static str, relation, target| {
        let compare = Compare { key: key.into(), relation, target };
        store.txn(&Txn { compares: vec![compare], ..Txn::default() }).unwrap().succeeded
    };
    assert!(holds("a", Relation::Equal, Target::Version(1)));
    assert!(holds("a", Relation::Greater, Target::ModRevision(Revision(1))));
    assert!(holds("a", Relation::Less, Target::CreateRevision(Revision(3))));
    assert!(holds("a", Relation::NotEqual, Target::Value("n".into())));
    assert!(!holds("a", Relation::Equal, Target::Lease(1)));
    assert!(holds("absent", Relation::Equal, Target::ModRevision(Revision(0))));
    assert!(!holds("absent", Relation::NotEqual, Target::Value("n".into())), "no value is no value");
    assert_eq!(store.revision(), Revision(2), "reading changes nothing");
}

#[test]
fn a_key_is_written_once_per_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for (ops, legal) in [
        (vec![Op::put("a", "1"), Op::put("a", "2")], false),
        (vec![Op::put("b", "1"), Op::Delete(KeyRange::prefix(""))], false),
        (vec![Op::Delete(KeyRange::key("a")), Op::put("a", "1")], false),
        (vec![Op::Delete(KeyRange::key("a")), Op::Delete(KeyRange::all()), Op::Range(all())], true),
    ] {
        let result = store.txn(&Txn { success: ops.clone(), ..Txn::default() });
        assert_eq!(!matches!(result, Err(WriteError::DuplicateKey { .. })), legal, "{ops:?}");
    }
    assert!(matches!(store.txn(&Txn { success: vec![Op::put("", "1")], ..Txn::default() }), Err(WriteError::EmptyKey)));
}

#[test]
fn events_are_told_in_order_and_whole_revisions_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, [Op::put("a", "1"), Op::put("x", "1"), Op::put("b", "1")]);
    delete(&store, "a");
    put(&store, "b", "2");
    let range = KeyRange { start: "a".into(), end: Some("c".into()) };
    let first = store.events(&range, Revision(1), 2).unwrap();
    assert_eq!((first.events.len(), first.next), (2, Revision(3)));
    let rest = store.events(&range, first.next, 100).unwrap();
    let kinds: Vec<_> = rest.events.iter().map(|event| (event.kind, event.entry.mod_revision.0)).collect();
    assert_eq!(kinds, [(EventKind::Delete, 3), (EventKind::Put, 4)]);
    assert_eq!(rest.next, Revision(5));
    assert_eq!(store.events(&range, rest.next, 100).unwrap().next, Revision(5));
    assert_eq!(store.events(&range, Revision(9), 100).unwrap().next, Revision(9), "the future is waited for");
}

#[test]
fn compaction_keeps_what_the_compacted_revision_and_later_ones_see() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, "a", "1"); // 2
    put(&store, "a", "2"); // 3
    put(&store, "b", "1"); // 4
    delete(&store, "b"); // 5
    put(&store, "a", "3"); // 6
    let (at_5, at_6) = (words(&store, all().at(Revision(5))), words(&store, all()));
    store.compact(Revision(5)).unwrap();
    assert_eq!(words(&store, all().at(Revision(5))), at_5);
    assert_eq!(words(&store, all()), at_6);
    assert!(matches!(store.range(&all().at(Revision(4))), Err(ReadError::Compacted { .. })));
    assert!(matches!(store.events(&KeyRange::all(), Revision(4), 9), Err(ReadError::Compacted { .. })));
    let events = store.events(&KeyRange::all(), Revision(5), 9).unwrap().events;
    assert_eq!(events[0].kind, EventKind::Delete, "the deletion at the compacted revision is still told");
    assert!(matches!(store.compact(Revision(5)), Err(WriteError::Read(ReadError::Compacted { .. }))));
    assert!(matches!(store.compact(Revision(7)), Err(WriteError::Read(ReadError::Future { .. }))));
}

#[test]
fn the_listener_hears_each_commit_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tell, heard) = std::sync::mpsc::channel();
    store.set_listener(Box::new(move |revision| tell.send(revision).unwrap()));
    put(&store, "a", "1");
    delete(&store, "absent");
    put(&store, "a", "2");
    drop(store);
    assert_eq!(heard.iter().collect::<Vec<_>>(), [Revision(2), Revision(3)]);
}

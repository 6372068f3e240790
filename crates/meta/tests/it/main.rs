//! What every store of metadata must do, checked against each of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use goulette_env::RealDisk;
use goulette_meta::{Guard, LocalStore, MetaError, MetaStore, MetaTxn, Outcome};
use goulette_types::Revision;
use tokio::time::timeout;

fn local(folder: &Path) -> Arc<dyn MetaStore> {
    Arc::new(LocalStore::open(&RealDisk, folder).unwrap())
}

fn put(key: &str, value: &str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

async fn write(store: &dyn MetaStore, writes: Vec<(String, Option<Bytes>)>) -> Revision {
    match store.txn(MetaTxn { guards: Vec::new(), writes }).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("no guard, no conflict"),
    }
}

#[tokio::test]
async fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let revision = write(&*store, vec![put("/a/1", "one"), put("/a/2", "two"), put("/b", "x")]).await;
    let one = store.get("/a/1").await.unwrap().unwrap();
    assert_eq!((one.key.as_str(), &one.value[..], one.revision), ("/a/1", &b"one"[..], revision));
    let all = store.range("/a/").await.unwrap();
    assert_eq!((all.revision, all.entries.len()), (revision, 2));
    write(&*store, vec![("/a/1".to_owned(), None)]).await;
    assert_eq!(store.get("/a/1").await.unwrap(), None);
    assert_eq!(store.get("/a").await.unwrap(), None);
}

#[tokio::test]
async fn a_guard_that_does_not_hold_stops_the_whole_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let revision = write(&*store, vec![put("k", "1")]).await;
    let guarded = |guard: Revision, value: &str| MetaTxn {
        guards: vec![Guard { key: "k".to_owned(), revision: guard }],
        writes: vec![put("k", value), put("other", value)],
    };
    assert_eq!(store.txn(guarded(Revision(0), "2")).await.unwrap(), Outcome::Conflict);
    assert_eq!(store.get("other").await.unwrap(), None);
    assert!(matches!(store.txn(guarded(revision, "2")).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(store.txn(guarded(revision, "3")).await.unwrap(), Outcome::Conflict, "the key has moved on");
}

#[tokio::test]
async fn a_transaction_that_etcd_would_refuse_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let many = (0..=MetaTxn::KEYS_MAX).map(|n| put(&format!("k{n}"), "")).collect();
    let large = vec![put("k", &"x".repeat(MetaTxn::BYTES_MAX))];
    for writes in [many, large] {
        let result = store.txn(MetaTxn { guards: Vec::new(), writes }).await;
        assert!(matches!(result, Err(MetaError::TooLarge { .. })), "{result:?}");
    }
}

#[tokio::test]
async fn a_watch_tells_the_past_and_then_the_present() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let first = write(&*store, vec![put("/a/1", "one")]).await;
    write(&*store, vec![put("/b", "not asked for")]).await;
    let mut watch = store.watch("/a/", first);
    let past = watch.next().await.unwrap();
    assert_eq!(past.changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["/a/1"]);
    assert_eq!(past.revision, Revision(first.0 + 1), "what was looked at counts as told");
    assert!(timeout(Duration::from_millis(20), watch.next()).await.is_err(), "nothing new");
    let deleted = write(&*store, vec![("/a/1".to_owned(), None)]).await;
    let present = timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap();
    assert_eq!((present.changes[0].value.clone(), present.changes[0].revision), (None, deleted));
}

#[tokio::test]
async fn the_local_store_is_kept_and_is_for_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let revision = write(&*store, vec![put("k", "1")]).await;
    assert!(LocalStore::open(&RealDisk, folder.path()).is_err());
    drop(store);
    let store = local(folder.path());
    assert_eq!(store.get("k").await.unwrap().unwrap().revision, revision);
}

//! The contract of [`MetaStore`]. Each function takes a store whose keys are empty.

use std::time::Duration;

use bytes::Bytes;
use goulette_meta::{Guard, MetaError, MetaStore, MetaTxn, Outcome};
use goulette_types::Revision;
use tokio::time::timeout;

/// Makes one test of each fact, for a store that `$open` makes together with what must outlive it.
macro_rules! holds_for {
    ($open:expr, $($attribute:meta)?) => {
        crate::contract::holds_for!(all $open, ($($attribute)?),
            what_is_written_is_read,
            a_guard_that_does_not_hold_stops_the_whole_transaction,
            a_transaction_that_etcd_would_refuse_is_refused,
            a_transaction_as_large_as_allowed_is_taken,
            a_range_of_many_keys_is_of_one_moment,
            a_watch_tells_the_past_and_then_the_present,
            a_watch_of_what_was_dropped_says_so_or_tells_all
        );
    };
    (all $open:expr, $attribute:tt, $($fact:ident),*) => {
        $( crate::contract::holds_for!(one $open, $attribute, $fact); )*
    };
    (one $open:expr, ($($attribute:meta)?), $fact:ident) => {
        #[tokio::test]
        $(#[$attribute])?
        async fn $fact() {
            let (store, _keep) = $open;
            crate::contract::$fact(&store).await;
        }
    };
}
pub(crate) use holds_for;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn put(key: &str, value: &str) -> (String, Option<Bytes>) {
    (format!("/goulette/{key}"), Some(Bytes::copy_from_slice(value.as_bytes())))
}

pub(crate) async fn write(store: &dyn MetaStore, writes: Vec<(String, Option<Bytes>)>) -> Revision {
    match store.txn(MetaTxn { guards: Vec::new(), writes, lease: None }).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("no guard, no conflict"),
    }
}

pub(crate) async fn what_is_written_is_read(store: &dyn MetaStore) {
    let revision = write(store, vec![put("a/1", "one"), put("a/2", "two"), put("b", "x")]).await;
    let one = store.get("/goulette/a/1").await.unwrap().unwrap();
    assert_eq!((one.key.as_str(), &one.value[..], one.revision), ("/goulette/a/1", &b"one"[..], revision));
    let all = store.range("/goulette/a/").await.unwrap();
    assert_eq!((all.revision, all.entries.len()), (revision, 2));
    write(store, vec![("/goulette/a/1".to_owned(), None)]).await;
    assert_eq!(store.get("/goulette/a/1").await.unwrap(), None);
    assert_eq!(store.get("/goulette/a").await.unwrap(), None);
}

pub(crate) async fn a_guard_that_does_not_hold_stops_the_whole_transaction(store: &dyn MetaStore) {
    let revision = write(store, vec![put("k", "1")]).await;
    let guarded = |guard: Revision, value: &str| MetaTxn {
        guards: vec![Guard { key: "/goulette/k".to_owned(), revision: guard }],
        writes: vec![put("k", value), put("other", value)],
        lease: None,
    };
    assert_eq!(store.txn(guarded(Revision(0), "2")).await.unwrap(), Outcome::Conflict);
    assert_eq!(store.get("/goulette/other").await.unwrap(), None);
    assert!(matches!(store.txn(guarded(revision, "2")).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(store.txn(guarded(revision, "3")).await.unwrap(), Outcome::Conflict, "the key has moved on");
}

pub(crate) async fn a_transaction_that_etcd_would_refuse_is_refused(store: &dyn MetaStore) {
    let many = (0..=MetaTxn::KEYS_MAX).map(|n| put(&format!("k{n}"), "")).collect();
    let large = vec![put("k", &"x".repeat(MetaTxn::BYTES_MAX))];
    for writes in [many, large] {
        let result = store.txn(MetaTxn { guards: Vec::new(), writes, lease: None }).await;
        assert!(matches!(result, Err(MetaError::TooLarge { .. })), "{result:?}");
    }
}

pub(crate) async fn a_transaction_as_large_as_allowed_is_taken(store: &dyn MetaStore) {
    let value = "x".repeat(MetaTxn::BYTES_MAX / MetaTxn::KEYS_MAX - 40);
    let writes = (0..MetaTxn::KEYS_MAX - 1).map(|n| put(&format!("k{n}"), &value)).collect();
    let guards = vec![Guard { key: "/goulette/guard".to_owned(), revision: Revision(0) }];
    let outcome = store.txn(MetaTxn { guards, writes, lease: None }).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
}

/// More keys than one answer carries, and a write between the pages.
pub(crate) async fn a_range_of_many_keys_is_of_one_moment(store: &dyn MetaStore) {
    let mut revision = Revision(0);
    for hundred in 0..25 {
        let keys = (0..100).map(|n| put(&format!("many/{hundred:02}{n:02}"), &hundred.to_string())).collect();
        revision = write(store, keys).await;
    }
    let (found, _) = tokio::join!(store.range("/goulette/many/"), write(store, vec![put("many/zzzz", "late")]));
    let found = found.unwrap();
    let late = usize::from(found.revision > revision);
    assert_eq!(found.entries.len(), 2_500 + late);
    assert!(found.entries.is_sorted_by(|one, next| one.key < next.key));
}

pub(crate) async fn a_watch_tells_the_past_and_then_the_present(store: &dyn MetaStore) {
    let first = write(store, vec![put("a/1", "one")]).await;
    write(store, vec![put("b", "not asked for")]).await;
    let mut watch = store.watch("/goulette/a/", first);
    let past = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(past.changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["/goulette/a/1"]);
    assert!(past.revision >= first);
    assert!(timeout(Duration::from_millis(50), watch.next()).await.is_err(), "nothing new");
    let deleted = write(store, vec![("/goulette/a/1".to_owned(), None)]).await;
    let present = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!((present.changes[0].value.clone(), present.changes[0].revision), (None, deleted));
}

/// Nothing is compacted by force here, so all must come, in order and once, however many answers it takes.
pub(crate) async fn a_watch_of_what_was_dropped_says_so_or_tells_all(store: &dyn MetaStore) {
    let first = write(store, vec![put("n", "0")]).await;
    for n in 1..1_200 {
        write(store, vec![put("n", &n.to_string())]).await;
    }
    let mut watch = store.watch("/goulette/n", first);
    let mut next = 0;
    while next < 1_200 {
        let changes = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        for change in changes.changes {
            assert_eq!(change.value.unwrap(), next.to_string());
            next += 1;
        }
    }
}

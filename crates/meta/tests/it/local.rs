//! The store in this process.

use std::path::Path;

use goulette_env::RealDisk;
use goulette_meta::{LocalStore, MetaStore};

use crate::contract::{holds_for, put, write};

fn open(folder: &Path) -> LocalStore {
    LocalStore::open(&RealDisk, folder).unwrap()
}

fn new() -> (LocalStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (open(folder.path()), folder)
}

holds_for!(new(),);

#[tokio::test]
async fn it_is_kept_and_is_for_one_process() {
    let (store, folder) = new();
    let revision = write(&store, vec![put("k", "1")]).await;
    assert!(LocalStore::open(&RealDisk, folder.path()).is_err());
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.get("/goulette/k").await.unwrap().unwrap().revision, revision);
}

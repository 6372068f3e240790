use std::{path::Path, sync::Arc};

use bytes::Bytes;
use goulette_env::{Disk, DiskFile, OpenMode, RealDisk};
use redb::Durability;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    lease::Lessor,
    store::{KeyRange, RangeEnd, Store, StoreError, tables},
};

fn store(folder: &Path) -> Store {
    Store::open(Arc::new(RealDisk), folder).unwrap()
}

/// 300 writes of 7 keys, some deleted, and a user.
fn filled(folder: &Path) -> Store {
    let store = store(folder);
    let leases = Lessor::new(1);
    for n in 0..300u32 {
        let change = |batch: &mut crate::store::Batch<'_>| {
            let mut transaction = batch.transaction(&leases);
            let key = Bytes::from(format!("key{}", n % 7));
            if n % 10 == 9 {
                let range = KeyRange { start: key.clone(), end: RangeEnd::Single };
                transaction.delete_range(&range)?;
            } else {
                transaction.put(&key, Bytes::from(vec![n as u8; 100]), 0)?;
            }
            transaction.end();
            Ok::<_, StoreError>(())
        };
        store.write(Durability::None, change).unwrap();
    }
    let user = |batch: &mut crate::store::Batch<'_>| {
        batch.bucket(tables::AUTH_USERS)?.insert(&b"ann"[..], &b"\x0a\x03ann"[..])?;
        Ok(())
    };
    store.write(Durability::Immediate, user).unwrap();
    store
}

/// The store's snapshot, with its checksum.
fn saved(store: &Store, folder: &Path) -> Box<dyn DiskFile> {
    let file = RealDisk.open(&folder.join("snapshot"), OpenMode::CreateNew).unwrap();
    let length = save(&store.freeze().unwrap(), &*file).unwrap();
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    file.write_all_at(&Sha256::digest(&bytes), length).unwrap();
    file
}

fn options() -> RestoreOptions {
    RestoreOptions {
        skip_hash_check: false,
        bump_revision: None,
        cluster: 1,
        member: 2,
        members: vec![RestoredMember { id: 2, name: "new".into(), peer_urls: vec!["http://localhost:2380".into()] }],
        configuration: Bytes::new(),
    }
}

#[test]
fn a_restored_store_has_the_history_that_was_saved() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = filled(old.path());
    let file = saved(&from, old.path());
    let restored = restore(&RealDisk, &*file, new.path(), &options()).unwrap();
    assert_eq!(restored.revision, from.revision());
    let to = store(new.path());
    assert_eq!(to.revision(), from.revision());
    for revision in [0, 100, 250] {
        assert_eq!(to.hash_kv(revision).unwrap(), from.hash_kv(revision).unwrap());
    }
    assert_eq!(to.get(tables::AUTH_USERS, b"ann").unwrap(), from.get(tables::AUTH_USERS, b"ann").unwrap());
    assert!(to.get(tables::MEMBERS, b"0000000000000002").unwrap().is_some());
}

#[test]
fn the_status_tells_what_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let from = filled(dir.path());
    let file = saved(&from, dir.path());
    let status = status(&*file).unwrap();
    assert_eq!(status.revision, from.revision());
    assert_eq!(status.total_size, file.len().unwrap() - CHECKSUM_BYTES);
    assert_eq!(status.version, "3.6.0");
    assert!((1..=7).contains(&status.total_key), "{status:?}");
}

#[test]
fn revisions_go_on_above_the_old_ones_when_they_are_raised() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = filled(old.path());
    let file = saved(&from, old.path());
    let raised = RestoreOptions { bump_revision: Some(1_000_000), ..options() };
    restore(&RealDisk, &*file, new.path(), &raised).unwrap();
    let to = store(new.path());
    assert_eq!(to.revision(), from.revision() + 1_000_000);
    assert_eq!(to.compacted(), to.revision());
}

#[test]
fn a_file_with_a_wrong_byte_or_without_checksum_is_refused() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = saved(&filled(old.path()), old.path());
    let refused = |file: &dyn DiskFile| restore(&RealDisk, file, new.path(), &options()).unwrap_err();
    file.write_all_at(b"!", 30_000).unwrap();
    assert!(matches!(refused(&*file), RestoreError::Source(SourceError::Checksum { .. })));
    file.set_len(file.len().unwrap() - CHECKSUM_BYTES).unwrap();
    assert!(matches!(refused(&*file), RestoreError::Source(SourceError::NoChecksum)));
    file.set_len(4096).unwrap();
    let trusting = RestoreOptions { skip_hash_check: true, ..options() };
    assert!(restore(&RealDisk, &*file, new.path(), &trusting).is_err());
    assert!(!RealDisk.exists(&new.path().join(tables::FILE_NAME)).unwrap(), "nothing was made");
}

#[test]
fn flipped_bytes_never_panic() {
    let old = tempfile::tempdir().unwrap();
    let file = saved(&filled(old.path()), old.path());
    let length = file.len().unwrap();
    for position in (0..length).step_by(97) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 0x5a], position).unwrap();
        let _ = status(&*file);
        file.write_all_at(&byte, position).unwrap();
    }
}

#[test]
fn a_snapshot_tells_who_votes_as_etcds_raft_does() {
    let dir = tempfile::tempdir().unwrap();
    let from = filled(dir.path());
    let members = |batch: &mut crate::store::Batch<'_>| {
        let mut members = batch.bucket(tables::MEMBERS)?;
        members.insert(&b"000000000000000a"[..], &br#"{"id":10,"peerURLs":[],"name":"one"}"#[..])?;
        members.insert(&b"000000000000000b"[..], &br#"{"id":11,"peerURLs":[],"isLearner":true}"#[..])?;
        Ok(())
    };
    from.write(Durability::Immediate, members).unwrap();
    let file = saved(&from, dir.path());
    let reader = goulette_bbolt::Reader::open(&*file).unwrap();
    let mut rows = std::collections::BTreeMap::new();
    for bucket in ["meta", "auth"] {
        super::source::visit(&reader, bucket, |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok::<_, SourceError>(())
        })
        .unwrap();
    }
    let configuration: serde_json::Value = serde_json::from_slice(&rows[&b"confState"[..]]).unwrap();
    assert_eq!(configuration, serde_json::json!({ "voters": [10], "learners": [11], "auto_leave": false }));
    assert_eq!(rows[&b"authRevision"[..]], 1_u64.to_be_bytes());
}

//! Files written here are read back, whole and with every kind of wrong byte.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use goulette_bbolt::{Item, ReadError, Reader, WriteError, Writer};
use goulette_env::{Disk, DiskFile, OpenMode, RealDisk};
use proptest::prelude::*;

type Model = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

struct Scratch {
    file: Box<dyn DiskFile>,
    _dir: tempfile::TempDir,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let file = RealDisk.open(&dir.path().join("db"), OpenMode::CreateNew).unwrap();
    Scratch { file, _dir: dir }
}

fn write(file: &dyn DiskFile, model: &Model) -> u64 {
    let mut writer = Writer::new(file);
    for (name, keys) in model {
        let mut bucket = writer.bucket(name);
        for (key, value) in keys {
            bucket.put(key, value).unwrap();
        }
        bucket.finish().unwrap();
    }
    writer.finish().unwrap()
}

fn read(file: &dyn DiskFile) -> Result<Model, ReadError> {
    let reader = Reader::open(file)?;
    let mut model = Model::new();
    for bucket in reader.items(&reader.root()) {
        let Item::Bucket(name, bucket) = bucket? else { continue };
        let mut keys = BTreeMap::new();
        for item in reader.items(&bucket) {
            if let Item::Value(key, value) = item? {
                keys.insert(key.to_vec(), value.to_vec());
            }
        }
        model.insert(name.to_vec(), keys);
    }
    Ok(model)
}

/// Empty, inline, one-leaf, two-level and three-level buckets, and values of several pages.
fn all_shapes() -> Model {
    let numbered = |count: u32, key: usize, value: usize| -> BTreeMap<Vec<u8>, Vec<u8>> {
        (0..count).map(|n| (format!("{n:0key$}").into_bytes(), vec![n as u8; value])).collect()
    };
    [
        (b"empty".to_vec(), BTreeMap::new()),
        (b"inline".to_vec(), numbered(3, 8, 8)),
        (b"leaf".to_vec(), numbered(20, 8, 100)),
        (b"two levels".to_vec(), numbered(1_000, 17, 30)),
        (b"three levels".to_vec(), numbered(2_000, 200, 300)),
        (b"long keys".to_vec(), numbered(9, 30_000, 1)),
        (b"long values".to_vec(), numbered(5, 8, 1_500_000)),
    ]
    .into()
}

#[test]
fn every_shape_of_bucket_is_read_back() {
    let scratch = scratch();
    let model = all_shapes();
    let length = write(&*scratch.file, &model);
    assert_eq!(length % 4096, 0);
    assert_eq!(length, scratch.file.len().unwrap());
    assert!(read(&*scratch.file).unwrap() == model);
}

#[test]
fn a_file_without_buckets_is_a_file() {
    let scratch = scratch();
    assert_eq!(write(&*scratch.file, &Model::new()), 4 * 4096);
    assert_eq!(read(&*scratch.file).unwrap(), Model::new());
}

#[test]
fn a_file_that_is_cut_short_is_refused() {
    let scratch = scratch();
    let length = write(&*scratch.file, &all_shapes());
    for kept in [length - 1, length - 4096, 8192, 4096 + 80, 16, 0] {
        scratch.file.set_len(kept).unwrap();
        assert!(read(&*scratch.file).is_err(), "{kept} bytes");
    }
}

#[test]
fn keys_that_do_not_rise_are_refused() {
    let scratch = scratch();
    let mut writer = Writer::new(&*scratch.file);
    let mut bucket = writer.bucket(b"b");
    bucket.put(b"2", b"").unwrap();
    assert!(matches!(bucket.put(b"2", b""), Err(WriteError::Order)));
    assert!(matches!(bucket.put(b"1", b""), Err(WriteError::Order)));
    assert!(matches!(bucket.put(b"", b""), Err(WriteError::Size { .. })));
    bucket.finish().unwrap();
    assert!(matches!(writer.bucket(b"b").finish(), Err(WriteError::BucketTwice)));
}

#[test]
fn a_tree_that_bites_its_tail_ends() {
    let scratch = scratch();
    let model: Model =
        [(b"b".to_vec(), (0..2_000u32).map(|n| (n.to_be_bytes().to_vec(), vec![0; 100])).collect())].into();
    write(&*scratch.file, &model);
    // The last page but one is the bucket's root, a branch: let its second child be itself.
    let root = scratch.file.len().unwrap() / 4096 - 2;
    scratch.file.write_all_at(&root.to_le_bytes(), root * 4096 + 16 + 16 + 8).unwrap();
    assert!(matches!(read(&*scratch.file), Err(ReadError::Corrupt { what: "two pages lead to it", .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        model in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 1..20),
            proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 1..300),
                proptest::collection::vec(any::<u8>(), 0..2_000),
                0..60,
            ),
            0..6,
        )
    ) {
        let scratch = scratch();
        write(&*scratch.file, &model);
        prop_assert_eq!(read(&*scratch.file).unwrap(), model);
    }

    #[test]
    fn wrong_bytes_neither_panic_nor_run_for_ever(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
        low in any::<bool>(),
    ) {
        let scratch = scratch();
        let model: Model = [
            (b"a".to_vec(), (0..300u32).map(|n| (n.to_be_bytes().to_vec(), vec![1; 50])).collect()),
            (b"b".to_vec(), [(b"k".to_vec(), b"v".to_vec())].into()),
            (b"c".to_vec(), [(b"k".to_vec(), vec![7; 10_000])].into()),
        ]
        .into();
        let length = write(&*scratch.file, &model);
        for (place, byte) in flips {
            // Half of the runs aim at the headers and elements, which is where it hurts.
            let mut position = place.index(length as usize);
            if low {
                position = position / 4096 * 4096 + position % 96;
            }
            scratch.file.write_all_at(&[byte], position as u64).unwrap();
        }
        let _ = read(&*scratch.file);
    }
}

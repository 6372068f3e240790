//! Looking at a directory from outside, sound and damaged in every kind of file.

use std::{collections::BTreeMap, ops::ControlFlow, path::PathBuf};

use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_log::{Damage, Identity, InspectError, Inspection, Log, Retention, Selection, Verified};
use goulette_types::{Offset, PartitionIndex};

use crate::support::{DIR, append, batch, id, open, small, topic, values};

const BATCHES: usize = 40;

fn value(index: usize) -> String {
    format!("{index:03}-{}", "x".repeat(150))
}

/// A broker was killed: two partitions with sealed and active fragments, and a WAL with what came behind the checkpoint.
fn killed() -> SimDisk {
    let disk = SimDisk::from_seed(3);
    disk.create_dir_all(DIR.as_ref()).unwrap();
    Identity::open(&disk.env(), DIR.as_ref(), &"b7".parse().unwrap()).unwrap();
    let (log, _) = open(disk.env(), small());
    for index in 0..2 {
        let partition = log.create_partition(id(9, index), &topic("orders")).unwrap();
        for index in 0..BATCHES {
            append(&partition, batch(&[value(index), "y".to_owned()])).unwrap();
        }
    }
    log.checkpoint().unwrap();
    for index in 0..2 {
        let partition = log.partition(id(9, index)).unwrap();
        for index in 0..4 {
            append(&partition, batch(&[value(index)])).unwrap();
        }
    }
    disk.restart()
}

fn inspect(disk: &SimDisk) -> Inspection {
    Inspection::open(&disk.env(), DIR.as_ref()).unwrap()
}

fn verify(disk: &SimDisk) -> Verified {
    inspect(disk).verify()
}

/// The disk with this one bit of a file flipped.
fn flipped(disk: &SimDisk, path: &PathBuf, bit: usize) -> SimDisk {
    let disk = disk.crash(Unsynced::All);
    let mut bytes = disk.files()[path].clone();
    bytes[bit / 8] ^= 1 << (bit % 8);
    disk.open(path, OpenMode::Write).unwrap().write_all_at(&bytes, 0).unwrap();
    disk
}

fn paths(disk: &SimDisk, extension: &str) -> Vec<PathBuf> {
    let ends = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
    disk.files().into_keys().filter(ends).collect()
}

#[test]
fn a_sound_directory_is_told_in_numbers_and_nothing_in_it_changes() {
    let disk = killed();
    let before = (disk.files(), disk.log().len());
    let inspection = inspect(&disk);
    let contents = inspection.contents();
    assert_eq!(contents.broker.as_ref().map(ToString::to_string).as_deref(), Some("b7"));
    assert_eq!(contents.partitions.len(), 2);
    for partition in &contents.partitions {
        assert_eq!((partition.start, partition.end), (Offset(0), Offset(2 * BATCHES as u64 + 4)));
        assert_eq!((partition.topic.as_str(), partition.wal_batches), ("orders", 4));
        assert!(partition.fragments >= 3, "{partition:?}");
    }
    assert_eq!((contents.wal.tail_entries, contents.damages), (8, 0));
    assert!(contents.wal.segments > 0 && contents.wal.end > contents.wal.from, "{:?}", contents.wal);
    let verified = inspection.verify();
    assert_eq!(verified.damages, []);
    assert_eq!((verified.batches, verified.records), (2 * (BATCHES as u64 + 4), 2 * (2 * BATCHES as u64 + 4)));
    assert_eq!(disk.files(), before.0);
    let done: Vec<_> = disk.log()[before.1..].iter().map(|operation| operation.kind).collect();
    assert!(done.iter().all(|kind| ["sync", "sync_dir"].contains(kind)), "{done:?}");
    drop(inspection);

    let (log, report) = open(disk.env(), small());
    assert_eq!((report.lost, values(&log.partition(id(9, 1)).unwrap()).len()), (None, 2 * BATCHES + 4));
    log.close().unwrap();
    assert_eq!(verify(&disk).damages, [], "after a clean close");
}

#[test]
fn a_directory_in_use_is_refused_with_the_brokers_name_and_another_folder_too() {
    let disk = killed();
    let (_log, _) = open(disk.env(), small());
    let refused = Inspection::open(&disk.env(), DIR.as_ref()).err().unwrap();
    assert_eq!(refused.to_string(), "data directory /data is in use by the running broker b7: stop it first");
    let other = Inspection::open(&disk.env(), "/elsewhere".as_ref()).err().unwrap();
    assert!(matches!(other, InspectError::NoData { .. }), "{other}");
    assert!(!disk.exists("/elsewhere".as_ref()).unwrap());
}

#[test]
fn batches_are_shown_in_order_from_fragments_and_wal() {
    let disk = killed();
    let inspection = inspect(&disk);
    let selection = Selection { topic: Some(topic("orders")), partition: Some(PartitionIndex(1)), from: Offset(71) };
    let mut next = Offset(70);
    let mut files = Vec::new();
    inspection.dump(&selection, &mut |dumped| {
        let batch = dumped.batch.unwrap();
        assert_eq!(
            (dumped.id, batch.base_offset()),
            (id(9, 1), next),
            "the batch that holds the first offset comes whole"
        );
        next = batch.next_offset();
        files.push(dumped.file.extension().unwrap().to_owned());
        ControlFlow::Continue(())
    });
    assert_eq!(next, Offset(2 * BATCHES as u64 + 4));
    assert_eq!(files.iter().filter(|extension| *extension == "wal").count(), 4);
    let mut shown = 0;
    inspection.dump(&Selection::default(), &mut |_| {
        shown += 1;
        if shown == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(shown, 2);
    let none = Selection { topic: Some(topic("other")), ..Selection::default() };
    inspection.dump(&none, &mut |dumped| panic!("{dumped:?}"));
}

/// Flips one bit of each of these bytes, one after the other, and expects the file named each time, not beyond the byte.
fn every_flip_is_found(disk: &SimDisk, path: &PathBuf, bytes: impl IntoIterator<Item = usize>) -> Vec<Damage> {
    let mut found = Vec::new();
    for byte in bytes {
        let damages = verify(&flipped(disk, path, 8 * byte + byte % 8)).damages;
        let named = damages.iter().find(|damage| damage.file == *path);
        let named = named.unwrap_or_else(|| panic!("byte {byte} of {}: {damages:?}", path.display()));
        assert!(named.position <= byte as u64, "byte {byte}: {named:?}");
        found.push(named.clone());
    }
    found
}

#[test]
fn a_flipped_bit_in_a_fragment_is_found_and_the_batches_around_it_too() {
    let disk = killed();
    let whole = verify(&disk).batches;
    // The active fragments may have bytes behind the checkpoint's: those count only in the WAL.
    let mut valid = BTreeMap::new();
    inspect(&disk).dump(&Selection::default(), &mut |dumped| {
        let end = dumped.position as usize + dumped.batch.unwrap().encoded_bytes();
        valid.insert(dumped.file.to_owned(), end);
        ControlFlow::Continue(())
    });
    for path in paths(&disk, "log") {
        let valid = valid[&path];
        every_flip_is_found(&disk, &path, (0..valid).step_by(7));
        let verified = verify(&flipped(&disk, &path, 8 * 300));
        assert_eq!((verified.batches, verified.damages.len()), (whole - 1, 1), "{:?}", verified.damages);
    }
}

#[test]
fn a_flipped_bit_in_an_index_a_time_index_or_the_checkpoint_is_found() {
    let disk = killed();
    for path in paths(&disk, "index").into_iter().chain(paths(&disk, "timeindex")) {
        let length = disk.files()[&path].len();
        for (byte, damage) in every_flip_is_found(&disk, &path, 0..length).iter().enumerate() {
            assert_eq!(damage.position, byte as u64);
        }
    }
    let path = PathBuf::from(DIR).join("checkpoint");
    let length = disk.files()[&path].len();
    every_flip_is_found(&disk, &path, (0..length).step_by(3));
}

#[test]
fn a_flipped_bit_in_any_group_of_the_wal_but_the_last_is_found() {
    let disk = killed();
    let contents = inspect(&disk).contents();
    let (from, end) = (contents.wal.from.unwrap(), contents.wal.end.unwrap());
    let mut last = (PathBuf::new(), 0);
    let mut entries = Vec::new();
    inspect(&disk).dump(&Selection::default(), &mut |dumped| {
        if dumped.file.extension().unwrap() == "wal" {
            last = (dumped.file.to_owned(), dumped.position);
            // The entry's header, its head and its batch.
            let bytes = 24 + 52 + dumped.batch.unwrap().encoded_bytes();
            entries.push((dumped.file.to_owned(), dumped.position as usize..dumped.position as usize + bytes));
        }
        ControlFlow::Continue(())
    });
    assert!(from < end && entries.len() == 8);
    for (path, bytes) in entries {
        if (&path, bytes.start as u64) != (&last.0, last.1) {
            let damages = every_flip_is_found(&disk, &path, bytes.clone().step_by(5));
            assert!(damages.iter().all(|damage| damage.position == bytes.start as u64), "{damages:?}");
        }
    }
    let torn = flipped(&disk, &last.0, 8 * (last.1 as usize + 30));
    assert!(inspect(&torn).contents().wal.torn, "the last group may never have been acknowledged");
    assert_eq!(verify(&torn).damages, []);
}

#[test]
fn a_file_that_is_missing_or_cut_is_named() {
    let disk = killed();
    for path in paths(&disk, "log") {
        let gone = disk.crash(Unsynced::All);
        gone.remove_file(&path).unwrap();
        let damages = verify(&gone).damages;
        assert!(damages.iter().any(|damage| damage.file == path && damage.position == 0), "{damages:?}");
        let cut = disk.crash(Unsynced::All);
        cut.open(&path, OpenMode::Write).unwrap().set_len(100).unwrap();
        let damages = verify(&cut).damages;
        assert!(damages.iter().any(|damage| damage.file == path && damage.position == 100), "{damages:?}");
    }
    for path in paths(&disk, "index") {
        let gone = disk.crash(Unsynced::All);
        gone.remove_file(&path).unwrap();
        assert_eq!(verify(&gone).damages, [], "an index is made anew");
    }
    let path = PathBuf::from(DIR).join("checkpoint");
    let gone = disk.crash(Unsynced::All);
    gone.remove_file(&path).unwrap();
    assert_eq!(verify(&gone).damages.first().map(|damage| damage.file.clone()), Some(path));
    let identity = PathBuf::from(DIR).join("broker.json");
    assert_eq!(verify(&flipped(&disk, &identity, 0)).damages[0].file, identity);
}

#[test]
fn a_wal_whose_epochs_are_older_than_the_checkpoints_is_told_and_refused() {
    let disk = killed();
    let path = PathBuf::from(DIR).join("checkpoint");
    let mut file = disk.files()[&path].clone();
    // A list of one epoch: number 1, from offset 0 on. Now it is number 9, and the checksum fits.
    let list = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let at = file.windows(list.len()).position(|bytes| bytes == list).unwrap();
    file[at + 7] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&file[..12]), &file[16..]);
    file[12..16].copy_from_slice(&crc.to_be_bytes());
    disk.open(&path, OpenMode::Write).unwrap().write_all_at(&file, 0).unwrap();
    let damages = verify(&disk).damages;
    let told = |damage: &Damage| damage.reason == "is of epoch 1, older than the one before";
    assert_eq!(damages.iter().filter(|damage| told(damage)).count(), 4, "{damages:?}");
    let refused = Log::open(disk.env(), DIR.as_ref(), small()).err().unwrap();
    assert!(refused.to_string().contains("is of epoch 1, and epoch 9 is in the checkpoint"), "{refused}");
}

#[test]
fn a_start_that_only_the_wal_knows_is_told() {
    let disk = SimDisk::from_seed(3);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(9, 0), &topic("orders")).unwrap();
    for index in 0..BATCHES {
        append(&partition, batch(&[value(index)])).unwrap();
    }
    log.checkpoint().unwrap();
    partition.set_retention(Retention { age: None, bytes: Some(4_000) });
    log.retain().unwrap();
    let start = partition.start();
    assert!(start > Offset(0));
    let disk = disk.restart();
    let inspection = inspect(&disk);
    assert_eq!(inspection.contents().partitions[0].start, start);
    assert_eq!(inspection.verify().damages, []);
    drop(inspection);
    open(disk.env(), small()).0.close().unwrap();
    let inspection = inspect(&disk);
    assert_eq!((inspection.contents().partitions[0].start, inspection.verify().damages), (start, Vec::new()));
}

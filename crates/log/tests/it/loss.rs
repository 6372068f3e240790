//! When acknowledged records may be gone: it is found, said once, and the directory gets another storage id.

use std::path::Path;

use goulette_env::{
    Disk, OpenMode,
    sim::{Faults, SimDisk, Unsynced},
};
use goulette_log::{Identity, Log, LogOptions, ReadError, RecoveryReport, SyncPolicy, WalOptions};
use goulette_types::{Offset, StorageId};

use crate::support::*;

fn wide() -> LogOptions {
    LogOptions { wal: WalOptions { segment_bytes: 256 << 10, ..small().wal }, ..small() }
}

fn with(sync: SyncPolicy) -> LogOptions {
    LogOptions { wal: WalOptions { sync, ..wide().wal }, ..wide() }
}

/// A log with an identity and a partition of five records.
fn start(disk: &SimDisk, options: LogOptions) -> (Log, StorageId) {
    let identity = Identity::open(&disk.env(), Path::new(DIR), &"b".parse().unwrap()).unwrap();
    let (log, _) = open(disk.env(), options);
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    for value in ["a", "b", "c", "d", "e"] {
        append(&partition, batch(&[value])).unwrap();
    }
    (log, identity.storage)
}

/// Opens twice; the second opening has nothing to say about what the first has found.
fn reopen(disk: &mut SimDisk, options: LogOptions) -> (Log, RecoveryReport, StorageId) {
    let (log, report) = open(disk.env(), options.clone());
    let storage = log.identity().unwrap().storage;
    drop(log);
    *disk = disk.restart();
    let (log, again) = open(disk.env(), options);
    assert_eq!(again.lost, None, "a loss is reported once");
    assert_eq!(log.identity().unwrap().storage, storage);
    (log, report, storage)
}

fn wal_files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    disk.files().into_keys().filter(|path| path.extension().is_some_and(|extension| extension == "wal")).collect()
}

#[test]
fn a_corrupt_wal_keeps_what_stands_before_and_renews_the_storage_id() {
    let disk = SimDisk::from_seed(1);
    let (log, storage) = start(&disk, wide());
    drop(log);
    let mut disk = disk.restart();
    // Some byte of the third batch's record: there are sound groups behind it.
    let path = &wal_files(&disk)[0];
    let bytes = disk.files()[path].clone();
    let at = bytes.windows(3).position(|three| three == [2, b'c', 0]).unwrap();
    disk.env().disk.open(path, OpenMode::Write).unwrap().write_all_at(b"X", at as u64 + 1).unwrap();
    let (log, report, renewed) = reopen(&mut disk, wide());
    assert!(report.lost.is_some_and(|lost| lost.contains("corrupt")));
    assert_ne!(storage, renewed);
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(values(&partition), ["a", "b"]);
    append(&partition, batch(&["again"])).unwrap();
    drop(log);
    let (log, report) = open(disk.crash(Unsynced::None).env(), wide());
    assert_eq!(report.lost, None);
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ["a", "b", "again"]);
}

#[test]
fn a_fragment_that_lost_its_end_is_noticed_and_its_rest_still_read() {
    let disk = SimDisk::from_seed(1);
    let (log, storage) = start(&disk, wide());
    log.close().unwrap();
    let path = disk.files().into_keys().find(|path| path.to_string_lossy().ends_with(".log")).unwrap();
    let file = disk.env().disk.open(&path, OpenMode::Write).unwrap();
    file.set_len(file.len().unwrap() - 10).unwrap();
    let (log, report, renewed) = reopen(&mut disk.restart(), wide());
    assert!(report.lost.is_some());
    assert_ne!(storage, renewed);
    let partition = log.partition(id(1, 0)).unwrap();
    let read = |from| partition.read(Offset(from), Offset::MAX, 1);
    append(&partition, batch(&["f"])).unwrap();
    for round in 0..2 {
        assert_eq!(read(0).unwrap()[0].base_offset(), Offset(0), "round {round}");
        assert_eq!(read(5).unwrap()[0].base_offset(), Offset(5));
        match read(4) {
            Err(ReadError::Corrupt { from: Offset(4), next: Some(Offset(5)), .. }) => {}
            other => panic!("{other:?}"),
        }
        log.checkpoint().unwrap();
    }
}

#[test]
fn without_its_topics_a_directory_is_refused_by_name() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = start(&disk, wide());
    log.close().unwrap();
    disk.rename(Path::new("/data/topics"), Path::new("/data/elsewhere")).unwrap();
    let refused = Log::open(disk.env(), Path::new(DIR), wide()).err().unwrap().to_string();
    assert!(refused.contains("/data/topics is damaged: it is gone, and 1 partitions with it"), "{refused}");
    // Of one partition alone the rest may go on.
    disk.rename(Path::new("/data/elsewhere"), Path::new("/data/topics")).unwrap();
    let folder = fragment_path(&disk).parent().unwrap().to_owned();
    disk.rename(&folder, Path::new("/data/elsewhere")).unwrap();
    let (log, report) = open(disk.env(), wide());
    assert!(report.lost.is_some_and(|lost| lost.contains("has 0 bytes instead of")));
    let partition = log.partition(id(1, 0)).unwrap();
    append(&partition, batch(&["f"])).unwrap();
    log.close().unwrap();
    let (log, report) = open(disk.env(), wide());
    assert_eq!(report.lost, None);
    assert!(log.partition(id(1, 0)).unwrap().read(Offset(5), Offset::MAX, 1).is_ok());
}

#[test]
fn a_checkpoint_of_another_broker_is_refused_by_name() {
    let (disk, other) = (SimDisk::from_seed(1), SimDisk::from_seed(2));
    for disk in [&disk, &other] {
        let (log, _) = start(disk, wide());
        log.checkpoint().unwrap();
    }
    let (disk, other) = (disk.restart(), other.restart());
    let path = Path::new("/data/checkpoint");
    disk.remove_file(path).unwrap();
    disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(&other.files()[path], 0).unwrap();
    let before = disk.files();
    let refused = Log::open(disk.env(), Path::new(DIR), wide()).err().unwrap().to_string();
    assert!(refused.contains("/data/wal/"), "{refused}");
    assert_eq!(disk.files(), before, "nothing was touched");
}

#[test]
fn fragments_that_are_doubled_or_have_another_base_are_set_aside() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = start(&disk, wide());
    log.close().unwrap();
    let path = fragment_path(&disk);
    let bytes = disk.files()[&path].clone();
    let copies = ["00000000000000000003.0.log", "00000000000000000000.0.log.1", "00000000000000000000.00.log"];
    for copy in copies {
        disk.open(&path.with_file_name(copy), OpenMode::CreateNew).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    let (log, report) = open(disk.env(), wide());
    assert_eq!((report.lost, report.set_aside.len()), (None, copies.len()));
    assert!(report.set_aside.iter().all(|path| disk.files()[path] == bytes));
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ["a", "b", "c", "d", "e"]);
}

#[test]
fn without_its_newest_wal_segment_a_log_is_refused_by_name() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = start(&disk, wide());
    log.checkpoint().unwrap();
    drop(log);
    let disk = disk.restart();
    let newest = wal_files(&disk).pop().unwrap();
    wal_files(&disk).iter().for_each(|path| disk.remove_file(path).unwrap());
    let refused = Log::open(disk.env(), Path::new(DIR), wide()).err().unwrap().to_string();
    assert!(refused.contains(newest.to_str().unwrap()), "{refused}");
}

fn fragment_path(disk: &SimDisk) -> std::path::PathBuf {
    disk.files().into_keys().find(|path| path.extension().is_some_and(|extension| extension == "log")).unwrap()
}

#[test]
fn under_a_relaxed_policy_only_a_clean_end_vouches_for_what_was_acknowledged() {
    for sync in [SyncPolicy::Never, SyncPolicy::Always] {
        let disk = SimDisk::from_seed(1);
        let (log, storage) = start(&disk, with(sync));
        drop(log);
        let (log, report, renewed) = reopen_after_crash(&disk, sync);
        assert_eq!(report.lost.is_some(), sync == SyncPolicy::Never);
        assert_eq!(storage == renewed, sync == SyncPolicy::Always);
        log.close().unwrap();
    }
    let disk = SimDisk::from_seed(1);
    let (log, storage) = start(&disk, with(SyncPolicy::Never));
    log.close().unwrap();
    let (log, report) = open(disk.crash(Unsynced::None).env(), with(SyncPolicy::Never));
    assert_eq!((report.lost, log.identity().unwrap().storage), (None, storage));
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()).len(), 5);
}

/// Writes down which boot of the machine this is.
fn boot(disk: &SimDisk, id: &[u8; 36]) {
    let disk = disk.env().disk;
    let dir = Path::new("/proc/sys/kernel/random");
    disk.create_dir_all(dir).unwrap();
    let file = disk.open(&dir.join("boot_id"), OpenMode::CreateOrOpen).unwrap();
    file.write_all_at(id, 0).unwrap();
    file.sync_data().unwrap();
    for dir in dir.ancestors() {
        disk.sync_dir(dir).unwrap();
    }
}

#[test]
fn under_a_relaxed_policy_a_killed_process_loses_nothing_while_the_machine_stays_up() {
    let (monday, tuesday) = (b"0b6bd5c2-9d70-4a6f-8f6f-1f0a6d1c7f01", b"7e1f9a54-27e1-4c52-a0ee-03f9bb0c2d55");
    for sync in [SyncPolicy::Never, SyncPolicy::Interval(std::time::Duration::from_secs(3600))] {
        let disk = SimDisk::from_seed(1);
        boot(&disk, monday);
        let (log, storage) = start(&disk, with(sync));
        std::mem::forget(log); // Killed: nothing is synced on the way out.

        // Only the process died: the page cache still has all of it.
        let restarted = disk.restart();
        let (log, report) = open(restarted.env(), with(sync));
        assert_eq!((report.lost, log.identity().unwrap().storage), (None, storage));
        assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ["a", "b", "c", "d", "e"]);
        std::mem::forget(log);

        // The machine did, even if by chance all had reached the disk: nobody can tell.
        let rebooted = restarted.crash(Unsynced::All);
        boot(&rebooted, tuesday);
        let (log, report) = open(rebooted.env(), with(sync));
        assert!(report.lost.is_some_and(|lost| lost.contains("sync policy")));
        assert_ne!(log.identity().unwrap().storage, storage);
        // That was said, and counts from here on.
        let storage = log.identity().unwrap().storage;
        std::mem::forget(log);
        let (log, report) = open(rebooted.restart().env(), with(sync));
        assert_eq!((report.lost, log.identity().unwrap().storage), (None, storage));
    }
}

fn reopen_after_crash(disk: &SimDisk, sync: SyncPolicy) -> (Log, RecoveryReport, StorageId) {
    let (log, report) = open(disk.crash(Unsynced::None).env(), with(sync));
    let storage = log.identity().unwrap().storage;
    (log, report, storage)
}

/// A log whose WAL lost what the checkpoint has, as a power cut leaves it behind syncs that were not made.
fn with_a_lost_wal() -> (SimDisk, StorageId) {
    let disk = SimDisk::from_seed(1);
    let (log, storage) = start(&disk, with(SyncPolicy::Never));
    // The fragments and the checkpoint are synced, the WAL is not.
    log.checkpoint().unwrap();
    drop(log);
    let disk = disk.crash(Unsynced::None);
    // What a power cut leaves of unsynced blocks: nothing.
    for path in wal_files(&disk) {
        let file = disk.env().disk.open(&path, OpenMode::Write).unwrap();
        file.write_all_at(&vec![0; file.len().unwrap() as usize - 8192], 8192).unwrap();
        file.sync_data().unwrap();
    }
    (disk, storage)
}

#[test]
fn who_dies_while_a_lost_wal_is_set_aside_opens_again_and_still_says_so() {
    for stop_at in 1.. {
        let (disk, storage) = with_a_lost_wal();
        disk.set_faults(Faults { stop_at: Some(stop_at + disk.operations()), ..Faults::default() });
        let opened = Log::open(disk.env(), Path::new(DIR), with(SyncPolicy::Never));
        let done = opened.is_ok();
        drop(opened);
        for unsynced in [Unsynced::None, Unsynced::All, Unsynced::Random] {
            let (log, _) = open(disk.crash(unsynced).env(), with(SyncPolicy::Never));
            assert_ne!(log.identity().unwrap().storage, storage, "stopped at {stop_at}");
            assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ["a", "b", "c", "d", "e"]);
        }
        if done {
            assert!(stop_at > 5);
            break;
        }
    }
}

#[test]
fn a_wal_that_ends_before_the_checkpoint_is_set_aside() {
    let (disk, storage) = with_a_lost_wal();
    let (log, report) = open(disk.env(), with(SyncPolicy::Never));
    assert!(report.lost.is_some());
    assert_ne!(log.identity().unwrap().storage, storage);
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(values(&partition), ["a", "b", "c", "d", "e"], "the checkpoint has them");
    append(&partition, batch(&["f"])).unwrap();
    log.close().unwrap();
    let (log, report) = open(disk.env(), with(SyncPolicy::Never));
    assert_eq!(report.lost, None);
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()).len(), 6);
}

//! The direct path: what much data takes, and what a reference proves.

use goulette_env::{
    OpenMode,
    sim::{Faults, SimDisk, Unsynced},
};
use goulette_log::{AppendError, LogOptions, Retention};
use goulette_types::Offset;

use crate::support::*;

/// Everything goes directly.
fn direct() -> LogOptions {
    LogOptions { direct_bytes: 1, ..small() }
}

/// The bytes that were written to files whose name ends so.
fn written(disk: &SimDisk, extension: &str) -> usize {
    disk.log()
        .iter()
        .filter(|operation| operation.kind == "write" && operation.path.to_string_lossy().ends_with(extension))
        .count()
}

#[test]
fn what_goes_directly_is_written_once_and_read_back_after_a_crash() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), direct());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let expected: Vec<String> = (0..20).map(|number| format!("{number} {}", "x".repeat(300))).collect();
    for value in &expected {
        append(&partition, batch(&[value])).unwrap();
    }
    assert_eq!(values(&partition), expected);
    let fragments = written(&disk, ".log");
    log.flush().unwrap();
    assert_eq!(written(&disk, ".log"), fragments, "the flusher has nothing to write");
    assert_eq!(values(&partition), expected);
    drop((log, partition));
    // The WAL does not have the records.
    let disk = disk.crash(Unsynced::None);
    let wal: Vec<u8> = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.ends_with("wal") || path.to_string_lossy().ends_with(".wal"))
        .flat_map(|(_, bytes)| bytes)
        .collect();
    assert!(!wal.windows(100).any(|window| window == "x".repeat(100).as_bytes()));
    let (log, report) = open(disk.env(), direct());
    assert_eq!((report.lost, report.entries), (None, 21));
    assert_eq!(written(&disk, ".log"), 0, "recovery writes nothing that is there");
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()), expected);
    log.close().unwrap();
}

#[test]
fn a_fragment_that_lost_what_a_reference_names_is_a_loss() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), LogOptions { roll: roll(1 << 20), ..direct() });
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch(&["a"])).unwrap();
    append(&partition, batch(&["b"])).unwrap();
    drop((log, partition));
    let disk = disk.crash(Unsynced::None);
    let path = disk.files().into_keys().find(|path| path.to_string_lossy().ends_with(".log")).unwrap();
    disk.env().disk.open(&path, OpenMode::Write).unwrap().set_len(100).unwrap();
    let (log, report) = open(disk.env(), direct());
    assert!(report.lost.unwrap().contains("100 bytes"));
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(partition.end(), Offset(2));
    assert_eq!(partition.read(Offset(0), Offset::MAX, 1).unwrap().len(), 1);
    assert!(partition.read(Offset(1), Offset::MAX, 1).is_err());
    append(&partition, batch(&["c"])).unwrap();
    assert_eq!(partition.read(Offset(2), Offset::MAX, 1).unwrap().len(), 1);
}

#[test]
fn without_room_for_the_fragment_batches_go_through_the_wal() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { roll: roll(64 << 10), ..direct() };
    let (log, _) = open(disk.env(), options.clone());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_faults(Faults { capacity: Some(used as u64 + (20 << 10)), ..Faults::default() });
    append(&partition, batch(&["x".repeat(3000)])).unwrap();
    append(&partition, batch(&["y".repeat(3000)])).unwrap();
    assert!(
        disk.log()
            .iter()
            .all(|operation| operation.kind != "write" || !operation.path.to_string_lossy().ends_with(".log"))
    );
    drop((log, partition));
    let (log, report) = open(disk.crash(Unsynced::None).env(), options);
    assert_eq!(report.lost, None);
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()).len(), 2);
}

#[test]
fn a_direct_write_or_sync_that_fails_stops_the_engine() {
    for sync in [true, false] {
        let disk = SimDisk::from_seed(1);
        let (log, _) = open(disk.env(), direct());
        let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
        append(&partition, batch(&["a"])).unwrap();
        disk.set_faults(match sync {
            true => Faults { fail_sync_at: Some(disk.syncs() + 1), ..Faults::default() },
            false => Faults { fail_write_at: Some(disk.writes() + 1), ..Faults::default() },
        });
        assert!(matches!(append(&partition, batch(&["b"])), Err(AppendError::Poisoned { .. })));
        assert!(log.poisoned().is_some());
        assert!(matches!(append(&partition, batch(&["c"])), Err(AppendError::Closed { .. })));
    }
}

#[test]
fn a_deletion_waits_for_what_is_on_its_way() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), direct());
    for number in 0..20 {
        let partition = log.create_partition(id(number, 0), &topic("t")).unwrap();
        let outcomes: Vec<_> = (0..5).map(|_| send(&partition, EPOCH, batch(&["x".repeat(500)]))).collect();
        log.delete_topic(id(number, 0).topic).unwrap();
        for outcome in outcomes {
            outcome.try_recv().expect("it was answered before").unwrap();
        }
        log.flush().unwrap();
    }
    log.close().unwrap();
}

#[test]
fn removed_fragments_are_written_again_when_no_checkpoint_and_no_reader_needs_them() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { recycled_bytes_max: 5_000, tail_cache_bytes: 0, ..direct() };
    let (log, _) = open(disk.env(), options.clone());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let fill = |partition, from, count| {
        (from..from + count)
            .for_each(|number| _ = append(partition, batch(&[format!("{number} {}", "x".repeat(900))])).unwrap());
    };
    fill(&partition, 0, 20);
    log.flush().unwrap();
    partition.set_retention(Retention { age: None, bytes: Some(3_000) });
    log.retain().unwrap();
    assert_eq!(log.stats().recycled_bytes, 0, "the checkpoint may still need them");
    log.checkpoint().unwrap();
    let recycled = log.stats().recycled_bytes;
    assert!(recycled > 3_000 && recycled <= 5_000, "{recycled}");
    let start = partition.start().0;
    fill(&partition, 20, 4);
    assert!(log.stats().recycled_bytes < recycled);
    // What was in them before is nobody's: neither now nor after a crash, nor after a clean end.
    let expected: Vec<_> = (start..24).map(|number| format!("{number} {}", "x".repeat(900))).collect();
    assert_eq!(values(&partition), expected);
    drop((log, partition));
    let disk = disk.crash(Unsynced::None);
    let (log, report) = open(disk.env(), options.clone());
    assert_eq!((report.lost, report.set_aside.len()), (None, 0));
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()), expected);
    log.close().unwrap();
    drop(log);
    let bytes: u64 = disk
        .files()
        .iter()
        .filter(|(path, _)| path.to_string_lossy().ends_with(".log"))
        .map(|(_, bytes)| bytes.len() as u64)
        .sum();
    let disk = disk.restart();
    let (log, _) = open(disk.env(), options);
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(partition.bytes(), bytes, "each is cut to its valid bytes");
    assert_eq!(values(&partition), expected);
}

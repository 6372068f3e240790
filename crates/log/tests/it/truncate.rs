//! Truncation: what goes, what goes back with it, and when files follow.

use goulette_env::sim::{SimDisk, Unsynced};
use goulette_log::{AppendError, LogOptions, Retention, TruncateError};
use goulette_types::{LeaderEpoch, Offset};

use crate::support::*;

fn file_bytes(disk: &SimDisk) -> usize {
    disk.files().iter().filter(|(path, _)| path.to_string_lossy().ends_with(".log")).map(|(_, bytes)| bytes.len()).sum()
}

#[test]
fn epochs_and_producers_go_back_with_the_end() {
    for direct_bytes in [1, usize::MAX] {
        let disk = SimDisk::from_seed(1);
        let (log, _) = open(disk.env(), LogOptions { direct_bytes, ..small() });
        let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
        for (epoch, sequence) in [(1, 0), (1, 2), (3, 4), (4, 6)] {
            let batch = batch_of(7, 0, sequence, &["a", "b"]);
            send(&partition, LeaderEpoch(epoch), batch).recv().unwrap().unwrap();
        }
        assert!(matches!(partition.truncate(Offset(2), LeaderEpoch(3)), Err(TruncateError::Fenced { .. })));
        // The batch that holds the offset goes as a whole.
        assert_eq!(partition.truncate(Offset(7), LeaderEpoch(5)).unwrap(), Offset(6));
        assert_eq!(partition.truncate(Offset(6), LeaderEpoch(5)).unwrap(), Offset(6), "nothing is left to do");
        assert_eq!(partition.truncate(Offset(9), LeaderEpoch(5)).unwrap(), Offset(6));
        assert_eq!((partition.last_epoch(), partition.epochs().len()), (LeaderEpoch(3), 2));
        assert_eq!(values(&partition), ["a", "b"].repeat(3));
        let retry = |sequence| {
            let batch = batch_of(7, 0, sequence, &["a", "b"]);
            send(&partition, LeaderEpoch(6), batch).recv().unwrap()
        };
        assert!(matches!(retry(8), Err(AppendError::OutOfOrder { expected: 6, .. })));
        assert!(retry(4).unwrap().duplicate);
        let appended = retry(6).unwrap();
        assert_eq!((appended.base_offset, appended.duplicate), (Some(Offset(6)), false));
        let epochs = partition.epochs();
        drop((log, partition));
        let (log, report) = open(disk.crash(Unsynced::None).env(), small());
        assert_eq!(report.lost, None);
        let partition = log.partition(id(1, 0)).unwrap();
        assert_eq!((partition.end(), partition.epochs()), (Offset(8), epochs));
    }
}

#[test]
fn files_are_cut_and_go_behind_a_checkpoint_only() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { recycled_bytes_max: 0, tail_cache_bytes: 0, ..small() };
    let (log, _) = open(disk.env(), options.clone());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let value = |number: usize| format!("{number} {}", "x".repeat(500));
    (0..10).for_each(|number| _ = append(&partition, batch(&[value(number)])).unwrap());
    log.checkpoint().unwrap();
    let before = file_bytes(&disk);
    assert_eq!(partition.truncate(Offset(4), EPOCH).unwrap(), Offset(4));
    (20..23).for_each(|number| _ = append(&partition, batch(&[value(number)])).unwrap());
    log.flush().unwrap();
    assert!(file_bytes(&disk) > before);
    let expected: Vec<_> = (0..4).chain(20..23).map(value).collect();
    assert_eq!(values(&partition), expected);
    log.checkpoint().unwrap();
    assert_eq!(file_bytes(&disk) as u64, partition.bytes());
    assert_eq!(values(&partition), expected);
    // All of it, and below what is there.
    assert_eq!(partition.truncate(Offset(0), EPOCH).unwrap(), Offset(0));
    append(&partition, batch(&["new"])).unwrap();
    log.close().unwrap();
    let disk = disk.restart();
    let (log, report) = open(disk.env(), options);
    assert_eq!((report.entries, report.set_aside.len()), (0, 0));
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(values(&partition), ["new"]);
    (0..9).for_each(|number| _ = append(&partition, batch(&[value(number)])).unwrap());
    log.flush().unwrap();
    partition.set_retention(Retention { age: None, bytes: Some(0) });
    log.retain().unwrap();
    let start = partition.start();
    assert!(start > Offset(0));
    let refused = partition.truncate(Offset(0), EPOCH);
    assert!(matches!(refused, Err(TruncateError::BelowStart { start: below }) if below == start));
    assert_eq!(partition.truncate(start, EPOCH).unwrap(), start);
    assert_eq!((partition.start(), partition.end()), (start, start));
    append(&partition, batch(&["newer"])).unwrap();
    assert_eq!(values(&partition), ["newer"]);
}

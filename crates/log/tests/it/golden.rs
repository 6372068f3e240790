//! A data directory as format version 1 left it, kept in `tests/golden/v1`: every later version must open it and find the
//! same in it. Made once, by [`make`]; when a format gets a new version a new directory is put beside it.

#![allow(clippy::disallowed_methods, reason = "the golden files lie on the machine's own disk")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use goulette_env::{Disk, OpenMode, sim::SimDisk};
use goulette_log::{Identity, Inspection, Log, Retention};
use goulette_types::{LeaderEpoch, Offset};

use crate::support::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// Batch `number` of a partition of topic `of`.
fn values_of(of: u128, number: usize) -> Vec<String> {
    (0..1 + number % 3).map(|record| format!("{of} {number} {record} {}", "x".repeat(number * 53 % 400))).collect()
}

/// What the directory holds: two topics, several fragments, a start that moved, epochs, a producer, positions, a full
/// checkpoint with a delta behind it, and a WAL behind that, for a broker that was killed.
fn fill(log: &Log) {
    let first = log.create_partition(id(1, 0), &topic("orders")).unwrap();
    let second = log.create_partition(id(2, 7), &topic("events")).unwrap();
    let gone = log.create_partition(id(3, 0), &topic("gone")).unwrap();
    append(&gone, batch(&["never seen again"])).unwrap();
    for number in 0..24 {
        let epoch = LeaderEpoch(1 + number as u32 / 8);
        send(&first, epoch, batch_at(1_000 * number as i64, &values_of(1, number))).recv().unwrap().unwrap();
        if number == 12 {
            log.checkpoint().unwrap();
            first.set_retention(Retention { age: None, bytes: Some(3_000) });
            log.retain().unwrap();
        }
        if number == 16 {
            append(&second, batch_of(9, 4, 0, &values_of(2, 0))).unwrap();
            commit_position(&first, "readers", 11).unwrap();
            log.checkpoint().unwrap();
        }
    }
    log.delete_topic(id(3, 0).topic).unwrap();
    append(&second, batch_of(9, 4, 1, &values_of(2, 1))).unwrap();
    commit_position(&first, "readers", 20).unwrap();
    log.flush().unwrap();
}

#[test]
#[ignore = "writes tests/golden/v1, which is made once"]
fn make() {
    let disk = SimDisk::from_seed(1);
    Identity::open(&disk.env(), Path::new(DIR), &"golden".parse().unwrap()).unwrap();
    let (log, _) = open(disk.env(), small());
    fill(&log);
    let files = disk.files();
    for (path, bytes) in files.iter().filter(|(path, _)| !path.ends_with("LOCK") && !path.ends_with("ballast")) {
        let to = golden().join(path.strip_prefix(DIR).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

/// The golden files on a simulated disk.
fn load(disk: &SimDisk, from: &Path, to: &Path) {
    disk.create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            load(disk, &entry.path(), &to);
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            disk.open(&to, OpenMode::CreateNew).unwrap().write_all_at(&bytes, 0).unwrap();
        }
    }
}

#[test]
fn a_directory_of_version_1_is_opened_and_holds_the_same() {
    let disk = SimDisk::from_seed(7);
    load(&disk, &golden(), Path::new(DIR));

    let inspection = Inspection::open(&disk.env(), Path::new(DIR)).unwrap();
    assert_eq!(inspection.verify().damages, []);
    drop(inspection);

    let (log, report) = open(disk.env(), small());
    assert_eq!((report.lost, report.set_aside.len(), report.torn), (None, 0, false));
    assert!(report.entries > 5, "the WAL has a tail: {}", report.entries);
    assert_eq!(log.identity().unwrap().broker, "golden".parse().unwrap());
    assert_eq!(log.partitions().len(), 2);

    let first = log.partition(id(1, 0)).unwrap();
    let all: Vec<_> = (0..24).flat_map(|number| values_of(1, number)).collect();
    assert_eq!((first.end(), first.topic_name().as_str()), (Offset(all.len() as u64), "orders"));
    let start = first.start().0 as usize;
    assert!(start > 0, "the oldest records have gone");
    assert_eq!(values(&first), all[start..]);
    assert_eq!(first.last_epoch(), LeaderEpoch(3));
    assert_eq!(first.position(&group("readers")), Some(Offset(20)));

    let second = log.partition(id(2, 7)).unwrap();
    assert_eq!(values(&second), [values_of(2, 0), values_of(2, 1)].concat());
    let again = append(&second, batch_of(9, 4, 1, &values_of(2, 1))).unwrap();
    assert!(again.duplicate && again.base_offset == Some(Offset(1)), "{again:?}");
    append(&second, batch(&["and on"])).unwrap();
    log.close().unwrap();
}

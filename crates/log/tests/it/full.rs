//! A disk that is full: nothing acknowledged is lost, nobody is poisoned, and everything goes on when there is space.

use std::{path::Path, sync::mpsc::Receiver, time::Duration};

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_log::{AppendError, FlushError, Log};

use crate::support::*;

/// Leaves so many bytes to whoever wants them.
fn leave(disk: &SimDisk, bytes: u64) {
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_faults(Faults { capacity: Some(used as u64 + bytes), ..Faults::default() });
}

fn there_is_space(disk: &SimDisk) {
    disk.set_faults(Faults::default());
}

/// What was sent, and its answer, which may take until there is space.
struct Sent {
    value: String,
    outcome: Receiver<Outcome>,
}

fn send_all(log: &Log, topic: u128, count: usize, sent: &mut Vec<Sent>) {
    let partition = log.partition(id(topic, 0)).unwrap();
    for _ in 0..count {
        let value = format!("{topic} {} {}", sent.len(), "x".repeat((sent.len() * 61) % 500));
        let outcome = send(&partition, EPOCH, batch(&[&value]));
        sent.push(Sent { value, outcome });
    }
}

/// The values that were taken. Whatever was not was refused as it should be.
fn taken(sent: Vec<Sent>) -> Vec<String> {
    let outcome = |sent: Sent| match sent.outcome.recv_timeout(Duration::from_secs(20)).expect("each is answered") {
        Ok(_) => Some(sent.value),
        Err(AppendError::StorageFull) => None,
        Err(error) => panic!("{error}"),
    };
    sent.into_iter().filter_map(outcome).collect()
}

fn full_or_done(outcome: Result<(), FlushError>) {
    assert!(matches!(outcome, Ok(()) | Err(FlushError::StorageFull { .. })), "{outcome:?}");
}

#[test]
fn a_disk_that_fills_at_any_moment_loses_nothing_and_all_goes_on_when_there_is_space() {
    for room in (0..30_000).step_by(487) {
        let disk = SimDisk::from_seed(room);
        let (log, _) = open(disk.env(), small());
        for of in [1, 2] {
            log.create_partition(id(of, 0), &topic("t")).unwrap();
        }
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        leave(&disk, room);
        for _ in 0..3 {
            send_all(&log, 1, 8, &mut ones);
            full_or_done(log.flush());
            send_all(&log, 2, 8, &mut twos);
            full_or_done(log.checkpoint());
            full_or_done(log.flush());
        }
        assert_eq!(log.poisoned(), None, "with {room} bytes");
        there_is_space(&disk);
        let (ones, twos) = (taken(ones), taken(twos));
        log.checkpoint().unwrap();
        drop(log);
        let (log, report) = open(disk.crash(Unsynced::None).env(), small());
        assert_eq!(report.lost, None);
        assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ones);
        assert_eq!(values(&log.partition(id(2, 0)).unwrap()), twos);
    }
}

#[test]
fn a_crash_on_a_full_disk_loses_nothing_and_it_opens_again_where_it_can() {
    for room in (0..30_000).step_by(487) {
        let disk = SimDisk::from_seed(room);
        let (log, _) = open(disk.env(), small());
        log.create_partition(id(1, 0), &topic("t")).unwrap();
        let mut sent = Vec::new();
        leave(&disk, room);
        for _ in 0..3 {
            send_all(&log, 1, 8, &mut sent);
            full_or_done(log.flush());
            full_or_done(log.checkpoint());
        }
        let answered = |sent: Sent| sent.outcome.try_recv().ok()?.ok().map(|_| sent.value);
        let acknowledged: Vec<_> = sent.into_iter().filter_map(answered).collect();
        let mut disk = disk.crash(Unsynced::Random);
        leave(&disk, room % 7_000);
        for full in [true, false] {
            if !full {
                there_is_space(&disk);
            }
            match Log::open(disk.env(), Path::new(DIR), small()) {
                Ok((log, report)) => {
                    assert_eq!(report.lost, None);
                    assert!(values(&log.partition(id(1, 0)).unwrap()).starts_with(&acknowledged));
                }
                Err(error) => assert!(full, "{error}"),
            }
            disk = disk.crash(Unsynced::Random);
        }
    }
}

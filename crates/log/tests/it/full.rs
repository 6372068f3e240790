//! A disk that is full: nothing acknowledged is lost, nobody is poisoned, and everything goes on when there is space.

use std::{
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::Duration,
};

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_log::{AppendError, FlushError, Log, LogOptions, Retention, SpaceOptions};

use crate::support::*;

/// Leaves so many bytes to whoever wants them.
fn leave(disk: &SimDisk, bytes: u64) {
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_faults(Faults { capacity: Some(used as u64 + bytes), ..Faults::default() });
}

/// With a ballast of a WAL segment and a checkpoint.
fn with_ballast() -> LogOptions {
    LogOptions { space: SpaceOptions { free_bytes_min: Some(0), ballast_bytes: Some(24 << 10) }, ..small() }
}

/// Does what the background would do, until `act` is done.
fn watched<T>(log: &Log, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                log.look_at_space();
                std::thread::yield_now();
            }
        });
        let answer = act();
        done.store(true, Ordering::Release);
        answer
    })
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
        Err(AppendError::StorageFull { .. }) => None,
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
        log.look_at_space();
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
    let mut opened_while_full = 0;
    for room in (0..30_000).step_by(487) {
        let disk = SimDisk::from_seed(room);
        let (log, _) = open(disk.env(), with_ballast());
        log.create_partition(id(1, 0), &topic("t")).unwrap();
        let mut sent = Vec::new();
        leave(&disk, room);
        for _ in 0..3 {
            send_all(&log, 1, 8, &mut sent);
            full_or_done(log.flush());
            full_or_done(log.checkpoint());
        }
        // Refusals come at once; what is not answered may be stored or not.
        let (mut taken, mut acknowledged) = (Vec::new(), 0);
        for Sent { value, outcome } in sent {
            let answer = outcome.try_recv();
            if !matches!(answer, Ok(Err(_))) {
                taken.push(value);
            }
            if matches!(answer, Ok(Ok(_))) {
                acknowledged = taken.len();
            }
        }
        let mut disk = disk.crash(Unsynced::All);
        leave(&disk, room % 7_000);
        for full in [true, false] {
            if !full {
                there_is_space(&disk);
            }
            match Log::open(disk.env(), Path::new(DIR), with_ballast()) {
                Ok((log, report)) => {
                    assert_eq!(report.lost, None);
                    let found = values(&log.partition(id(1, 0)).unwrap());
                    assert!(taken.starts_with(&found) && found.len() >= acknowledged, "{acknowledged} of {found:?}");
                    opened_while_full += u32::from(full);
                }
                Err(error) => assert!(full, "{error}"),
            }
            disk = disk.crash(Unsynced::All);
        }
    }
    assert!(opened_while_full > 5, "{opened_while_full}");
}

#[test]
fn a_deleted_topic_makes_room_on_a_disk_that_has_none_left() {
    for (of, room) in [1, 2].into_iter().flat_map(|of| (2_000..8_000).step_by(500).map(move |room| (of, room))) {
        let disk = SimDisk::from_seed(room);
        let (log, _) = open(disk.env(), with_ballast());
        for of in [1, 2] {
            log.create_partition(id(of, 0), &topic("t")).unwrap();
        }
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        send_all(&log, 1, 12, &mut ones);
        send_all(&log, 2, 12, &mut twos);
        let (mut all_ones, mut all_twos) = (taken(ones), taken(twos));
        log.checkpoint().unwrap();
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        leave(&disk, room);
        send_all(&log, 1, 4, &mut ones);
        send_all(&log, 2, 4, &mut twos);
        full_or_done(log.flush());
        if of == 1 {
            watched(&log, || log.delete_topic(id(1, 0).topic)).unwrap();
        } else {
            log.partition(id(1, 0)).unwrap().set_retention(Retention { age: None, bytes: Some(0) });
            assert_eq!(watched(&log, || log.retain()).unwrap().len(), 1, "the oldest fragments go");
        }
        full_or_done(log.checkpoint());
        log.flush().unwrap();
        log.checkpoint().unwrap();
        all_ones.extend(taken(ones));
        all_twos.extend(taken(twos));
        drop(log);
        let (log, report) = open(disk.crash(Unsynced::None).env(), with_ballast());
        assert_eq!(report.lost, None);
        assert_eq!(values(&log.partition(id(2, 0)).unwrap()), all_twos);
        match log.partition(id(1, 0)) {
            Some(partition) => assert!(of == 2 && all_ones.ends_with(&values(&partition))),
            None => assert_eq!(of, 1),
        }
    }
}

#[test]
fn appends_are_refused_before_anything_meets_a_full_disk_and_taken_again_when_enough_is_free() {
    for room in (140_000..180_000).step_by(1_931) {
        let disk = SimDisk::from_seed(room);
        // Two segments and a checkpoint are left alone.
        let space = SpaceOptions { free_bytes_min: Some(40_000), ballast_bytes: Some(0) };
        let (log, _) = open(disk.env(), LogOptions { space, ..small() });
        let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
        leave(&disk, room);
        log.look_at_space();
        let mut stored = Vec::new();
        let refused = loop {
            let value = format!("{} {}", stored.len(), "x".repeat(300));
            match append(&partition, batch(&[&value])) {
                Ok(_) => stored.push(value),
                Err(error) => break error,
            }
            if stored.len() % 7 == 0 {
                log.flush().unwrap();
            }
            if stored.len() % 30 == 0 {
                log.checkpoint().unwrap();
            }
        };
        assert!(stored.len() > 5, "{}", stored.len());
        assert!(matches!(refused, AppendError::StorageFull { below: 40_000, .. }), "{refused:?}");
        // All the rest goes on.
        commit_position(&partition, "readers", 3).unwrap();
        log.flush().unwrap();
        log.checkpoint().unwrap();
        assert_eq!(values(&partition), stored);
        leave(&disk, 39_000);
        log.look_at_space();
        assert!(log.stats().space.refusing);
        // Not for every byte that is freed.
        leave(&disk, 41_000);
        log.look_at_space();
        assert!(matches!(append(&partition, batch(&["x"])), Err(AppendError::StorageFull { .. })));
        leave(&disk, 60_000);
        log.look_at_space();
        append(&partition, batch(&["x"])).unwrap();
    }
}

//! What goes by age and by size, and what readers see of it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use goulette_env::{
    Env, OpenMode,
    sim::{SimClock, SimDisk, Unsynced},
};
use goulette_log::{Log, LogOptions, Partition, ReadError, Retention, RetentionEvent, WalOptions};
use goulette_records::Limits;
use goulette_types::{Offset, Timestamp};

use crate::support::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn by_age(age: Duration) -> Retention {
    Retention { age: Some(age), bytes: None }
}

fn by_size(bytes: u64) -> Retention {
    Retention { age: None, bytes: Some(bytes) }
}

/// A log whose time is told by the test.
fn at(disk: &SimDisk, clock: &Arc<SimClock>) -> Log {
    open(Env { clock: clock.clone(), ..disk.env() }, small()).0
}

/// One record of about 1 KiB, so that a fragment has one, and a record of its own timestamp.
fn fill(partition: &Arc<Partition>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let value = format!("{number} {}", "x".repeat(1_200));
        append(partition, batch_at(number as i64 * 10, &[value])).unwrap();
    }
}

fn removed(events: &[RetentionEvent]) -> Vec<(usize, u64)> {
    let only = |event: &RetentionEvent| match event {
        RetentionEvent::Removed { fragments, start, .. } => Some((*fragments, start.0)),
        RetentionEvent::Suspended { .. } | RetentionEvent::Resumed => None,
    };
    events.iter().filter_map(only).collect()
}

fn log_files(disk: &SimDisk) -> usize {
    disk.files().keys().filter(|path| path.extension().is_some_and(|extension| extension == "log")).count()
}

#[test]
fn fragments_go_when_their_last_batch_is_too_old_whatever_the_records_say() {
    let (disk, clock) = (SimDisk::from_seed(1), Arc::new(SimClock::new(1_700_000_000_000)));
    let log = at(&disk, &clock);
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    for day in 0..5 {
        // The producers' clocks say 1970.
        fill(&partition, day..day + 1);
        clock.advance(DAY);
        // Retention is looked at often enough for a jump to show.
        assert_eq!(log.retain().unwrap(), [], "until it is said everything is kept");
    }
    log.flush().unwrap();
    // Appended 5, 4, 3, 2 days and 1 day ago.
    partition.set_retention(by_age(3 * DAY));
    assert_eq!(removed(&log.retain().unwrap()), [(2, 2)]);
    assert_eq!((partition.start(), partition.end()), (Offset(2), Offset(5)));
    assert_eq!(log.retain().unwrap(), []);
    clock.advance(100 * DAY);
    assert_eq!(removed(&log.retain().unwrap()), [(2, 4)], "the last fragment stays, however old");
    assert_eq!(log.retain().unwrap(), []);
    partition.set_retention(by_age(Duration::ZERO));
    assert_eq!(log.retain().unwrap(), []);
    assert_eq!(values(&partition).len(), 1);
}

#[test]
fn fragments_go_while_those_behind_them_are_enough() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    fill(&partition, 0..10);
    // Two are not in their fragment yet, and count all the same.
    log.flush().unwrap();
    fill(&partition, 10..12);
    let each = partition.bytes() / 12;
    partition.set_retention(by_size(each * 8));
    let events = log.retain().unwrap();
    assert_eq!(removed(&events), [(4, 4)]);
    assert!(matches!(&events[0], RetentionEvent::Removed { partition, bytes, .. }
        if *partition == id(1, 0) && *bytes / each == 4));
    assert!(partition.bytes() >= each * 8);
    // A setting that changes counts from the next look on.
    partition.set_retention(Retention::FOREVER);
    assert_eq!(log.retain().unwrap(), []);
    partition.set_retention(by_size(0));
    assert_eq!(removed(&log.retain().unwrap()), [(5, 9)], "of what is in fragments the last one stays");
    assert_eq!(values(&partition).len(), 3);
}

#[test]
fn files_go_behind_a_checkpoint_and_readers_learn_of_the_start_at_once() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), LogOptions { tail_cache_bytes: 0, ..small() });
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    fill(&partition, 0..10);
    log.checkpoint().unwrap();
    partition.set_retention(by_size(0));
    assert_eq!(removed(&log.retain().unwrap()), [(9, 9)]);
    assert_eq!(log_files(&disk), 10, "files go only behind a checkpoint");
    let check = |partition: &Partition| {
        for below in 0..9 {
            let read = partition.read(Offset(below), Offset::MAX, 1);
            assert!(matches!(read, Err(ReadError::Trimmed { start: Offset(9) })));
            assert_eq!(partition.read_cached(Offset(below), Offset::MAX, 1), None);
        }
        assert_eq!(partition.offset_at(Timestamp(0)).unwrap(), Some((Offset(9), Timestamp(90))));
        assert_eq!(values(partition).len(), 1);
    };
    check(&partition);
    // Across a crash, before and after the checkpoint, and a clean end.
    let crashed = disk.crash(Unsynced::None);
    let (again, _) = open(crashed.env(), LogOptions { recycled_bytes_max: 0, ..small() });
    check(&again.partition(id(1, 0)).unwrap());
    assert_eq!(log_files(&crashed), 10, "replay orders nothing that is not behind a checkpoint");
    again.checkpoint().unwrap();
    assert_eq!(log_files(&crashed), 1);
    let names: Vec<_> = crashed.files().into_keys().filter(|path| path.starts_with("/data/topics")).collect();
    assert_eq!(names.len(), 1, "indexes go too: {names:?}");
    // The folder was not synced: all names come back, and are no strangers.
    let crashed = crashed.crash(Unsynced::None);
    assert_eq!(log_files(&crashed), 10);
    let (again, report) = open(crashed.env(), small());
    assert_eq!((log_files(&crashed), report.set_aside.len()), (1, 0));
    let partition = again.partition(id(1, 0)).unwrap();
    check(&partition);
    fill(&partition, 10..12);
    again.close().unwrap();
    let (again, _) = open(crashed.restart().env(), small());
    assert_eq!(values(&again.partition(id(1, 0)).unwrap()).len(), 3);
}

#[test]
fn a_wall_clock_that_jumps_stops_removal_by_age_until_it_is_back() {
    let (disk, clock) = (SimDisk::from_seed(1), Arc::new(SimClock::new(1_700_000_000_000)));
    let log = at(&disk, &clock);
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    fill(&partition, 0..6);
    log.flush().unwrap();
    partition.set_retention(by_age(DAY));
    assert_eq!(log.retain().unwrap(), []);
    // Ten years at once.
    clock.set_wall_ms(1_700_000_000_000 + 315_360_000_000);
    assert_eq!(log.retain().unwrap(), [RetentionEvent::Suspended { jump_ms: 315_360_000_000 }]);
    assert_eq!(log.retain().unwrap(), [], "said once");
    clock.advance(DAY);
    assert_eq!(log.retain().unwrap(), []);
    partition.set_retention(Retention { bytes: Some(4_000), ..by_age(DAY) });
    assert_eq!(removed(&log.retain().unwrap()), [(2, 2)], "size needs no clock");
    clock.set_wall_ms(1_700_000_000_000 + 86_400_000);
    assert_eq!(log.retain().unwrap(), [RetentionEvent::Resumed]);
    assert_eq!(partition.start(), Offset(2));
    clock.advance(Duration::from_secs(1));
    assert_eq!(removed(&log.retain().unwrap()), [(3, 5)]);
}

/// What Linux tells of its start.
fn boot(disk: &SimDisk, id: &str, uptime_s: u64) {
    disk.env().disk.create_dir_all(Path::new("/proc/sys/kernel/random")).unwrap();
    for (path, text) in
        [("/proc/sys/kernel/random/boot_id", id.to_owned()), ("/proc/uptime", format!("{uptime_s}.25 77.00\n"))]
    {
        let file = disk.env().disk.open(Path::new(path), OpenMode::CreateOrOpen).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
    }
}

#[test]
fn a_wall_clock_that_jumps_across_a_restart_stops_removal_by_age_too() {
    const WALL_MS: i64 = 1_700_000_000_000;
    const HOUR_MS: i64 = 3_600_000;
    const YEAR_MS: i64 = 8_760 * HOUR_MS;
    // (Boot, hours of its uptime, the wall's time) when the log is opened again, and whether the oldest records go.
    for (boot_then, uptime_h, wall_ms, suspended) in [
        ("one", 1 + 48, WALL_MS + 48 * HOUR_MS, false),
        ("one", 1 + 48, WALL_MS + YEAR_MS, true),
        ("one", 1 + 48, WALL_MS - YEAR_MS, true),
        // Nobody knows for how long the machine was off.
        ("two", 1, WALL_MS + YEAR_MS, false),
    ] {
        let (disk, clock) = (SimDisk::from_seed(1), Arc::new(SimClock::new(WALL_MS)));
        boot(&disk, "one", 3_600);
        let log = at(&disk, &clock);
        fill(&log.create_partition(id(1, 0), &topic("t")).unwrap(), 0..4);
        log.flush().unwrap();
        assert_eq!(log.retain().unwrap(), []);
        log.close().unwrap();

        let disk = disk.restart();
        boot(&disk, boot_then, uptime_h * 3_600);
        let clock = Arc::new(SimClock::new(wall_ms));
        let log = at(&disk, &clock);
        log.partition(id(1, 0)).unwrap().set_retention(by_age(DAY));
        let events = log.retain().unwrap();
        if !suspended {
            assert_eq!(removed(&events), [(3, 3)]);
            continue;
        }
        assert!(matches!(events[..], [RetentionEvent::Suspended { .. }]), "{events:?}");
        // Another start says that the clock is right.
        log.close().unwrap();
        let log = at(&disk.restart(), &clock);
        log.partition(id(1, 0)).unwrap().set_retention(by_age(DAY));
        let events = log.retain().unwrap();
        assert_eq!(removed(&events), if wall_ms > WALL_MS { vec![(3, 3)] } else { vec![] });
    }
}

#[test]
fn what_was_appended_while_the_clock_was_behind_is_as_young_as_what_came_before() {
    let (disk, clock) = (SimDisk::from_seed(1), Arc::new(SimClock::new(1_700_000_000_000)));
    let log = at(&disk, &clock);
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    partition.set_retention(by_age(DAY));
    fill(&partition, 0..1);
    clock.set_wall_ms(0);
    fill(&partition, 1..3);
    log.flush().unwrap();
    assert_eq!(log.retain().unwrap().len(), 1, "suspended");
    clock.set_wall_ms(1_700_000_000_000);
    assert_eq!(log.retain().unwrap(), [RetentionEvent::Resumed]);
    clock.advance(DAY + Duration::from_millis(1));
    assert_eq!(removed(&log.retain().unwrap()), [(2, 2)]);
}

#[test]
fn a_reader_whose_fragment_goes_under_its_hands_is_told_of_the_start() {
    for look_up in [false, true] {
        let disk = SimDisk::from_seed(1);
        let hook = Hook::default();
        let options = LogOptions { tail_cache_bytes: 0, ..small() };
        let log = Arc::new(Log::open(hook.env(&disk), Path::new(DIR), options).unwrap().0);
        let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
        fill(&partition, 0..5);
        log.checkpoint().unwrap();
        let (remover, target) = (log.clone(), partition.clone());
        hook.set("/00000000000000000000.0", move || {
            target.set_retention(by_size(0));
            remover.retain().unwrap();
            remover.checkpoint().unwrap();
        });
        if look_up {
            assert_eq!(partition.offset_at(Timestamp(0)).unwrap(), Some((Offset(4), Timestamp(40))));
        } else {
            let read = partition.read(Offset(0), Offset::MAX, 1);
            assert!(matches!(read, Err(ReadError::Trimmed { start: Offset(4) })), "{read:?}");
        }
        assert_eq!(log_files(&disk), 1);
    }
}

/// Reads from the start again and again; every record must say its own offset.
fn roam(partition: &Partition, stop: &AtomicBool) -> u64 {
    let mut trimmed = 0;
    let mut from = Offset::ZERO;
    while !stop.load(Ordering::Acquire) {
        match partition.read(from, Offset::MAX, 4_000) {
            Ok(batches) => {
                for batch in &batches {
                    for record in batch.decode(&Limits::WIDEST).unwrap() {
                        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                        assert_eq!(value.split(' ').next(), Some(record.offset.to_string().as_str()));
                    }
                }
                let next = batches.last().map_or(partition.start(), |last| last.next_offset());
                assert!(batches.first().is_none_or(|first| first.base_offset() <= from));
                from = next;
            }
            Err(ReadError::Trimmed { start }) => {
                assert!(from < start);
                trimmed += 1;
                from = start;
            }
            Err(other) => panic!("{other}"),
        }
        if let Some((found, time)) = partition.offset_at(Timestamp(0)).unwrap() {
            assert_eq!(found.0 as i64 * 10, time.0);
        }
    }
    trimmed
}

#[test]
fn readers_and_retention_on_the_machines_own_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = || LogOptions {
        wal: WalOptions { segment_bytes: 256 << 10, ..WalOptions::default() },
        roll: roll(20 << 10),
        tail_cache_bytes: 0,
        flush_bytes: 4 << 10,
        flush_age: Duration::from_millis(1),
        checkpoint_interval: Duration::from_millis(5),
        retention_interval: Duration::from_millis(2),
        ..LogOptions::default()
    };
    let (log, _) = Log::open(Env::real(), dir.path(), options()).unwrap();
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    partition.set_retention(by_size(50 << 10));
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    log.on_retention(Arc::new(move |event| heard.lock().unwrap().push(event.clone())));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| roam(&partition, &stop))).collect();
        fill(&partition, 0..1_500);
        stop.store(true, Ordering::Release);
        readers.into_iter().for_each(|reader| _ = reader.join().unwrap());
    });
    // What the background, on a busy machine, has not come to yet: batches in memory are in no fragment that could go.
    log.flush().unwrap();
    let last = log.retain().unwrap();
    let start = partition.start();
    assert!(start.0 > 1_000, "{start}");
    assert!(!last.is_empty() || !events.lock().unwrap().is_empty());
    log.close().unwrap();
    let bytes: u64 = fragments(dir.path())
        .iter()
        .map(|path| Env::real().disk.open(path, OpenMode::Read).unwrap().len().unwrap())
        .sum();
    assert!((50 << 10..100 << 10).contains(&bytes), "{bytes} bytes are left");
    let (log, report) = Log::open(Env::real(), dir.path(), options()).unwrap();
    assert_eq!((report.lost, report.set_aside.len()), (None, 0));
    let partition = log.partition(id(1, 0)).unwrap();
    assert!(partition.start() >= start);
    assert_eq!(values(&partition).len() as u64, 1_500 - partition.start().0);
}

fn fragments(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.join(format!("topics/t.{}/0", id(1, 0).topic));
    let entries = Env::real().disk.read_dir(&dir).unwrap();
    entries.into_iter().map(|entry| dir.join(entry.name)).filter(|path| path.extension().unwrap() == "log").collect()
}

//! Power cuts at every operation of a scripted run: what was acknowledged is there, or more that was sent, in order;
//! never less, never other bytes; nothing deleted rises again. Then again, in the recovery itself.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_log::{ChangeError, Log, LogOptions, REMEMBERED_BATCHES, RecoveryReport, WalOptions};
use goulette_types::{Offset, PartitionId};

use crate::support::*;

/// Whether something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Maybe,
    Yes,
}

impl Known {
    fn of<T>(outcome: &Result<T, ChangeError>) -> Known {
        match outcome {
            Ok(_) => Known::Yes,
            Err(_) => Known::Maybe,
        }
    }
}

/// What one partition must hold.
#[derive(Clone, Debug)]
struct Expected {
    created: Known,
    deleted: Known,
    /// One batch of one or two records each.
    sent: Vec<Vec<String>>,
    acknowledged: usize,
    /// A group's positions, oldest first: the last acknowledged one, then those sent behind it.
    positions: Vec<Option<u64>>,
}

#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<PartitionId, Expected>);

/// Runs the script's steps until one fails.
struct Run<'a> {
    log: &'a Log,
    model: &'a mut Model,
}

/// The machine is off.
struct Stopped;

const A: u128 = 1;
const B: u128 = 2;
const DOOMED: u128 = 3;

impl Run<'_> {
    fn create(&mut self, of: u128) -> Result<(), Stopped> {
        let id = id(of, 0);
        let outcome = self.log.create_partition(id, &topic(&format!("topic{of}")));
        let (created, deleted) = (Known::of(&outcome), Known::No);
        let new = Expected { created, deleted, sent: Vec::new(), acknowledged: 0, positions: vec![None] };
        self.model.0.insert(id, new);
        outcome.map(drop).map_err(|_| Stopped)
    }

    /// Sends so many batches at once, then waits for all of them.
    fn append(&mut self, of: u128, count: usize) -> Result<(), Stopped> {
        let partition = self.log.partition(id(of, 0)).unwrap();
        let expected = self.model.0.get_mut(&id(of, 0)).unwrap();
        let first = expected.sent.len();
        let waiting: Vec<_> = (first..first + count)
            .map(|number| {
                expected.sent.push(values_of(of, number));
                send(&partition, EPOCH, numbered(of, number))
            })
            .collect();
        for (number, outcome) in (first..).zip(waiting) {
            match outcome.recv_timeout(std::time::Duration::from_secs(20)).expect("each append is answered") {
                Ok(appended) => {
                    assert_eq!(appended.base_offset, Some(offset_of(number)));
                    assert_eq!(expected.acknowledged, number, "answers come in order");
                    expected.acknowledged += 1;
                }
                Err(_) => return Err(Stopped),
            }
        }
        Ok(())
    }

    fn position(&mut self, of: u128, offset: u64) -> Result<(), Stopped> {
        let partition = self.log.partition(id(of, 0)).unwrap();
        let expected = self.model.0.get_mut(&id(of, 0)).unwrap();
        expected.positions.push(Some(offset));
        commit_position(&partition, "readers", offset).map_err(|_| Stopped)?;
        expected.positions = vec![Some(offset)];
        Ok(())
    }

    fn delete(&mut self, of: u128) -> Result<(), Stopped> {
        let outcome = self.log.delete_topic(id(of, 0).topic);
        self.model.0.get_mut(&id(of, 0)).unwrap().deleted = Known::of(&outcome);
        outcome.map_err(|_| Stopped)
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.log.flush().map_err(|_| Stopped)
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        self.log.checkpoint().map_err(|_| Stopped)
    }

    /// Two partitions, one of which shares its life with a third that is deleted; rolls, flushes, checkpoints.
    fn script(&mut self) -> Result<(), Stopped> {
        self.create(A)?;
        self.append(A, 1)?;
        self.create(B)?;
        self.append(A, 3)?;
        self.append(B, 2)?;
        self.flush()?;
        self.position(A, 2)?;
        self.append(A, 4)?;
        self.create(DOOMED)?;
        self.append(DOOMED, 3)?;
        self.checkpoint()?;
        self.append(DOOMED, 2)?;
        self.append(B, 3)?;
        self.flush()?;
        self.delete(DOOMED)?;
        self.append(A, 6)?;
        self.position(A, 7)?;
        self.checkpoint()?;
        self.position(B, 3)?;
        self.append(A, 5)?;
        self.append(B, 5)?;
        self.flush()?;
        self.append(A, 2)?;
        Ok(())
    }
}

/// Batch `number` has two records if it is odd: so offsets and batches are not the same.
fn values_of(of: u128, number: usize) -> Vec<String> {
    let padding = "x".repeat((number * 61) % 500);
    (0..1 + number % 2).map(|record| format!("{of} {number} {record} {padding}")).collect()
}

fn offset_of(number: usize) -> Offset {
    Offset((number + number / 2) as u64)
}

fn numbered(of: u128, number: usize) -> goulette_records::Batch {
    batch_of(of as u64, 0, offset_of(number).0 as u32, &values_of(of, number))
}

/// Runs the script on a disk that stops at some operation. Returns whether it went through, orderly end included.
fn run(disk: &SimDisk, model: &mut Model) -> bool {
    let Ok((log, _)) = Log::open(disk.env(), Path::new(DIR), small()) else { return false };
    let went = Run { log: &log, model }.script();
    went.is_ok() && log.close().is_ok()
}

impl Model {
    /// Opens what a crash left and looks whether it is as it must be. Returns none if the machine went off again.
    fn check(&mut self, disk: &SimDisk) -> Option<(Log, RecoveryReport)> {
        let (log, report) = match Log::open(disk.env(), Path::new(DIR), small()) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(disk.is_stopped(), "{error}");
                return None;
            }
        };
        assert_eq!(report.lost, None);
        assert!(report.set_aside.is_empty(), "{:?}", report.set_aside);
        for (id, expected) in &mut self.0 {
            let partition = log.partition(*id);
            let Some(partition) = partition else {
                assert!(expected.created != Known::Yes || expected.deleted != Known::No, "{id} is missing");
                continue;
            };
            assert_ne!(expected.deleted, Known::Yes, "{id} has risen again");
            let found = values(&partition);
            let batches = (0..=expected.sent.len()).find(|&count| offset_of(count).0 == found.len() as u64);
            let batches = batches.expect("whole batches only");
            assert!(batches >= expected.acknowledged, "{id}: {batches} of {} are left", expected.acknowledged);
            assert_eq!(found, expected.sent[..batches].concat());
            let position = partition.position(&group("readers")).map(|offset| offset.0);
            assert!(expected.positions.contains(&position), "{id}: {position:?} of {:?}", expected.positions);
            // What a reader has seen now stays.
            expected.acknowledged = batches;
            expected.positions = vec![position];
        }
        Some((log, report))
    }

    /// The producers go on as if nothing had happened: they send again what was not answered, and what was.
    fn go_on(&mut self, log: &Log) {
        for (id, expected) in &mut self.0 {
            let Some(partition) = log.partition(*id) else { continue };
            // First a batch that is new: from then on the last ones sent are the last ones remembered.
            for number in (expected.acknowledged..expected.sent.len() + 2).chain(0..expected.acknowledged) {
                let outcome = append(&partition, numbered(id.topic.0, number)).unwrap();
                let remembered = number + REMEMBERED_BATCHES >= expected.sent.len();
                assert_eq!(outcome.base_offset, remembered.then_some(offset_of(number)), "{number}");
                assert_eq!(outcome.duplicate, number < expected.acknowledged);
                if number == expected.sent.len() {
                    expected.sent.push(values_of(id.topic.0, number));
                }
            }
            expected.acknowledged = expected.sent.len();
        }
    }
}

const CRASHES: [Unsynced; 4] = [Unsynced::None, Unsynced::All, Unsynced::Torn, Unsynced::Random];

#[test]
fn every_acknowledged_batch_survives_a_stop_at_every_disk_operation() {
    let mut stops = 0;
    for stop_at in 1.. {
        let disk = SimDisk::from_seed(stop_at);
        disk.set_faults(Faults { stop_at: Some(stop_at), ..Faults::default() });
        let mut model = Model::default();
        let done = run(&disk, &mut model);
        for unsynced in CRASHES {
            let (crashed, mut model) = (disk.crash(unsynced), model.clone());
            // A second stop, somewhere in the recovery; a different place each time.
            crashed.set_faults(Faults { stop_at: Some(1 + (stop_at * 7) % 40), ..Faults::default() });
            let crashed = match model.check(&crashed) {
                Some((log, _)) => {
                    drop(log);
                    crashed.crash(Unsynced::Random)
                }
                None => crashed.crash(unsynced),
            };
            let (log, _) = model.check(&crashed).expect("nothing stops it now");
            model.go_on(&log);
            drop(log);
            let crashed = crashed.crash(Unsynced::None);
            let (log, _) = model.check(&crashed).expect("nothing stops it now");
            log.close().unwrap();
            let (_, report) = model.check(&crashed.restart()).expect("nothing stops it now");
            assert_eq!(report.entries, 0);
        }
        if done {
            break;
        }
        stops += 1;
    }
    assert!(stops > 150, "{stops}");
}

#[test]
fn checkpoints_that_run_beside_appends_lose_nothing_either() {
    for seed in 0..60 {
        let disk = SimDisk::from_seed(seed);
        disk.set_faults(Faults { stop_at: Some(60 + 7 * seed), ..Faults::default() });
        let mut model = Model::default();
        let (log, _) = open(disk.env(), small());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) && log.checkpoint().is_ok() {
                    std::thread::yield_now();
                }
            });
            let mut run = Run { log: &log, model: &mut model };
            let mut script = || -> Result<(), Stopped> {
                run.create(A)?;
                run.create(B)?;
                for offset in 0..40 {
                    run.append(A, 4)?;
                    run.append(B, 2)?;
                    run.position(A, offset)?;
                }
                Ok(())
            };
            let _ = script();
            done.store(true, Ordering::Release);
        });
        drop(log);
        let crashed = disk.crash(CRASHES[seed as usize % CRASHES.len()]);
        let (log, _) = model.check(&crashed).expect("nothing stops it now");
        model.go_on(&log);
        drop(log);
        model.check(&crashed.crash(Unsynced::None)).expect("nothing stops it now");
    }
}

#[test]
fn a_checkpoint_may_know_more_than_its_position_says() {
    let disk = SimDisk::from_seed(1);
    let hook = Hook::default();
    let (log, _) = open(hook.env(&disk), small());
    let mut model = Model::default();
    let mut run = Run { log: &log, model: &mut model };
    assert!(run.create(A).is_ok() && run.create(B).is_ok());
    assert!(run.append(A, 3).is_ok() && run.append(B, 1).is_ok());
    // While the checkpoint, whose position is fixed, opens the fragment of A, B grows.
    let b = log.partition(id(B, 0)).unwrap();
    hook.set("topic1", move || {
        append(&b, numbered(B, 1)).unwrap();
    });
    log.checkpoint().unwrap();
    let expected = model.0.get_mut(&id(B, 0)).unwrap();
    expected.sent.push(values_of(B, 1));
    expected.acknowledged += 1;
    drop(log);
    let disk = disk.crash(Unsynced::None);
    let (log, report) = model.check(&disk).expect("nothing stops it");
    assert_eq!(report.entries, 1, "the WAL still has what the checkpoint has");
    model.go_on(&log);
    drop(log);
    model.check(&disk.crash(Unsynced::None)).expect("nothing stops it");
}

#[test]
fn a_retry_is_not_answered_before_its_original_is_durable() {
    for seed in 0..30 {
        let disk = SimDisk::from_seed(seed);
        let (log, _) = open(disk.env(), small());
        let partition = log.create_partition(id(A, 0), &topic("t")).unwrap();
        disk.set_faults(Faults { stop_at: Some(disk.operations() + 1), ..Faults::default() });
        let outcomes: Vec<_> = (0..3).map(|_| send(&partition, EPOCH, numbered(A, 0))).collect();
        for outcome in outcomes {
            let outcome = outcome.recv_timeout(std::time::Duration::from_secs(20));
            assert!(outcome.expect("each append is answered").is_err());
        }
    }
}

#[test]
fn a_failed_sync_or_write_loses_nothing_that_was_acknowledged() {
    let mut failures = 0;
    for fail_at in 1.. {
        let mut all_done = true;
        for sync in [true, false] {
            let fault = Some(fail_at);
            let faults = match sync {
                true => Faults { fail_sync_at: fault, ..Faults::default() },
                false => Faults { fail_write_at: fault, ..Faults::default() },
            };
            let disk = SimDisk::from_seed(fail_at);
            disk.set_faults(faults);
            let mut model = Model::default();
            if run(&disk, &mut model) {
                continue;
            }
            all_done = false;
            failures += 1;
            // The process starts again on the same kernel, whose page cache shows what the disk does not have; then the
            // power goes.
            let disk = disk.restart();
            let (log, _) = model.check(&disk).expect("nothing stops it now");
            model.go_on(&log);
            drop(log);
            let (log, _) = model.check(&disk.crash(Unsynced::None)).expect("nothing stops it now");
            log.close().unwrap();
        }
        if all_done {
            break;
        }
    }
    assert!(failures > 100, "{failures}");
}

#[test]
fn a_wal_cut_anywhere_in_its_last_group_keeps_the_groups_before() {
    // The last group is written, but its sync never returns.
    let disk = SimDisk::from_seed(3);
    let mut model = Model::default();
    // Large enough that the group does not need a new segment.
    let wal = WalOptions { segment_bytes: 256 << 10, ..small().wal };
    let (log, _) = open(disk.env(), LogOptions { wal, ..small() });
    let mut run = Run { log: &log, model: &mut model };
    assert!(run.create(A).is_ok() && run.append(A, 5).is_ok());
    disk.set_faults(Faults { stop_at: Some(disk.operations() + 2), ..Faults::default() });
    assert!(run.append(A, 2).is_err());
    drop(log);
    let (without, with) = (disk.crash(Unsynced::None), disk.crash(Unsynced::All));
    let (path, before) = without.files().into_iter().find(|(path, bytes)| with.files()[path] != *bytes).unwrap();
    let bytes = &with.files()[&path];
    let changed: Vec<_> = (0..bytes.len()).filter(|&at| before[at] != bytes[at]).collect();
    let (first, last) = (changed[0], changed[changed.len() - 1]);
    assert!(path.to_string_lossy().contains("wal") && last - first > 100, "{path:?} {first} {last}");
    for cut in first..=last + 1 {
        let disk = disk.crash(Unsynced::All);
        let file = disk.env().disk.open(&path, goulette_env::OpenMode::Write).unwrap();
        file.write_all_at(&before[cut..], cut as u64).unwrap();
        file.sync_data().unwrap();
        drop(file);
        let mut model = model.clone();
        let (log, _) = model.check(&disk).expect("nothing stops it");
        model.go_on(&log);
        log.close().unwrap();
        model.check(&disk.restart()).expect("nothing stops it");
    }
}

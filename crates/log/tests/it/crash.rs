//! Power cuts at every operation of a scripted run: what was acknowledged is there, or more that was sent, in order;
//! never less, never other bytes; nothing deleted rises again. Then again, in the recovery itself.

use std::sync::atomic::{AtomicBool, Ordering};

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_log::{LogOptions, WalOptions};

use crate::{model::*, support::*, sweep::*};

#[test]
fn every_acknowledged_batch_survives_a_stop_at_every_disk_operation() {
    assert!(stop_everywhere(small(), &[|run| run.script()]) > 150);
}

#[test]
fn what_was_removed_stays_removed_and_the_rest_stays_after_a_stop_at_every_disk_operation() {
    assert!(stop_everywhere(small(), &[|run| run.remove(), |run| run.remove_more()]) > 250);
}

#[test]
fn batches_that_are_written_directly_survive_too() {
    assert!(stop_everywhere(direct(), &[|run| run.script()]) > 150);
    assert!(stop_everywhere(mixed(), &[|run| run.script()]) > 150);
}

#[test]
fn what_is_written_directly_into_recycled_fragments_survives_and_nothing_of_theirs_does() {
    assert!(stop_everywhere(direct(), &[|run| run.remove(), |run| run.remove_more()]) > 250);
}

#[test]
fn the_same_is_true_where_both_ways_meet_in_one_fragment() {
    assert!(stop_everywhere(mixed(), &[|run| run.remove(), |run| run.remove_more()]) > 250);
}

#[test]
fn truncations_hold_and_take_back_no_more_than_they_say() {
    assert!(stop_everywhere(small(), &[|run| run.everything(), |run| run.everything_else()]) > 200);
}

#[test]
fn truncations_of_what_was_written_directly_hold_too() {
    assert!(stop_everywhere(direct(), &[|run| run.everything(), |run| run.everything_else()]) > 200);
}

#[test]
fn truncations_hold_where_both_ways_meet() {
    assert!(stop_everywhere(mixed(), &[|run| run.everything(), |run| run.everything_else()]) > 200);
}

/// Everything goes directly.
fn direct() -> LogOptions {
    LogOptions { direct_bytes: 1, ..small() }
}

/// Larger groups go directly: which ones they are depends on the machine's mood.
fn mixed() -> LogOptions {
    LogOptions { direct_bytes: 900, ..small() }
}

#[test]
fn a_failed_sync_write_or_a_full_disk_at_any_moment_loses_nothing_acknowledged() {
    for options in [small(), direct()] {
        let lives: &[&[Life]] =
            &[&[|run| run.everything(), |run| run.everything_else()], &[|run| run.remove(), |run| run.remove_more()]];
        for lives in lives {
            assert!(fail_everywhere(Fault::Sync, options.clone(), lives) > 50);
            assert!(fail_everywhere(Fault::Write, options.clone(), lives) > 50);
            assert!(fail_everywhere(Fault::Full, options.clone(), lives) > 150);
        }
    }
}

#[test]
fn checkpoints_that_run_beside_appends_lose_nothing_either() {
    for seed in 0..60 {
        let disk = SimDisk::from_seed(seed);
        disk.set_faults(Faults { stop_at: Some(60 + 7 * seed), ..Faults::default() });
        let direct_bytes = [1, 900, small().direct_bytes][seed as usize % 3];
        let mut model = Model { options: LogOptions { direct_bytes, ..small() }, ..Model::default() };
        let (log, _) = open(disk.env(), model.options.clone());
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
                    run.retain(A, 4_000)?;
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
    let expected = model.partitions.get_mut(&id(B, 0)).unwrap();
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
        for (sync, direct_bytes) in [(true, 1), (true, usize::MAX), (false, 1), (false, usize::MAX)] {
            let fault = Some(fail_at);
            let faults = match sync {
                true => Faults { fail_sync_at: fault, ..Faults::default() },
                false => Faults { fail_write_at: fault, ..Faults::default() },
            };
            let disk = SimDisk::from_seed(fail_at);
            disk.set_faults(faults);
            let mut model = Model { options: LogOptions { direct_bytes, ..small() }, ..Model::default() };
            if run(&disk, &mut model, &[|run| run.script()]) {
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

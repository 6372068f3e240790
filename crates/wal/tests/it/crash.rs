//! Power cuts and killed processes at every operation.

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_wal::WalOptions;

use crate::world::{Died, Model, small};

/// Groups over several segments, in three lives, with recycling.
fn script(disk: &SimDisk, model: &mut Model, options: &WalOptions) -> Result<(), Died> {
    for life in 0..3 {
        let session = model.open(disk, options.clone())?;
        for group in 0..8 {
            let tag = model.sent.len();
            let start = session.group(model, 1 + (group + life) % 4)?;
            if group == 5 {
                model.from = Some((start, tag));
                session.wal.recycle_before(start);
            }
        }
        session.wal.close().map_err(|_| Died)?;
    }
    Ok(())
}

/// What a new process does first: reads, opens and appends a little.
fn next_life(disk: &SimDisk, model: &mut Model) -> Result<(), Died> {
    let session = model.open(disk, small())?;
    session.group(model, 3)?;
    session.group(model, 2)?;
    session.wal.close().map_err(|_| Died)?;
    Ok(())
}

const OUTCOMES: [Unsynced; 5] = [Unsynced::None, Unsynced::All, Unsynced::Torn, Unsynced::Random, Unsynced::Random];

/// What the power cut may leave of the disk. With `GOULETTE_TEST_SWEEPS=all` every subset of the sectors at stake, where there
/// are no more than twelve, and many random ones where there are.
fn outcomes(disk: &SimDisk) -> Vec<Unsynced> {
    let mut all = OUTCOMES.to_vec();
    if std::env::var("GOULETTE_TEST_SWEEPS").is_ok_and(|value| value == "all") {
        match disk.unsynced_sectors() {
            few @ ..=12 => all.extend((0..1 << few).map(Unsynced::Subset)),
            _ => all.extend([Unsynced::Random; 200]),
        }
    }
    all
}

/// Runs the script until the faults end it; the disk as it then is, and what the log ought to hold.
fn run(seed: u64, faults: Faults) -> (SimDisk, Model, bool) {
    run_with(seed, faults, &small())
}

fn run_with(seed: u64, faults: Faults, options: &WalOptions) -> (SimDisk, Model, bool) {
    let disk = SimDisk::from_seed(seed);
    disk.set_faults(faults);
    let mut model = Model::default();
    let finished = script(&disk, &mut model, options).is_ok();
    (disk, model, finished)
}

/// All operations of an undisturbed run of the script.
fn operations() -> u64 {
    let (disk, _, finished) = run(1, Faults::default());
    assert!(finished);
    disk.operations()
}

#[test]
fn the_script_does_all_that_there_is_to_do() {
    let (disk, model, _) = run(1, Faults::default());
    let done = |kind: &str| disk.log().iter().filter(|operation| operation.kind == kind).count();
    assert!(model.acknowledged > 50);
    // More segments than files: some were recycled.
    assert!(done("create") >= 3 && done("rename") > 2 * done("create"), "{:?}", disk.log());
}

#[test]
fn a_segment_leaves_durably_before_it_is_overwritten() {
    let (disk, _, _) = run(1, Faults::default());
    let log = disk.log();
    let mut left = 0;
    for (operation, next) in log.iter().zip(&log[1..]) {
        if operation.kind == "rename" && operation.path.extension().is_some_and(|extension| extension == "wal") {
            assert_eq!(next.kind, "sync_dir");
            left += 1;
        }
    }
    assert!(left > 3);
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    for stop_at in 1..=operations() {
        let (disk, model, _) = run(stop_at, Faults { stop_at: Some(stop_at), ..Faults::default() });
        for unsynced in outcomes(&disk) {
            let mut model = model.clone();
            let disk = disk.crash(unsynced);
            next_life(&disk, &mut model).unwrap();
            next_life(&disk.crash(unsynced), &mut model).unwrap();
        }
    }
}

#[test]
fn with_a_helper_thread_a_power_cut_loses_nothing_acknowledged_either() {
    // The order of operations is the scheduler's: what a run shows, it may not show again.
    let options = WalOptions { prepare_inline: false, ..small() };
    for stop_at in 1..=operations() {
        let (disk, model, _) = run_with(stop_at, Faults { stop_at: Some(stop_at), ..Faults::default() }, &options);
        let mut model = model.clone();
        let disk = disk.crash(Unsynced::Random);
        next_life(&disk, &mut model).unwrap();
        next_life(&disk.crash(Unsynced::None), &mut model).unwrap();
    }
}

#[test]
fn a_second_power_cut_while_recovering_loses_nothing_either() {
    for stop_at in 1..=operations() {
        let (disk, model, _) = run(stop_at, Faults { stop_at: Some(stop_at), ..Faults::default() });
        let unsynced = if stop_at % 2 == 0 { Unsynced::Torn } else { Unsynced::Random };
        for stop_again_at in 1.. {
            let mut model = model.clone();
            let disk = disk.crash(unsynced);
            disk.set_faults(Faults { stop_at: Some(stop_again_at), ..Faults::default() });
            if next_life(&disk, &mut model).is_ok() {
                break;
            }
            let again = if stop_again_at % 3 == 0 { Unsynced::None } else { Unsynced::Random };
            next_life(&disk.crash(again), &mut model).unwrap();
        }
    }
}

#[test]
fn a_process_killed_at_any_operation_hands_no_lie_to_the_next() {
    for stop_at in 1..=operations() {
        let (disk, model, _) = run(stop_at, Faults { stop_at: Some(stop_at), ..Faults::default() });
        for unsynced in [Unsynced::None, Unsynced::Torn, Unsynced::Random] {
            // What the next process reads is in the page cache; then the power goes, at once or a little later.
            let mut model = model.clone();
            let disk = disk.restart();
            model.recover(&disk, small()).unwrap();
            next_life(&disk.crash(unsynced), &mut model).unwrap();
        }
        for unsynced in [Unsynced::None, Unsynced::Random] {
            let mut model = model.clone();
            let disk = disk.restart();
            next_life(&disk, &mut model).unwrap();
            next_life(&disk.crash(unsynced), &mut model).unwrap();
        }
    }
}

#[test]
fn after_any_failed_sync_the_page_cache_is_not_believed() {
    let (disk, _, _) = run(1, Faults::default());
    for fail_sync_at in 1..=disk.syncs() {
        let (disk, model, finished) =
            run(fail_sync_at, Faults { fail_sync_at: Some(fail_sync_at), ..Faults::default() });
        assert!(!finished, "sync {fail_sync_at} failed and nobody noticed");
        for unsynced in [Unsynced::None, Unsynced::All, Unsynced::Random] {
            let mut model = model.clone();
            let disk = disk.restart();
            next_life(&disk, &mut model).unwrap();
            next_life(&disk.crash(unsynced), &mut model).unwrap();
        }
    }
}

#[test]
fn after_any_failed_write_nothing_acknowledged_is_lost() {
    let (disk, _, _) = run(1, Faults::default());
    for fail_write_at in 1..=disk.writes() {
        let faults = Faults { fail_write_at: Some(fail_write_at), ..Faults::default() };
        let (disk, model, finished) = run(fail_write_at, faults);
        assert!(!finished, "write {fail_write_at} failed and nobody noticed");
        next_life(&disk.crash(Unsynced::Random), &mut model.clone()).unwrap();
        next_life(&disk.restart(), &mut model.clone()).unwrap();
    }
}

//! Stops a scripted run at every disk operation, and looks at what may be left.
//!
//! As part of the suite it samples: four ways to lose what was unsynced, one stop in each recovery. With
//! `GOULETTE_TEST_SWEEPS=all` (`make test-crash-sweeps`) it is exhaustive: every subset of the sectors at stake where there
//! are no more than twelve, random ones beyond; and a second stop at every operation of the recovery.

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_log::LogOptions;

use crate::model::*;

pub(crate) const CRASHES: [Unsynced; 4] = [Unsynced::None, Unsynced::All, Unsynced::Torn, Unsynced::Random];

/// Of so many sectors every subset is tried.
const SUBSETS_SECTORS_MAX: usize = 12;
/// Of more, so many random ones.
const SUBSETS_RANDOM: usize = 48;

pub(crate) fn is_exhaustive() -> bool {
    std::env::var("GOULETTE_TEST_SWEEPS").is_ok_and(|value| value == "all")
}

/// What the power cut may leave of the disk.
pub(crate) fn outcomes(disk: &SimDisk) -> Vec<Unsynced> {
    let mut all = CRASHES.to_vec();
    if is_exhaustive() {
        match disk.unsynced_sectors() {
            few @ ..=SUBSETS_SECTORS_MAX => all.extend((0..1 << few).map(Unsynced::Subset)),
            _ => all.extend([Unsynced::Random; SUBSETS_RANDOM]),
        }
    }
    all
}

/// Stops at every disk operation in turn, looks what is left and goes on. Returns how many there were.
pub(crate) fn stop_everywhere(options: LogOptions, lives: &[Life]) -> u64 {
    let mut stops = 0;
    for stop_at in 1.. {
        let disk = SimDisk::from_seed(stop_at);
        disk.set_faults(Faults { stop_at: Some(stop_at), ..Faults::default() });
        let mut model = Model { options: options.clone(), ..Model::default() };
        let done = run(&disk, &mut model, lives);
        for unsynced in outcomes(&disk) {
            go_on(&disk.crash(unsynced), model.clone());
        }
        stop_again(&disk, stop_at, &model);
        if done {
            break;
        }
        stops += 1;
    }
    stops
}

/// A second stop, in the recovery: at every operation, or at a different one each time.
fn stop_again(disk: &SimDisk, stop_at: u64, model: &Model) {
    for unsynced in CRASHES {
        let again = if is_exhaustive() { 1..=u64::MAX } else { 1 + (stop_at * 7) % 40..=1 + (stop_at * 7) % 40 };
        for again_at in again {
            let (crashed, mut model) = (disk.crash(unsynced), model.clone());
            crashed.set_faults(Faults { stop_at: Some(again_at), ..Faults::default() });
            match model.check(&crashed) {
                Some((log, _)) => {
                    drop(log);
                    if !crashed.is_stopped() {
                        break;
                    }
                }
                None => go_on(&crashed.crash(if again_at % 2 == 0 { Unsynced::Random } else { unsynced }), model),
            }
        }
    }
}

/// Looks what is there, appends to it, loses the power, looks again, closes, and looks whether nothing is left to do.
pub(crate) fn go_on(disk: &SimDisk, mut model: Model) {
    let (log, _) = model.check(disk).expect("nothing stops it now");
    model.go_on(&log);
    drop(log);
    let crashed = disk.crash(Unsynced::None);
    let (log, _) = model.check(&crashed).expect("nothing stops it now");
    log.close().unwrap();
    model.check_files(&crashed);
    let (_, report) = model.check(&crashed.restart()).expect("nothing stops it now");
    assert_eq!(report.entries, 0);
}

/// What goes wrong once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A sync reports EIO.
    Sync,
    /// A write reports EIO.
    Write,
    /// An operation finds no space.
    Full,
}

/// As part of the suite one in so many operations fails.
const FAULTS_SAMPLED: usize = 23;

/// Has each operation of a kind fail in turn; then the process ends, and perhaps the power with it. Returns how many there
/// were, of which the sampled suite has tried some.
pub(crate) fn fail_everywhere(fault: Fault, options: LogOptions, lives: &[Life]) -> u64 {
    let mut last = 0;
    for at in (1..).step_by(if is_exhaustive() { 1 } else { FAULTS_SAMPLED }) {
        let disk = SimDisk::from_seed(at);
        disk.set_faults(match fault {
            Fault::Sync => Faults { fail_sync_at: Some(at), ..Faults::default() },
            Fault::Write => Faults { fail_write_at: Some(at), ..Faults::default() },
            Fault::Full => Faults { full_at: Some(at), ..Faults::default() },
        });
        let mut model = Model { options: options.clone(), ..Model::default() };
        run(&disk, &mut model, lives);
        let reached = match fault {
            Fault::Sync => disk.syncs(),
            Fault::Write => disk.writes(),
            Fault::Full => disk.operations(),
        };
        if reached < at {
            break;
        }
        last = at;
        // Shown with a failure alone.
        println!("{fault:?} at {at}: {:?}", disk.log().last());
        // The process starts again on the same kernel, whose page cache may show what the disk does not have.
        go_on(&disk.restart(), model.clone());
        for unsynced in CRASHES {
            go_on(&disk.crash(unsynced), model.clone());
        }
    }
    last
}

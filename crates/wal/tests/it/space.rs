//! A disk that runs full, at each operation in turn.

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_wal::WalOptions;

use crate::world::{Died, Model, Session, small};

/// Opens the log; a first attempt that finds no space is harmless.
fn open(disk: &SimDisk, model: &mut Model, options: &WalOptions) -> Result<Session, Died> {
    model.open(disk, options.clone()).or_else(|Died| model.open(disk, options.clone()))
}

/// Groups over several segments, in two lives, with recycling.
fn script(disk: &SimDisk, model: &mut Model, options: &WalOptions) -> Result<(), Died> {
    for life in 0..2 {
        let session = open(disk, model, options)?;
        for group in 0..8 {
            let tag = model.sent.len();
            let start = session.group(model, 1 + (group + life) % 4)?;
            if group % 3 == 2 {
                model.from = Some((start, tag));
                session.wal.recycle_before(start);
            }
        }
        session.wal.close().map_err(|_| Died)?;
    }
    Ok(())
}

fn run(faults: Faults, options: &WalOptions) -> (SimDisk, Model, bool) {
    let disk = SimDisk::from_seed(faults.full_at.unwrap_or(0));
    disk.set_faults(faults);
    let mut model = Model::default();
    let finished = script(&disk, &mut model, options).is_ok();
    (disk, model, finished)
}

#[test]
fn no_operation_that_finds_no_space_stops_the_log_but_a_sync() {
    let options = small();
    let (undisturbed, ..) = run(Faults::default(), &options);
    let (mut waited, mut stopped) = (0, 0);
    let log = undisturbed.log();
    for (full_at, operation) in (1..).zip(&log) {
        let (disk, mut model, finished) = run(Faults { full_at: Some(full_at), ..Faults::default() }, &options);
        // A handle keeps the name under which it was opened.
        let named =
            log[..full_at as usize].iter().any(|before| before.kind == "rename" && before.path == operation.path);
        // A sync of entries or of names counts as failed, whatever the reason. One of a file that is being made does
        // not: it is thrown away.
        if operation.kind == "sync_dir" || operation.kind == "sync" && named {
            stopped += u64::from(!finished);
        } else {
            assert!(finished, "{full_at}: {operation:?}");
            waited += 1;
        }
        for outcome in [Unsynced::None, Unsynced::Random] {
            let mut model = model.clone();
            open(&disk.crash(outcome), &mut model, &options).unwrap();
        }
        disk.set_faults(Faults::default());
        open(&disk.restart(), &mut model, &options).unwrap();
    }
    assert!(waited > 40 && stopped > 20, "{waited} waited, {stopped} stopped");
}

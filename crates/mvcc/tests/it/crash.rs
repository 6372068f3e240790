//! Power cuts, killed processes and failing syncs at every operation on the disk.

use std::path::Path;

use bytes::Bytes;
use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_mvcc::{KeyRange, Op, Store, Txn};
use goulette_types::Revision;

use crate::model::Model;

/// What was sent, and how far it was acknowledged.
#[derive(Clone)]
struct Sent {
    /// With everything that was sent.
    model: Model,
    /// The revision of the last transaction that returned.
    acknowledged: u64,
    /// The compaction that was asked for last, which may have begun.
    compacting: u64,
}

struct Died;

fn open(disk: &SimDisk) -> Result<Store, Died> {
    Store::open(disk, Path::new("store")).map_err(|_| Died)
}

/// Two lives with small and large values, deletions and a compaction.
fn script(disk: &SimDisk, sent: &mut Sent) -> Result<(), Died> {
    for life in 0..2 {
        let store = open(disk)?;
        for n in 0..5 {
            let key = format!("k{}", n % 3);
            write(&store, sent, vec![Op::put(key, format!("{life}.{n}")), Op::put("same", vec![n; 3_000])])?;
        }
        write(&store, sent, vec![Op::Delete(KeyRange::prefix("k1")), Op::put("big", vec![life; 20_000])])?;
        let revision = sent.acknowledged - 3;
        sent.compacting = revision;
        store.compact(Revision(revision)).map_err(|_| Died)?;
        sent.model.compacted = revision;
        write(&store, sent, vec![Op::put("last", format!("{life}"))])?;
    }
    Ok(())
}

fn write(store: &Store, sent: &mut Sent, ops: Vec<Op>) -> Result<(), Died> {
    sent.model.apply(&ops);
    let done = store.txn(&Txn { success: ops, ..Txn::default() }).map_err(|_| {
        // Whatever happened: this store never speaks again.
        let probe = Op::put("probe", Bytes::new());
        assert!(store.txn(&Txn { success: vec![probe], ..Txn::default() }).is_err());
        Died
    })?;
    sent.acknowledged = done.revision.0;
    Ok(())
}

/// The disk when the script has ended, or the faults have ended it.
fn run(faults: Faults) -> (SimDisk, Sent, bool) {
    let disk = SimDisk::from_seed(3);
    disk.set_faults(faults);
    let mut sent = Sent { model: Model::new(), acknowledged: 1, compacting: 0 };
    let finished = script(&disk, &mut sent).is_ok();
    (disk, sent, finished)
}

/// Opens what is left: it holds all that was acknowledged, or more that was sent, and takes more.
fn check(disk: &SimDisk, sent: &Sent) -> Sent {
    let store = open(disk).unwrap_or_else(|_| panic!("a crash leaves a store that opens"));
    let revision = store.revision().0;
    assert!(
        (sent.acknowledged..=sent.model.revision()).contains(&revision),
        "{revision}, not {} to {}",
        sent.acknowledged,
        sent.model.revision()
    );
    let mut sent = Sent { model: sent.model.cut(revision), acknowledged: revision, ..sent.clone() };
    let compacted = store.compacted().0;
    assert!(compacted == sent.model.compacted || compacted == sent.compacting, "{compacted}");
    sent.model.compacted = compacted;
    sent.model.check(&store);
    assert!(write(&store, &mut sent, vec![Op::put("more", "x"), Op::Delete(KeyRange::key("last"))]).is_ok());
    sent.model.check(&store);
    sent
}

fn operations() -> u64 {
    let (disk, _, finished) = run(Faults::default());
    assert!(finished);
    disk.operations()
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    for stop_at in 1..=operations() {
        let (disk, sent, _) = run(Faults { stop_at: Some(stop_at), ..Faults::default() });
        for unsynced in [Unsynced::None, Unsynced::All, Unsynced::Torn, Unsynced::Random] {
            check(&disk.crash(unsynced), &sent);
        }
    }
}

#[test]
fn a_killed_process_leaves_nothing_that_a_later_power_cut_takes_back() {
    for stop_at in 1..=operations() {
        let (disk, sent, _) = run(Faults { stop_at: Some(stop_at), ..Faults::default() });
        // The next process answers from what it has read; the power goes while it does nothing else.
        let disk = disk.restart();
        let store = open(&disk).unwrap_or_else(|_| panic!("a killed process leaves a store that opens"));
        let seen = Sent { acknowledged: store.revision().0, ..sent };
        check(&disk.crash(Unsynced::None), &seen);
    }
}

#[test]
fn a_failed_sync_ends_the_store_and_loses_nothing_acknowledged() {
    let (disk, _, _) = run(Faults::default());
    for fail_sync_at in 1..=disk.syncs() {
        // Only closing the file tells nobody that it failed; all that it was for is durable by then.
        let (disk, sent, _) = run(Faults { fail_sync_at: Some(fail_sync_at), ..Faults::default() });
        let next = disk.restart();
        let seen = check(&next, &sent);
        // What the next process saw and added stays, though the page cache had shown it bytes that never got durable.
        check(&next.crash(Unsynced::None), &seen);
        check(&disk.crash(Unsynced::Random), &sent);
    }
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_what_it_has() {
    let (disk, _, _) = run(Faults::default());
    let full = disk.files().values().map(|bytes| bytes.len() as u64).sum::<u64>();
    for capacity in [full / 2, full - 4096, full - 1] {
        let (disk, sent, finished) = run(Faults { capacity: Some(capacity), ..Faults::default() });
        assert!(!finished || capacity == full - 1);
        if sent.acknowledged > 1 {
            check(&disk.restart(), &sent);
        }
    }
}

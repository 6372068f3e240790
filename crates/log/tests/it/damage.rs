//! Bytes that rot: found wherever they are, said once, and read around.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use goulette_env::{OpenMode, sim::SimDisk};
use goulette_log::{Inspection, Log, LogOptions, Partition, QuarantinedRange, ReadError, Retention, WalOptions};
use goulette_types::{Offset, Timestamp};

use crate::support::*;

pub(crate) const BATCHES: u64 = 24;

/// A closed log of single records `0`, `1`, .. in some fragments, the last of them not sealed.
pub(crate) fn closed() -> SimDisk {
    let disk = SimDisk::from_seed(3);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    for number in 0..BATCHES {
        append(&partition, batch_at(number as i64, &[value(number)])).unwrap();
    }
    log.close().unwrap();
    disk.restart()
}

pub(crate) fn value(number: u64) -> String {
    format!("{number} {}", "x".repeat((number as usize * 61) % 200))
}

pub(crate) fn files(disk: &SimDisk, extension: &str) -> Vec<(PathBuf, usize)> {
    let is_one = |path: &Path| path.extension().is_some_and(|found| found == extension);
    disk.files().into_iter().filter(|(path, _)| is_one(path)).map(|(path, bytes)| (path, bytes.len())).collect()
}

fn flip(disk: &SimDisk, path: &Path, at: usize, bit: u32) {
    let byte = disk.files()[path][at] ^ (1 << bit);
    disk.env().disk.open(path, OpenMode::Write).unwrap().write_all_at(&[byte], at as u64).unwrap();
}

/// Reads everything from `from` on, and what cannot be read.
pub(crate) fn read_around(partition: &Partition, from: u64) -> (Vec<u64>, Vec<Range<u64>>) {
    let (mut found, mut damaged, mut next) = (Vec::new(), Vec::new(), Offset(from));
    while next < partition.end() {
        match partition.read(next, Offset::MAX, 500) {
            Ok(batches) => {
                for batch in &batches {
                    let offset = batch.base_offset();
                    let records = batch.decode(&goulette_records::Limits::WIDEST).unwrap();
                    assert_eq!(records[0].value.as_deref(), Some(value(offset.0).as_bytes()));
                    found.push(offset.0);
                }
                next = batches.last().unwrap().next_offset();
            }
            Err(ReadError::Corrupt { from, next: Some(behind), .. }) => {
                assert!(from == next && next < behind);
                damaged.push(next.0..behind.0);
                next = behind;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (found, damaged)
}

pub(crate) fn listen(log: &Log) -> Arc<Mutex<Vec<QuarantinedRange>>> {
    let said = Arc::<Mutex<Vec<_>>>::default();
    let heard = said.clone();
    log.on_quarantine(Arc::new(move |range| heard.lock().unwrap().push(range.clone())));
    said
}

#[test]
fn a_flipped_bit_anywhere_in_a_fragment_costs_its_batch_alone() {
    let disk = closed();
    let fragments = files(&disk, "log");
    assert!(fragments.len() > 2);
    for (path, length) in fragments {
        for at in 0..length {
            let disk = disk.restart();
            flip(&disk, &path, at, at as u32 % 8);
            let verified = Inspection::open(&disk.env(), Path::new(DIR)).unwrap().verify();
            assert!(verified.damages.iter().any(|damage| damage.file == path), "byte {at} of {}", path.display());

            let (log, report) = open(disk.env(), small());
            assert_eq!(report.lost, None);
            let said = listen(&log);
            let partition = log.partition(id(1, 0)).unwrap();
            for from in [0, 7] {
                let (found, damaged) = read_around(&partition, from);
                let lost: Vec<_> = damaged.iter().cloned().flatten().collect();
                assert!(lost.len() as u64 + found.len() as u64 == BATCHES - from && lost.len() <= 1, "{damaged:?}");
            }
            // A time can be looked up all the same.
            for time in (0..BATCHES).step_by(5) {
                let (offset, _) = partition.offset_at(Timestamp(time as i64)).unwrap().unwrap_or_default();
                let lost = &said.lock().unwrap()[0].offsets;
                assert!(
                    offset == Offset(time) || lost.contains(&Offset(time)),
                    "{offset} for {time}, byte {at}: {lost:?}"
                );
            }
            let said = said.lock().unwrap();
            assert_eq!(said.len(), 1, "a damage is said once");
            assert!(said[0].file == path && said[0].bytes.contains(&(at as u64)), "{said:?} for byte {at}");
            assert_eq!(log.quarantined(), *said);
        }
    }
}

#[test]
fn a_lost_half_of_a_fragment_and_a_stretch_of_zeros_are_read_around() {
    let disk = closed();
    let (path, length) = files(&disk, "log").swap_remove(1);
    for (start, end) in [(300, 900), (length / 2, length), (0, 20), (1, length - 1)] {
        let disk = disk.restart();
        disk.env()
            .disk
            .open(&path, OpenMode::Write)
            .unwrap()
            .write_all_at(&vec![0; end - start], start as u64)
            .unwrap();
        let (log, _) = open(disk.env(), small());
        let partition = log.partition(id(1, 0)).unwrap();
        let (found, damaged) = read_around(&partition, 0);
        assert_eq!(damaged.len(), 1);
        assert_eq!(found.len() as u64, BATCHES - (damaged[0].end - damaged[0].start));
        assert!(found.len() > 10);
        append(&partition, batch_at(BATCHES as i64, &[value(BATCHES)])).unwrap();
        assert_eq!(read_around(&partition, 0), ([found, vec![BATCHES]].concat(), damaged));
    }
}

#[test]
fn what_was_damaged_is_forgotten_when_its_fragment_goes() {
    let disk = closed();
    flip(&disk, &files(&disk, "log")[0].0, 100, 1);
    let (log, _) = open(disk.env(), small());
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(read_around(&partition, 0).1.len(), 1);
    assert_eq!(log.stats().quarantined_ranges, 1);
    partition.set_retention(Retention { age: None, bytes: Some(0) });
    log.retain().unwrap();
    assert_eq!(log.stats().quarantined_ranges, 0);
}

#[test]
fn an_index_with_rubbish_is_found_and_made_anew() {
    let disk = closed();
    for extension in ["index", "timeindex"] {
        for (path, length) in files(&disk, extension) {
            for at in 0..length {
                let disk = disk.restart();
                flip(&disk, &path, at, at as u32 % 8);
                let verified = Inspection::open(&disk.env(), Path::new(DIR)).unwrap().verify();
                assert!(verified.damages.iter().any(|damage| damage.file == path), "byte {at} of {}", path.display());
                let (log, _) = open(disk.env(), LogOptions { tail_cache_bytes: 0, ..small() });
                let (found, damaged) = read_around(&log.partition(id(1, 0)).unwrap(), 0);
                assert!(found.len() as u64 == BATCHES && damaged.is_empty());
            }
        }
    }
}

/// Flips one bit of each byte of a file, and has the directory verified.
fn verify_finds_any_flipped_bit(disk: &SimDisk, path: &Path, bytes: Range<usize>) {
    for at in bytes {
        let disk = disk.restart();
        flip(&disk, path, at, at as u32 % 8);
        let found = Inspection::open(&disk.env(), Path::new(DIR)).unwrap().verify().damages;
        assert!(found.iter().any(|damage| damage.file == path), "byte {at} of {}: {found:?}", path.display());
    }
}

#[test]
fn a_flipped_bit_in_the_identity_or_the_checkpoint_is_found() {
    let disk = SimDisk::from_seed(3);
    goulette_log::Identity::open(&disk.env(), Path::new(DIR), &"broker1".parse().unwrap()).unwrap();
    let (log, _) = open(disk.env(), small());
    log.join_cluster(goulette_types::ClusterId(7)).unwrap();
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch(&["a"])).unwrap();
    log.close().unwrap();
    let disk = disk.restart();
    for name in ["broker.json", "checkpoint"] {
        let path = Path::new(DIR).join(name);
        let length = disk.files()[&path].len();
        // Spaces between the fields mean nothing, nor does the case of the digits.
        let means = |at: usize| {
            let byte = disk.files()[&path][at];
            let flipped = byte ^ (1 << (at % 8));
            name == "checkpoint" || !(byte.is_ascii_whitespace() || byte.eq_ignore_ascii_case(&flipped))
        };
        for at in (0..length).filter(|&at| means(at)) {
            verify_finds_any_flipped_bit(&disk, &path, at..at + 1);
        }
    }
}

#[test]
fn a_flipped_bit_in_any_group_of_the_wal_but_the_last_is_found() {
    const BLOCK: usize = 4096;
    const ENTRY_BYTES_MIN: usize = 24 + 52 + 61;
    let disk = SimDisk::from_seed(3);
    let wal = WalOptions { segment_bytes: 256 << 10, ..small().wal };
    let (log, _) = open(disk.env(), LogOptions { wal, ..small() });
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch(&["a"])).unwrap();
    log.checkpoint().unwrap();
    for number in 0..2 {
        append(&partition, batch(&[value(number)])).unwrap();
    }
    drop(log);
    let disk = disk.restart();
    let (path, _) = files(&disk, "wal").pop().unwrap();
    let bytes = disk.files()[&path].clone();
    let groups: Vec<_> = (0..bytes.len()).step_by(BLOCK).filter(|&at| bytes[at..at + BLOCK] != [0; BLOCK]).collect();
    // The last append's group may be a torn tail; the one before it, and the header, may not.
    let [.., before, _] = groups[..] else { panic!("{groups:?}") };
    verify_finds_any_flipped_bit(&disk, &path, before..before + ENTRY_BYTES_MIN);
    // What the checkpoint has made needless is not looked at, but that the segment is the right one.
    verify_finds_any_flipped_bit(&disk, &path, 0..16);
}

#[test]
fn a_scrub_finds_any_flipped_bit_in_sealed_fragments_and_mends_their_indexes() {
    let disk = closed();
    let sealed: Vec<_> = files(&disk, "index").into_iter().map(|(path, _)| path.with_extension("")).collect();
    assert!(sealed.len() > 1);
    let all = ["log", "index", "timeindex"].into_iter().flat_map(|extension| {
        let of_sealed = |(path, _): &(PathBuf, usize)| sealed.contains(&path.with_extension(""));
        files(&disk, extension).into_iter().filter(of_sealed).collect::<Vec<_>>()
    });
    for (path, length) in all {
        for at in 0..length {
            let damaged = disk.restart();
            flip(&damaged, &path, at, at as u32 % 8);
            let (log, _) = open(damaged.env(), small());
            let said = listen(&log);
            log.scrub();
            let (said, stats) = (said.lock().unwrap(), log.stats().scrub);
            if path.extension().is_some_and(|extension| extension == "log") {
                assert!(said.len() == 1 && said[0].file == path && said[0].bytes.contains(&(at as u64)), "{said:?}");
                assert_eq!(stats.indexes_rebuilt, 0);
            } else {
                assert!(said.is_empty() && stats.indexes_rebuilt == 1, "byte {at} of {}", path.display());
                assert_eq!(damaged.files()[&path], disk.files()[&path]);
            }
            assert_eq!((stats.passes, stats.fragments), (1, sealed.len() as u64));
        }
    }
}

#[test]
fn a_scrub_in_the_background_keeps_to_its_rate_can_be_paused_and_ends_with_the_log() {
    let disk = closed();
    let scrub = goulette_log::ScrubOptions::default();
    let (log, _) = open(disk.env(), LogOptions { background: true, scrub, ..small() });
    // Nothing in the first seconds of a start, and nothing while paused.
    log.pause_scrub(true);
    log.pause_scrub(true);
    assert_eq!(log.stats().scrub, goulette_log::ScrubStats::default());
    log.pause_scrub(false);
    let passes = || log.stats().scrub.passes;
    let clock = goulette_env::Env::real().clock;
    let begun = clock.now();
    while passes() == 0 {
        assert!(clock.now() - begun < std::time::Duration::from_secs(60), "the scrub does not come to its end");
        std::thread::yield_now();
    }
    log.close().unwrap();
    let (log, _) = open(disk.restart().env(), LogOptions { background: true, scrub, ..small() });
    log.pause_scrub(false);
    assert_eq!(passes_after_a_moment(&log), 0, "the pass is done, and the next one is due in a week");
}

fn passes_after_a_moment(log: &Log) -> u64 {
    for _ in 0..1_000 {
        log.pause_scrub(false);
        std::thread::yield_now();
    }
    log.stats().scrub.passes
}

#[test]
fn a_range_gets_back_what_stood_there_and_nothing_else() {
    let sound = closed();
    let (log, _) = open(sound.env(), small());
    let original = log.partition(id(1, 0)).unwrap();
    let disk = closed();
    let (path, _) = files(&disk, "log")[0].clone();
    flip(&disk, &path, 100, 3);
    let (damaged_log, _) = open(disk.env(), small());
    let partition = damaged_log.partition(id(1, 0)).unwrap();
    let (_, damaged) = read_around(&partition, 0);
    assert_eq!(damaged.len(), 1);
    let range = damaged_log.quarantined()[0].clone();
    let batches = |from: Offset, to: Offset| original.read(from, to, 1 << 20).unwrap();
    let wrong = [
        batches(range.offsets.start, Offset(range.offsets.end.0 + 1)),
        batches(Offset(range.offsets.start.0 + 1), Offset(range.offsets.end.0 + 1)),
        Vec::new(),
    ];
    for wrong in wrong {
        assert!(matches!(partition.repair(&range, &wrong), Err(goulette_log::RepairError::Unfit { .. })));
    }
    partition.repair(&range, &batches(range.offsets.start, range.offsets.end)).unwrap();
    assert!(damaged_log.quarantined().is_empty());
    assert_eq!(read_around(&partition, 0), ((0..BATCHES).collect(), Vec::new()));
    let again = partition.repair(&range, &batches(range.offsets.start, range.offsets.end));
    assert!(matches!(again, Err(goulette_log::RepairError::Gone)));
    // It is durable.
    drop((damaged_log, partition));
    let (log, _) = open(disk.crash(goulette_env::sim::Unsynced::None).env(), small());
    assert_eq!(read_around(&log.partition(id(1, 0)).unwrap(), 0), ((0..BATCHES).collect(), Vec::new()));
}

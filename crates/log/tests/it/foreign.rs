//! Whole files that are not what was written: of another broker, of another version, another's bytes, cut, or rubbish.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use goulette_env::{Disk, OpenMode, sim::SimDisk};
use goulette_log::{Inspection, Log, LogOptions};
use goulette_types::Offset;

use crate::{
    damage::{BATCHES, closed, files, listen, read_around, value},
    support::*,
};

/// Gives a file other bytes, of whatever length.
fn replace(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::CreateOrOpen).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Why the directory is refused; nothing in it was touched by that.
fn refusal(disk: &SimDisk) -> String {
    let before = disk.files();
    let refused = Log::open(disk.env(), Path::new(DIR), small()).err().expect("it is refused").to_string();
    assert_eq!(disk.files(), before, "{refused}");
    refused
}

fn named_by_verify(disk: &SimDisk) -> BTreeSet<PathBuf> {
    let damages = Inspection::open(&disk.env(), Path::new(DIR)).unwrap().verify().damages;
    damages.into_iter().map(|damage| damage.file).collect()
}

/// The fragments that are sealed: they have an index.
fn sealed(disk: &SimDisk) -> Vec<PathBuf> {
    files(disk, "index").into_iter().map(|(path, _)| path.with_extension("log")).collect()
}

#[test]
fn a_checkpoint_of_another_version_or_of_none_is_refused_by_name() {
    let disk = closed();
    let path = Path::new(DIR).join("checkpoint");
    let whole = disk.files()[&path].clone();
    let mut newer = whole.clone();
    newer[5] = 9;
    replace(&disk, &path, &newer);
    let says = "/data/checkpoint has format version 9, this program knows up to 1: start the newer program";
    assert_eq!(refusal(&disk), says);
    assert_eq!(named_by_verify(&disk), BTreeSet::from([path.clone()]));
    let mut none = whole.clone();
    none[5] = 0;
    for bytes in [&none[..], &[], &[0; 4096], &whole[..100], &b"GLCK"[..]] {
        replace(&disk, &path, bytes);
        let refused = refusal(&disk);
        assert!(refused.starts_with("/data/checkpoint is damaged: "), "{refused}");
        assert_eq!(named_by_verify(&disk), BTreeSet::from([path.clone()]));
    }
    replace(&disk, &path, &whole);
    open(disk.env(), small()).0.close().unwrap();
}

#[test]
fn a_wal_of_another_broker_is_refused_by_name() {
    let disk = closed();
    let other = SimDisk::from_seed(77);
    let (log, _) = open(other.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    for number in 0..BATCHES {
        append(&partition, batch(&[value(number)])).unwrap();
    }
    log.close().unwrap();
    for (path, _) in files(&disk, "wal") {
        disk.remove_file(&path).unwrap();
    }
    for (path, _) in files(&other, "wal") {
        replace(&disk, &path, &other.files()[&path]);
    }
    let refused = refusal(&disk);
    assert!(refused.contains("/data/wal/"), "{refused}");
}

#[test]
fn fragments_with_each_others_bytes_are_read_around() {
    let disk = closed();
    let [first, second, ..] = &sealed(&disk)[..] else { panic!("too few fragments") };
    let files = disk.files();
    replace(&disk, first, &files[second]);
    replace(&disk, second, &files[first]);
    let both = BTreeSet::from([first.clone(), second.clone()]);
    assert_eq!(named_by_verify(&disk), both);
    for scrubbed in [false, true] {
        let (log, report) = open(disk.restart().env(), small());
        assert_eq!(report.lost, None);
        let said = listen(&log);
        if scrubbed {
            log.scrub();
            assert_eq!(said.lock().unwrap().iter().map(|range| range.file.clone()).collect::<BTreeSet<_>>(), both);
        }
        // Nothing is handed out that is not what was written there.
        let (found, damaged) = read_around(&log.partition(id(1, 0)).unwrap(), 0);
        let lost: Vec<_> = damaged.iter().cloned().flatten().collect();
        assert!(damaged.len() == 2 && !found.is_empty(), "{damaged:?}");
        assert_eq!(found.len() + lost.len(), BATCHES as usize);
        let said = said.lock().unwrap();
        assert_eq!(said.iter().map(|range| range.file.clone()).collect::<BTreeSet<_>>(), both);
        assert!(said.iter().all(|range| range.bytes.start == 0), "{said:?}");
    }
}

#[test]
fn a_sealed_fragment_that_is_gone_is_named_and_read_around() {
    let intact = closed();
    let path = &sealed(&intact)[1];
    // Its indexes alone tell nobody that it was ever there: without them it is the same.
    for with_indexes in [true, false] {
        for (scrubbed, while_open) in [(false, false), (true, false), (false, true), (true, true)] {
            let disk = intact.restart();
            let remove = || {
                disk.remove_file(path).unwrap();
                if !with_indexes {
                    for extension in ["index", "timeindex"] {
                        disk.remove_file(&path.with_extension(extension)).unwrap();
                    }
                }
            };
            if !while_open {
                remove();
                assert_eq!(named_by_verify(&disk), BTreeSet::from([path.clone()]));
            }
            let (log, report) = open(disk.env(), small());
            assert_eq!(report.lost, None);
            let said = listen(&log);
            if while_open {
                remove();
            }
            if scrubbed {
                log.scrub();
                assert_eq!(said.lock().unwrap().len(), 1);
            }
            let (found, damaged) = read_around(&log.partition(id(1, 0)).unwrap(), 0);
            let lost: Vec<_> = damaged.iter().cloned().flatten().collect();
            assert_eq!((damaged.len(), found.len() + lost.len()), (1, BATCHES as usize), "{damaged:?}");
            let said = said.lock().unwrap();
            assert!(said.len() == 1 && said[0].file == *path, "{said:?}");
            drop(said);
            log.close().unwrap();
        }
    }
}

#[test]
fn a_sealed_fragment_that_is_cut_anywhere_costs_what_it_lost_alone() {
    let intact = closed();
    let fragments = sealed(&intact);
    let path = &fragments[1];
    let length = intact.files()[path].len();
    for cut in (0..length).step_by(13) {
        let disk = intact.restart();
        disk.open(path, OpenMode::Write).unwrap().set_len(cut as u64).unwrap();
        assert_eq!(named_by_verify(&disk), BTreeSet::from([path.clone()]), "cut at {cut}");
        let (log, report) = open(disk.env(), small());
        assert_eq!(report.lost, None);
        let said = listen(&log);
        log.scrub();
        let heard = said.lock().unwrap().clone();
        assert!(heard.len() == 1 && heard[0].file == *path, "cut at {cut}: {heard:?}");
        assert_eq!(heard[0].bytes.end, length as u64);
        let (found, damaged) = read_around(&log.partition(id(1, 0)).unwrap(), 0);
        let lost = heard[0].offsets.start.0..heard[0].offsets.end.0;
        assert!(damaged.len() == 1 && damaged[0] == lost, "cut at {cut}: {damaged:?} for {lost:?}");
        assert_eq!(found.len() as u64, BATCHES - (lost.end - lost.start));
        assert!(heard[0].bytes.start <= cut as u64, "cut at {cut}: {heard:?}");
        let partition = log.partition(id(1, 0)).unwrap();
        assert_eq!(append(&partition, batch(&["goes on"])).unwrap().base_offset, Some(Offset(BATCHES)));
        log.close().unwrap();
    }
}

#[test]
fn an_index_of_rubbish_of_any_length_is_made_anew() {
    let intact = closed();
    for extension in ["index", "timeindex"] {
        for (path, length) in files(&intact, extension) {
            let other = files(&intact, extension).into_iter().find(|(other, _)| *other != path).unwrap().0;
            let whole = intact.files()[&path].clone();
            let doubled = [&whole[..], &whole].concat();
            let rubbish: Vec<u8> = (0..length).map(|at| (at * 37 + 11) as u8).collect();
            let others = intact.files()[&other].clone();
            for bytes in [&[][..], &[0], &vec![0; length], &vec![255; 5_000], &rubbish, &whole[1..], &doubled, &others]
            {
                let disk = intact.restart();
                replace(&disk, &path, bytes);
                assert_eq!(named_by_verify(&disk), BTreeSet::from([path.clone()]), "{} bytes", bytes.len());
                let (log, _) = open(disk.env(), LogOptions { tail_cache_bytes: 0, ..small() });
                let (found, damaged) = read_around(&log.partition(id(1, 0)).unwrap(), 0);
                assert!(found.len() as u64 == BATCHES && damaged.is_empty());
                log.scrub();
                assert_eq!(disk.files()[&path], whole);
                log.close().unwrap();
            }
        }
    }
}

//! Bytes that are not what was written: cut, flipped, foreign, random.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_wal::{OpenError, RecoverError, RecoveredEntry, Recovery, Wal, WalOptions, WalPosition};
use proptest::prelude::*;

use crate::world::{DIR, Events, Model, Session, small};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A log of a few groups in some segments, cleanly closed; the positions at which its groups begin.
fn log(groups: usize) -> (Files, Model, Vec<WalPosition>) {
    let disk = SimDisk::from_seed(5);
    let mut model = Model::default();
    let session = model.open(&disk, small()).unwrap();
    let starts = (0..groups).map(|group| session.group(&mut model, 2 + group % 3).unwrap()).collect();
    session.wal.close().unwrap();
    (disk.files(), model, starts)
}

fn name(segment: u64) -> PathBuf {
    Path::new(DIR).join(format!("{segment:020}.wal"))
}

fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::from_seed(6);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (path, bytes) in files {
        disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    disk.crash(Unsynced::All)
}

/// Reads a log that may be damaged: what was found must be a prefix of what was sent.
fn recover(disk: &SimDisk, model: &Model) -> Result<(Recovery, usize), RecoverError> {
    let mut found = 0;
    let visit = &mut |entry: RecoveredEntry| {
        assert_eq!(entry.payload, model.sent[found]);
        found += 1;
        Ok(())
    };
    let recovery = Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), None, visit)?;
    Ok((recovery, found))
}

/// The files with the log's last segment first: the one that holds the last group, and how long it is in use.
fn last_group(files: &Files, model: &Model, starts: &[WalPosition]) -> (PathBuf, usize, usize) {
    let start = starts.last().unwrap();
    let (recovery, _) = recover(&disk_of(files), model).unwrap();
    assert_eq!(recovery.end.segment, start.segment, "the last group is where the log ends");
    (name(start.segment), start.offset as usize, recovery.end.offset as usize)
}

#[test]
fn cut_at_every_byte_of_the_last_group_the_groups_before_are_whole() {
    let (files, model, starts) = log(6);
    let (path, start, end) = last_group(&files, &model, &starts);
    let before = model.sent.len() - 4;
    let mut seen = std::collections::BTreeSet::new();
    for cut in start..end {
        let damages: [fn(&mut Vec<u8>, usize); 3] = [
            |bytes, cut| bytes.truncate(cut),
            |bytes, cut| bytes[cut..].fill(0),
            // What another life of the file left there.
            |bytes, cut| bytes[cut..].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31) ^ 0x5a),
        ];
        for damage in damages {
            let mut files = files.clone();
            damage(files.get_mut(&path).unwrap(), cut);
            let (recovery, found) = recover(&disk_of(&files), &model).unwrap();
            assert!(found >= before, "cut at {cut}: {found} of {before}");
            assert_eq!(recovery.lost, None, "cut at {cut}");
            seen.insert((found, recovery.torn.is_some()));
        }
    }
    // Nothing of the group, a part, and all of it (cut within the padding).
    assert!(seen.contains(&(before, false)) && seen.contains(&(before + 2, true)), "{seen:?}");
    assert!(seen.contains(&(before + 4, false)), "{seen:?}");
}

#[test]
fn a_flipped_byte_before_the_last_group_is_a_loss_and_not_a_torn_tail() {
    let (files, model, starts) = log(5);
    let last = *starts.last().unwrap();
    let mut losses = 0;
    for (path, bytes) in &files {
        let Some(segment) = (1..=last.segment).find(|segment| name(*segment) == *path) else { continue };
        // The last group begins with its block (and with the link, if it is the segment's first).
        let end = if segment == last.segment { last.offset as usize & !4095 } else { bytes.len() };
        // Not all, for time; but as the step is odd, each byte of a header in some entry.
        for at in (0..end).step_by(3) {
            let mut files = files.clone();
            files.get_mut(path).unwrap()[at] ^= 0x10;
            // `None` if the byte is of no importance: padding, or never written.
            let (recovery, found) = recover(&disk_of(&files), &model).unwrap();
            if let Some(lost) = recovery.lost {
                assert!((lost.segment, lost.offset as usize) <= (segment, at), "{lost:?} for {segment}:{at}");
                assert!(lost.segment + 1 >= segment, "{lost:?} for {segment}:{at}");
                assert!(found < model.sent.len());
                losses += 1;
            } else {
                assert_eq!((found, recovery.torn), (model.sent.len(), None), "{segment}:{at}");
            }
        }
    }
    let payload_bytes: usize = model.sent[..model.sent.len() - 3].iter().map(Bytes::len).sum();
    assert!(losses * 3 > payload_bytes, "{losses} thirds of more than {payload_bytes} bytes that matter");
}

#[test]
fn a_loss_must_be_accepted_and_the_segments_behind_it_are_kept() {
    let (mut files, mut model, starts) = log(8);
    assert!(starts[7].segment >= 3);
    files.get_mut(&name(1)).unwrap()[starts[1].offset as usize + 40] ^= 1;
    let disk = disk_of(&files);
    let (recovery, found) = recover(&disk, &model).unwrap();
    assert!(recovery.lost.is_some());
    let sink = || Box::new(crate::world::Events(std::sync::mpsc::channel().0));
    assert!(matches!(Wal::open(recovery, sink()), Err(OpenError::LossNotAccepted { .. })));

    let (mut recovery, _) = recover(&disk, &model).unwrap();
    recovery.accept_loss();
    let wal = Wal::open(recovery, sink()).unwrap();
    wal.close().unwrap();
    let lost: Vec<_> = disk.files().into_keys().filter(|path| path.to_string_lossy().ends_with(".lost")).collect();
    assert_eq!(lost.len() as u64, starts[7].segment - 1 + u64::from(files.contains_key(&name(starts[7].segment + 1))));
    model.sent.truncate(found);
    model.acknowledged = found;
    let session = model.open(&disk, small()).unwrap();
    session.group(&mut model, 3).unwrap();
    drop(session);
    model.recover(&disk, small()).unwrap();
}

#[test]
fn after_an_accepted_loss_the_same_checkpoint_is_still_a_place_to_read_from() {
    let (intact, model, starts) = log(8);
    let from = starts[4];
    let damages: [fn(&mut [u8], usize); 3] =
        [|bytes, _| bytes[..512].fill(0), |bytes, _| bytes[4096..].fill(0), |bytes, from| bytes[from] ^= 1];
    for damage in damages {
        let mut files = intact.clone();
        damage(files.get_mut(&name(from.segment)).unwrap(), from.offset as usize);
        let disk = disk_of(&files);
        let mut model = model.clone();
        let first = model.sent.len();
        let recover = |disk: &SimDisk, found: &mut Vec<Bytes>| {
            Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), Some(from), &mut |entry| {
                found.push(entry.payload);
                Ok(())
            })
            .unwrap()
        };
        let mut recovery = recover(&disk, &mut Vec::new());
        assert!(recovery.lost.is_some() && recovery.end == from, "{recovery:?}");
        recovery.accept_loss();
        let (sender, events) = std::sync::mpsc::channel();
        let session = Session { wal: Wal::open(recovery, Box::new(Events(sender))).unwrap(), events };
        for _ in 0..4 {
            session.group(&mut model, 2).unwrap();
        }
        drop(session);
        let mut found = Vec::new();
        let recovery = recover(&disk.crash(Unsynced::None), &mut found);
        assert_eq!((recovery.lost, recovery.torn), (None, None));
        assert_eq!(found, model.sent[first..]);
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (mut files, model, _) = log(8);
    files.remove(&name(2)).unwrap();
    let error = recover(&disk_of(&files), &model).err().unwrap();
    assert_eq!(error.to_string(), "/wal/00000000000000000002.wal is missing: put it back, or restore this directory");
}

#[test]
fn a_checkpoint_into_a_missing_segment_is_an_error() {
    let (files, _, starts) = log(8);
    let disk = disk_of(&files);
    for segment in [starts[7].segment + 5, u64::MAX] {
        let from = Some(WalPosition { segment, offset: 4096 });
        let result = Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), from, &mut |_| Ok(()));
        assert!(matches!(result.err(), Some(RecoverError::Missing { .. })));
    }
    let result = Wal::<u64>::recover(&disk.env(), Path::new("/none"), small(), Some(starts[0]), &mut |_| Ok(()));
    assert!(matches!(result.err(), Some(RecoverError::Missing { .. })));
}

#[test]
fn a_position_between_two_entries_is_an_error() {
    let (files, _, starts) = log(3);
    let disk = disk_of(&files);
    let from = Some(WalPosition { segment: starts[0].segment, offset: starts[0].offset + 8 });
    let result = Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), from, &mut |_| Ok(()));
    assert!(matches!(result.err(), Some(RecoverError::Position { .. })));
}

#[test]
fn a_renamed_segment_is_named() {
    let (mut files, model, _) = log(8);
    let second = files[&name(2)].clone();
    files.insert(name(3), second);
    let error = recover(&disk_of(&files), &model).err().unwrap();
    assert!(matches!(error, RecoverError::Renamed { found: 2, ref file } if *file == name(3)), "{error}");
}

#[test]
fn whatever_happens_to_whole_files_is_named_with_file_and_place() {
    let (intact, model, starts) = log(8);
    let last = starts[7].segment;
    let what = |change: &dyn Fn(&mut Files)| {
        let mut files = intact.clone();
        change(&mut files);
        match recover(&disk_of(&files), &model) {
            Ok((Recovery { lost: Some(lost), .. }, _)) => format!("{} is lost at {}", lost.file.display(), lost.offset),
            Ok((recovery, found)) => panic!("unnoticed: {found} entries, {recovery:?}"),
            Err(error) => error.to_string(),
        }
    };
    let put = |files: &mut Files, segment: u64, bytes: Vec<u8>| drop(files.insert(name(segment), bytes));
    let path = |segment: u64| name(segment).display().to_string();
    let is = |segment: u64, found: u64| {
        format!("{} holds segment {found}: it was renamed or copied; give it back its name", path(segment))
    };
    let swapped = what(&|files| {
        put(files, 2, intact[&name(3)].clone());
        put(files, 3, intact[&name(2)].clone());
    });
    assert_eq!(swapped, is(2, 3));
    let doubled = what(&|files| put(files, last + 1, intact[&name(last)].clone()));
    assert_eq!(doubled, is(last + 1, last));
    let far = what(&|files| put(files, last + 7, intact[&name(last)].clone()));
    assert_eq!(far, format!("{} is missing: put it back, or restore this directory", path(last + 1)));
    // The newest one too: what it was nobody can tell any more.
    for segment in 1..=last {
        let length = intact[&name(segment)].len();
        for bytes in [vec![0; length], vec![], vec![0; 512]] {
            assert_eq!(what(&|files| put(files, segment, bytes.clone())), format!("{} is lost at 0", path(segment)));
        }
    }
    let half = what(&|files| files.get_mut(&name(2)).unwrap().truncate(4096));
    assert_eq!(half, format!("{} is lost at 4096", path(2)));
}

#[test]
fn a_segment_of_another_log_is_named() {
    let (mut files, model, _) = log(8);
    let other = SimDisk::from_seed(99);
    let mut other_model = Model::default();
    let session = other_model.open(&other, small()).unwrap();
    for _ in 0..8 {
        session.group(&mut other_model, 3).unwrap();
    }
    drop(session);
    files.insert(name(2), other.files()[&name(2)].clone());
    let error = recover(&disk_of(&files), &model).err().unwrap();
    assert!(matches!(error, RecoverError::OtherLog { ref file, .. } if *file == name(2)), "{error}");
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let (mut files, model, _) = log(2);
    let bytes = files.get_mut(&name(1)).unwrap();
    bytes[8] = 9;
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes[..512]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = recover(&disk_of(&files), &model).err().unwrap();
    assert_eq!(
        error.to_string(),
        "/wal/00000000000000000001.wal has format version 9, this program reads version 1: start a newer program"
    );
}

#[test]
fn a_lost_header_is_a_loss() {
    for segment in [1, 2] {
        let (mut files, model, _) = log(8);
        files.get_mut(&name(segment)).unwrap()[..512].fill(0);
        let (recovery, _) = recover(&disk_of(&files), &model).unwrap();
        let lost = recovery.lost.unwrap();
        assert_eq!((lost.segment, lost.offset, lost.file), (segment, 0, name(segment)));
    }
}

#[test]
fn a_log_that_ends_before_the_checkpoint_is_a_loss() {
    let (mut files, _, starts) = log(8);
    let from = *starts.last().unwrap();
    files.get_mut(&name(from.segment)).unwrap()[4096..].fill(0);
    let env = disk_of(&files).env();
    let recovery = Wal::<u64>::recover(&env, Path::new(DIR), small(), Some(from), &mut |_| Ok(())).unwrap();
    assert_eq!(recovery.lost.map(|lost| (lost.segment, lost.offset)), Some((from.segment, 4096)));
}

#[test]
fn damage_before_the_checkpoint_matters_only_if_nothing_stands_at_the_checkpoint() {
    let options = WalOptions { segment_bytes: 64 << 10, ..small() };
    let disk = SimDisk::from_seed(5);
    let mut model = Model::default();
    let session = model.open(&disk, options.clone()).unwrap();
    let starts: Vec<_> = (0..4).map(|_| session.group(&mut model, 3).unwrap()).collect();
    drop(session);
    let mut files = disk.files();
    let recover = |files: &Files, from| {
        let mut found = 0;
        let visit = &mut |_| {
            found += 1;
            Ok(())
        };
        let env = disk_of(files).env();
        let recovery = Wal::<u64>::recover(&env, Path::new(DIR), options.clone(), Some(from), visit).unwrap();
        (recovery.lost.map(|lost| lost.offset), found)
    };
    let bytes = files.get_mut(&name(1)).unwrap();
    bytes[starts[1].offset as usize] ^= 1;
    assert_eq!(recover(&files, starts[1]), (Some(starts[1].offset), 0));
    assert_eq!(recover(&files, starts[2]), (None, 6));
    files.get_mut(&name(1)).unwrap()[starts[2].offset as usize..].fill(0);
    assert_eq!(recover(&files, starts[2]), (Some(starts[1].offset), 0));
}

#[test]
fn the_end_of_an_empty_log_is_a_place_to_read_from() {
    let disk = SimDisk::from_seed(5);
    let recovery = Model::default().recover(&disk, small()).unwrap();
    let from = Some(recovery.end);
    assert_eq!(Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), from, &mut |_| Ok(())).unwrap().entries, 0);
    let mut model = Model::default();
    let session = model.open(&disk, small()).unwrap();
    session.group(&mut model, 3).unwrap();
    drop(session);
    assert_eq!(Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), from, &mut |_| Ok(())).unwrap().entries, 3);
}

#[test]
fn entries_from_another_life_of_the_same_segment_never_rise() {
    // Two outcomes of one crash go on, each in a segment of the same number.
    let disk = SimDisk::from_seed(5);
    let mut model = Model::default();
    let options = WalOptions { segment_bytes: 64 << 10, ..small() };
    drop(model.open(&disk, options.clone()).unwrap());
    let live = |groups: usize| {
        let (disk, mut model) = (disk.crash(Unsynced::None), model.clone());
        let session = model.open(&disk, options.clone()).unwrap();
        let starts: Vec<_> = (0..groups).map(|_| session.group(&mut model, 1).unwrap()).collect();
        let end = session.wal.end();
        drop(session);
        (disk.files(), model, starts, end)
    };
    let (other_files, _, other_starts, _) = live(3);
    let (mut files, mut model, starts, end) = live(2);
    assert_eq!((&starts[..], end), (&other_starts[..2], other_starts[2]), "the same places");
    // The blocks behind this life's end still hold the other one's third group.
    let path = name(end.segment);
    files.get_mut(&path).unwrap()[end.offset as usize..].copy_from_slice(&other_files[&path][end.offset as usize..]);
    let recovery = model.recover(&disk_of(&files), options.clone()).unwrap();
    assert_eq!((recovery.end, recovery.torn), (end, None));
}

/// An entry header as the log writes it, for a segment whose header says the salt.
fn forge_header(files: &Files, segment: u64, offset: u32, group: u64) -> Vec<u8> {
    let mut fields = [0; 20];
    fields[12..].copy_from_slice(&group.to_le_bytes());
    let salt = &files[&name(segment)][40..48];
    let crc = [salt, &segment.to_le_bytes(), &offset.to_le_bytes(), &fields]
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    [&crc.to_le_bytes()[..], &fields].concat()
}

/// The segment of this number as it is before its first group.
fn prepared(other: &[u8], segment: u64) -> Vec<u8> {
    let mut bytes = vec![0; other.len()];
    bytes[..512].copy_from_slice(&other[..512]);
    bytes[32..40].copy_from_slice(&segment.to_le_bytes());
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes[..512]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_header_with_a_group_that_cannot_stand_there_is_a_chance_hit_and_no_corruption() {
    let options = WalOptions { segment_bytes: 64 << 10, ..small() };
    let disk = SimDisk::from_seed(5);
    let mut model = Model::default();
    let session = model.open(&disk, options.clone()).unwrap();
    let starts: Vec<_> = (0..3).map(|_| session.group(&mut model, 1).unwrap()).collect();
    let end = session.wal.end();
    drop(session);
    let last = model.sent.len() as u64 + 1; // The link has a group of its own.
    assert_eq!((starts[0].segment, end.segment), (1, 1));
    let mut intact = disk.files();
    intact.insert(name(2), prepared(&intact[&name(1)], 2));
    let damaged = |segment: u64, offset: u32, group: u64| {
        let mut files = intact.clone();
        let header = forge_header(&files, segment, offset, group);
        let bytes = files.get_mut(&name(segment)).unwrap();
        bytes[offset as usize..][..header.len()].copy_from_slice(&header);
        let recovery =
            Wal::<u64>::recover(&disk_of(&files).env(), Path::new(DIR), options.clone(), None, &mut |_| Ok(()));
        let recovery = recovery.unwrap();
        (recovery.entries, recovery.lost.is_some())
    };
    let left = u64::from((64 << 10) - end.offset) / 4096;
    for (segment, offset, block, latest) in
        [(end.segment, end.offset, 2, last + 1), (end.segment + 1, 4096, 5, last + 1 + left)]
    {
        let at = offset + block * 4096 + 8;
        let fitting = latest + u64::from(block);
        assert_eq!(damaged(segment, at, fitting), (3, true), "so many groups may have been written behind the end");
        for chance in [fitting + 1, u64::MAX, u64::MAX / 3, last, 1] {
            assert_eq!(damaged(segment, at, chance), (3, false), "group {chance} at {at} of segment {segment}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_never_panic_and_are_never_entries(bytes in prop::collection::vec(any::<u8>(), 0..20_000), at in 0_usize..20_000, keep_header: bool) {
        let (mut files, model, _) = log(1);
        let segment = files.get_mut(&name(1)).unwrap();
        let at = if keep_header { at.max(512) } else { at };
        let end = (at + bytes.len()).max(segment.len());
        segment.resize(end, 0);
        segment[at..at + bytes.len()].copy_from_slice(&bytes);
        let (_, found) = recover(&disk_of(&files), &model).unwrap();
        prop_assert!(found <= model.sent.len());
    }

    #[test]
    fn a_few_wrong_bytes_anywhere_never_give_a_wrong_entry(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (mut files, model, _) = log(6);
        let names: Vec<PathBuf> = files.keys().cloned().collect();
        for (file, at, byte) in damage {
            let bytes = files.get_mut(file.get(&names)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (recovery, found) = recover(&disk_of(&files), &model).unwrap();
        prop_assert!(found == model.sent.len() || recovery.lost.is_some() || found >= model.sent.len() - 4);
    }
}

#[test]
fn segments_of_another_length_are_read_too() {
    let (files, model, _) = log(6);
    let disk = disk_of(&files);
    let options = WalOptions { segment_bytes: 32 << 10, ..small() };
    let mut model = model;
    let session = model.open(&disk, options.clone()).unwrap();
    for _ in 0..6 {
        session.group(&mut model, 3).unwrap();
    }
    drop(session);
    model.recover(&disk, options).unwrap();
    model.recover(&disk, small()).unwrap();
}

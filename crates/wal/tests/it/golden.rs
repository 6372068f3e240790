//! A log that version 1 wrote, kept for ever: each later version must open it, and find in it what
//! `docs/formats/wal.md` says.
//!
//! `tests/golden/wal-v1` holds two lives of a log in segments of 16 KiB: 9 entries and a clean end, then 6 entries, of
//! which the last two are a group that a power cut tore.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_wal::{RecoveredEntry, Wal, WalPosition};

use crate::world::{DIR, Model, small};

/// Entries that come back, of all that were written.
const WHOLE: usize = 14;

/// The payload of the n-th entry.
fn payload(n: usize) -> Bytes {
    let length = [0, 9, 700, 4_500, 31][n % 5];
    (0..length).map(|at| (n * 37 + at * 11) as u8).collect()
}

#[allow(clippy::disallowed_methods, reason = "the kept files lie on the machine's own disk")]
fn files() -> BTreeMap<PathBuf, Vec<u8>> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wal-v1");
    let name = |path: &Path| Path::new(DIR).join(path.file_name().unwrap());
    let files = std::fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (name(&path), std::fs::read(path).unwrap())).collect()
}

fn disk() -> SimDisk {
    let disk = SimDisk::from_seed(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (path, bytes) in files() {
        disk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    disk.crash(Unsynced::All)
}

#[test]
fn the_log_of_version_1_opens_and_goes_on() {
    let disk = disk();
    let mut model = Model::default();
    (model.sent, model.acknowledged) = ((0..WHOLE).map(payload).collect(), WHOLE);
    let recovery = model.recover(&disk, small()).unwrap();
    assert_eq!(recovery.entries as usize, WHOLE);
    assert_eq!(recovery.torn.map(|torn| torn.position), Some(recovery.end));
    let session = model.open(&disk, small()).unwrap();
    session.group(&mut model, 4).unwrap();
    session.wal.close().unwrap();
    model.recover(&disk.crash(Unsynced::None), small()).unwrap();
}

#[test]
fn the_log_of_version_1_is_as_its_tables_say() {
    let files = files();
    let file = |segment: u64| &files[&Path::new(DIR).join(format!("{segment:020}.wal"))];
    let number = |bytes: &[u8], at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0, |number: u64, &byte| number << 8 | u64::from(byte))
    };
    let crc = |parts: &[&[u8]]| parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));

    // Segment headers.
    let segments = files.len() as u64;
    for segment in 1..=segments {
        let bytes = file(segment);
        assert_eq!(bytes.len(), 16 << 10);
        assert_eq!(&bytes[..8], b"GLTWAL\0\0");
        assert_eq!((number(bytes, 8, 4), number(bytes, 32, 8), number(bytes, 48, 4)), (1, segment, 16 << 10));
        assert_eq!(bytes[16..32], file(1)[16..32], "one log");
        assert!(bytes[52..4096].iter().all(|&byte| byte == 0));
        assert_eq!(number(bytes, 12, 4), u64::from(crc(&[&bytes[..12], &[0; 4], &bytes[16..512]])));
    }

    // Entries, and the links among them.
    let mut entries = Vec::new();
    Wal::<u64>::recover(&disk().env(), Path::new(DIR), small(), None, &mut |entry: RecoveredEntry| {
        entries.push((entry.position, entry.end, entry.payload));
        Ok(())
    })
    .unwrap();
    let check = |segment: u64, at: usize, payload: &[u8], kind: u64, link: bool| {
        let (bytes, place) = (file(segment), at as u32);
        let salt = &bytes[40..48];
        let sum = crc(&[salt, &segment.to_le_bytes(), &place.to_le_bytes(), &bytes[at + 4..at + 24]]);
        assert_eq!(number(bytes, at, 4), u64::from(sum));
        assert_eq!(number(bytes, at + 4, 4), u64::from(crc(&[payload])));
        assert_eq!(number(bytes, at + 8, 4), payload.len() as u64);
        assert_eq!((number(bytes, at + 12, 1), number(bytes, at + 13, 1) & 2 != 0), (kind, link));
        assert_eq!(number(bytes, at + 14, 2), 0);
        assert_eq!(&bytes[at + 24..][..payload.len()], payload);
        (number(bytes, at + 16, 8), number(bytes, at + 13, 1) & 1 != 0)
    };
    let (mut group, mut segment, mut behind) = (0, 0, WalPosition { segment: 0, offset: 0 });
    for (index, (position, end, payload)) in entries.iter().enumerate() {
        if segment < position.segment {
            segment += 1;
            assert_eq!(segment, position.segment, "each segment of this log has entries");
            let link = &file(segment)[4096 + 24..][..16];
            assert_eq!(check(segment, 4096, link, 0, true).0, group + 1);
            assert_eq!((number(link, 0, 8), number(link, 8, 4)), (behind.segment, behind.offset.into()));
            assert_eq!(number(link, 12, 4), 0);
            group += 1;
        }
        let (found, last) = check(position.segment, position.offset as usize, payload, index as u64, false);
        assert!(found == group || found == group + 1, "group {found} behind {group}");
        group = found;
        let next = position.offset + (24 + payload.len() as u32).next_multiple_of(8);
        assert_eq!(end.offset, if last { next.next_multiple_of(4096) } else { next });
        behind = *end;
    }
    assert_eq!((entries.len(), segment), (WHOLE, files.len() as u64));
}

/// How the kept files were made; never again.
#[test]
#[ignore = "writes the files of a version that is released"]
#[allow(clippy::disallowed_methods, reason = "the kept files lie on the machine's own disk")]
fn make() {
    let disk = SimDisk::from_seed(4);
    let mut model = Model::default();
    let mut sent = 0;
    let mut last = None;
    for groups in [&[1, 2, 3, 3][..], &[1, 3, 2]] {
        let session = model.open(&disk, small()).unwrap();
        for &count in groups {
            model.sent.extend((sent..sent + count).map(payload));
            let entries = (sent..sent + count).map(|tag| crate::world::entry(&model, tag)).collect();
            session.wal.append_all(entries).unwrap();
            for _ in 0..count {
                last = Some(session.events.recv_timeout(crate::world::DEADLINE).unwrap());
            }
            sent += count;
            model.acknowledged = sent;
        }
        session.wal.close().unwrap();
    }
    let Some(crate::world::Event::Committed { position, .. }) = last else { panic!("no last entry") };
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wal-v1");
    for (path, mut bytes) in disk.files() {
        if path.ends_with(format!("{:020}.wal", position.segment)) {
            // The last entry's payload, and all but the first bytes of its header, had not reached the disk.
            bytes[position.offset as usize + 8..].fill(0);
        }
        std::fs::write(kept.join(path.file_name().unwrap()), bytes).unwrap();
    }
}

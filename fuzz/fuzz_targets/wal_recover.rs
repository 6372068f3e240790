//! A write-ahead log with wrong bytes in it: recovery comes to an end, finds only what was appended, in order, and finds
//! the same again after the log was opened behind it.
#![no_main]

use std::{path::Path, sync::LazyLock};

use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_wal::{Committed, Entry, Sink, Wal, WalError, WalOptions};
use libfuzzer_sys::fuzz_target;

const GROUPS: u8 = 8;
const DIR: &str = "/wal";

struct Nobody;

impl Sink<()> for Nobody {
    fn committed(&mut self, _entries: &mut Vec<Committed<()>>) {}
    fn failed(&mut self, _tags: Vec<()>, error: &WalError) {
        panic!("{error}");
    }
}

fn options() -> WalOptions {
    WalOptions { segment_bytes: 16 << 10, prepare_inline: true, group_bytes_max: 0, ..WalOptions::default() }
}

/// A sound log: single entries as groups.
static LOG: LazyLock<Vec<(std::path::PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let disk = SimDisk::from_seed(1);
    let recovery = Wal::<()>::recover(&disk.env(), Path::new(DIR), options(), None, &mut |_| Ok(())).unwrap();
    let wal = Wal::open(recovery, Box::new(Nobody)).unwrap();
    for number in 0..GROUPS {
        wal.append(Entry { kind: number, payload: payload(number).into(), tag: () }).unwrap();
    }
    wal.close().unwrap();
    disk.files().into_iter().collect()
});

fn payload(number: u8) -> bytes::Bytes {
    vec![number; usize::from(number) * 700].into()
}

fuzz_target!(|edits: Vec<(u8, u16, Vec<u8>)>| {
    let mut files = LOG.clone();
    for (file, at, bytes) in &edits {
        let index = usize::from(*file) % files.len();
        let content = &mut files[index].1;
        if content.is_empty() {
            continue;
        }
        let at = usize::from(*at) % content.len();
        let end = (at + bytes.len()).min(content.len());
        content[at..end].copy_from_slice(&bytes[..end - at]);
        if bytes.is_empty() {
            content.truncate(at);
        }
    }
    let disk = SimDisk::from_seed(2);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (path, bytes) in &files {
        disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    let disk = disk.crash(Unsynced::All);
    let mut found = 0;
    let result = Wal::<()>::recover(&disk.env(), Path::new(DIR), options(), None, &mut |entry| {
        assert_eq!((entry.kind, entry.payload), (found, payload(found)));
        found += 1;
        Ok(())
    });
    if edits.is_empty() {
        assert_eq!(found, GROUPS);
    }
    if let Ok(mut recovery) = result {
        recovery.accept_loss();
        drop(Wal::open(recovery, Box::new(Nobody)).unwrap());
        let mut again = 0;
        Wal::<()>::recover(&disk.env(), Path::new(DIR), options(), None, &mut |_| {
            again += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(again, found, "what was found once is found again");
    }
});

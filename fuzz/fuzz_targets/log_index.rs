//! Index files alone with wrong bytes, their checksums mended so that the fields behind them are believed: whatever they say,
//! no reader is given a batch that was not written there.
#![no_main]

use std::{
    path::{Path, PathBuf},
    sync::{LazyLock, mpsc},
};

use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_log::{Log, LogOptions, ReadError, Roll, SpaceOptions, WalOptions};
use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, Offset, PartitionId, PartitionIndex, Timestamp, TopicId};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/data";
const BATCHES: u64 = 24;
const ID: PartitionId = PartitionId { topic: TopicId(5), index: PartitionIndex(0) };

fn options() -> LogOptions {
    let defaults = LogOptions::default();
    LogOptions {
        wal: WalOptions { segment_bytes: 16 << 10, prepare_inline: true, ..WalOptions::default() },
        roll: Roll { bytes: 1 << 10, ..defaults.roll },
        space: SpaceOptions { free_bytes_min: Some(0), ballast_bytes: Some(0) },
        background: false,
        ..defaults
    }
}

fn batch(number: u64) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    let value = vec![number as u8; 20 + number as usize * 7];
    builder.push(None, Some(&value), &[], Timestamp(number as i64)).unwrap();
    let mut batch = builder.build();
    batch.assign(Offset(number), epoch(number));
    batch
}

fn epoch(number: u64) -> LeaderEpoch {
    LeaderEpoch(number as u32 / 5)
}

/// A log that was closed: sealed fragments with their indexes, and an active one.
static DATA: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let disk = SimDisk::from_seed(1);
    let (log, _) = Log::open(disk.env(), Path::new(DIR), options()).unwrap();
    let partition = log.create_partition(ID, &"t".parse().unwrap()).unwrap();
    for number in 0..BATCHES {
        let (tell, told) = mpsc::channel();
        partition.append(epoch(number), batch(number), Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
    }
    log.close().unwrap();
    disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
});

/// (which of the index files, where, what), and whether the file is cut there.
type Edit = (u8, u16, Vec<u8>, bool);

fuzz_target!(|input: (bool, Vec<Edit>)| {
    let (mended, edits) = input;
    let mut files = DATA.clone();
    let indexes: Vec<_> = (0..files.len()).filter(|&index| is_index(&files[index].0)).collect();
    for (file, at, bytes, cut) in &edits {
        let content = &mut files[indexes[usize::from(*file) % indexes.len()]].1;
        if content.is_empty() {
            continue;
        }
        let at = usize::from(*at) % content.len();
        let end = (at + bytes.len()).min(content.len());
        content[at..end].copy_from_slice(&bytes[..end - at]);
        if *cut {
            content.truncate(at);
        }
    }
    if mended {
        for &index in &indexes {
            if let Some((body, crc)) = files[index].1.split_last_chunk_mut::<4>() {
                *crc = crc32c::crc32c(body).to_be_bytes();
            }
        }
    }
    let disk = SimDisk::from_seed(2);
    for (path, bytes) in &files {
        disk.create_dir_all(path.parent().unwrap()).unwrap();
        disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    let (log, report) = Log::open(disk.crash(Unsynced::All).env(), Path::new(DIR), options()).unwrap();
    assert_eq!(report.lost, None, "indexes hold nothing that can be lost");
    let partition = log.partition(ID).unwrap();
    for from in 0..BATCHES {
        match partition.read(Offset(from), Offset::MAX, 300) {
            Ok(batches) => {
                assert!(!batches.is_empty());
                for (number, found) in (from..).zip(&batches) {
                    assert_eq!(*found, batch(number));
                }
            }
            // Only who forges a checksum too can make sound batches look damaged.
            Err(ReadError::Corrupt { .. }) => assert!(mended),
            Err(error) => panic!("{error}"),
        }
    }
    for time in 0..BATCHES as i64 {
        let found = partition.offset_at(Timestamp(time)).unwrap();
        assert!(mended || found == Some((Offset(time as u64), Timestamp(time))), "{time}: {found:?}");
    }
    log.scrub();
    log.close().unwrap();
});

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "index" || extension == "timeindex")
}

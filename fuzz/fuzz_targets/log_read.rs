//! Fragments and indexes with wrong bytes under a log that is open: every offset is either read as it was written or reported
//! as damaged, by readers and by the scrub, and nothing else ever comes.
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

fuzz_target!(|input: (bool, Vec<(u8, u16, Vec<u8>)>)| {
    let (scrub, edits) = input;
    let mut files = DATA.clone();
    let of_topics: Vec<_> =
        (0..files.len()).filter(|&index| files[index].0.starts_with(Path::new(DIR).join("topics"))).collect();
    for (file, at, bytes) in &edits {
        let content = &mut files[of_topics[usize::from(*file) % of_topics.len()]].1;
        if content.is_empty() {
            continue;
        }
        let at = usize::from(*at) % content.len();
        let end = (at + bytes.len()).min(content.len());
        content[at..end].copy_from_slice(&bytes[..end - at]);
    }
    let disk = SimDisk::from_seed(2);
    for (path, bytes) in &files {
        disk.create_dir_all(path.parent().unwrap()).unwrap();
        disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    let (log, report) = Log::open(disk.crash(Unsynced::All).env(), Path::new(DIR), options()).unwrap();
    assert_eq!(report.lost, None, "no file is shorter than it was");
    if scrub {
        log.scrub();
    }
    let partition = log.partition(ID).unwrap();
    let mut next = Offset(0);
    while next < Offset(BATCHES) {
        match partition.read(next, Offset::MAX, 300) {
            Ok(batches) => {
                for found in &batches {
                    assert_eq!(*found, batch(next.0));
                    next = found.next_offset();
                }
            }
            Err(ReadError::Corrupt { from, next: Some(behind), .. }) => {
                assert!(from == next && next < behind && behind <= Offset(BATCHES));
                let known = log.quarantined();
                assert!(known.iter().any(|range| range.offsets.contains(&next)), "{next}: {known:?}");
                next = behind;
            }
            Err(error) => panic!("{error}"),
        }
    }
    for time in 0..BATCHES as i64 {
        let _ = partition.offset_at(Timestamp(time)).unwrap();
    }
    let fragments_differ = files.iter().zip(&*DATA).any(|(file, was)| {
        file.0.extension().is_some_and(|extension| extension == "log") && file.1 != was.1
    });
    assert_eq!(fragments_differ, !log.quarantined().is_empty());
    log.close().unwrap();
});

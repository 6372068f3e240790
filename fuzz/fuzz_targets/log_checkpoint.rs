//! A checkpoint file alone, a full block and deltas behind it, with wrong bytes; each block's checksum mended if wanted, so that
//! the fields behind it are reached. Looking at it comes to an end, and so does opening the directory; an unchanged file is
//! taken for what it is.
#![no_main]

use std::{
    path::{Path, PathBuf},
    sync::{LazyLock, mpsc},
};

use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_log::{Inspection, Log, LogOptions, Roll, SpaceOptions, WalOptions};
use goulette_records::{BatchBuilder, Compression, Limits};
use goulette_types::{GroupName, LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Timestamp, TopicId};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/data";
const CHECKPOINT: &str = "/data/checkpoint";
/// Blocks begin at multiples of this.
const ALIGN: usize = 4096;
const BATCHES: u64 = 12;

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

fn id(topic: u128) -> PartitionId {
    PartitionId { topic: TopicId(topic), index: PartitionIndex(0) }
}

/// A broker was killed behind a checkpoint with deltas: partitions that grew, a group's position, a producer, a topic
/// that is gone.
static DATA: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let disk = SimDisk::from_seed(1);
    let (log, _) = Log::open(disk.env(), Path::new(DIR), options()).unwrap();
    log.checkpoint().unwrap();
    let gone = log.create_partition(id(6), &"gone".parse().unwrap()).unwrap();
    let partition = log.create_partition(id(5), &"t".parse().unwrap()).unwrap();
    for number in 0..BATCHES as u32 {
        for partition in [&partition, &gone] {
            let mut builder = BatchBuilder::new(Compression::None, Limits::default());
            builder.push(None, Some(&[7; 300]), &[], Timestamp(i64::from(number))).unwrap();
            let mut batch = builder.build();
            batch.set_producer(ProducerId(3), ProducerEpoch(0), number);
            let (tell, told) = mpsc::channel();
            partition.append(LeaderEpoch(number / 5), batch, Box::new(move |result| tell.send(result).unwrap()));
            told.recv().unwrap().unwrap();
        }
        if number == 6 {
            let (tell, told) = mpsc::channel();
            let group: GroupName = "readers".parse().unwrap();
            partition.commit_position(&group, Offset(3), Box::new(move |result| tell.send(result).unwrap()));
            told.recv().unwrap().unwrap();
            log.delete_topic(id(6).topic).unwrap();
            break;
        }
        if number % 2 == 1 {
            log.checkpoint().unwrap();
        }
    }
    disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
});

/// (where, what, whether the file is cut there).
type Edit = (u16, Vec<u8>, bool);

fuzz_target!(|input: (bool, Vec<Edit>)| {
    let (mended, edits) = input;
    let mut files = DATA.clone();
    let checkpoint = files.iter_mut().find(|(path, _)| path == Path::new(CHECKPOINT)).map(|(_, content)| content).unwrap();
    assert!(checkpoint.len() > 2 * ALIGN, "there are deltas");
    for (at, bytes, cut) in &edits {
        if checkpoint.is_empty() {
            continue;
        }
        let at = usize::from(*at) % checkpoint.len();
        let end = (at + bytes.len()).min(checkpoint.len());
        checkpoint[at..end].copy_from_slice(&bytes[..end - at]);
        if *cut {
            checkpoint.truncate(at);
        }
    }
    if mended {
        mend(checkpoint);
    }
    let disk = SimDisk::from_seed(2);
    for (path, bytes) in &files {
        disk.create_dir_all(path.parent().unwrap()).unwrap();
        disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    let disk = disk.crash(Unsynced::All);
    let verified = Inspection::open(&disk.env(), Path::new(DIR)).unwrap().verify();
    let opened = Log::open(disk.env(), Path::new(DIR), options());
    if files == *DATA {
        assert!(verified.damages.is_empty(), "{:?}", verified.damages);
        let (log, report) = opened.unwrap();
        assert_eq!((report.lost, log.partitions().len()), (None, 1));
    } else if let Ok((log, _)) = opened {
        let _ = log.close();
    }
});

/// Makes each block's checksum fit.
fn mend(file: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = file.get_mut(at..).filter(|block| block.len() >= ALIGN) {
        let payload = u32::from_be_bytes([block[8], block[9], block[10], block[11]]) as usize;
        let bytes = (32 + payload).next_multiple_of(ALIGN).min(block.len());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..bytes]);
        block[12..16].copy_from_slice(&crc.to_be_bytes());
        at += bytes;
    }
}

//! A data directory with wrong bytes in any of its files: looking at it and opening it come to an end, whatever they find,
//! and a directory in which nothing is wrong is found sound.
#![no_main]

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{LazyLock, mpsc},
};

use goulette_env::{
    Disk, OpenMode,
    sim::{SimDisk, Unsynced},
};
use goulette_log::{Inspection, Log, LogOptions, ReadError, Roll, Selection, SpaceOptions, WalOptions};
use goulette_records::{BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, Offset, PartitionId, PartitionIndex, Timestamp, TopicId};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/data";

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

/// A broker was killed: sealed fragments with their indexes, an active one, a checkpoint, and a WAL behind it.
static DATA: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let disk = SimDisk::from_seed(1);
    let (log, _) = Log::open(disk.env(), Path::new(DIR), options()).unwrap();
    let id = PartitionId { topic: TopicId(5), index: PartitionIndex(0) };
    let partition = log.create_partition(id, &"t".parse().unwrap()).unwrap();
    for number in 0..12u8 {
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        for value in 0..3 {
            builder.push(None, Some(&[value; 60]), &[], Timestamp(i64::from(number))).unwrap();
        }
        let (tell, told) = mpsc::channel();
        let epoch = LeaderEpoch(u32::from(number) / 5);
        partition.append(epoch, builder.build(), Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
        if number == 8 {
            log.checkpoint().unwrap();
        }
    }
    // What was flushed and not synced: the page cache survives the process.
    log.flush().unwrap();
    disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
});

fuzz_target!(|input: (bool, Vec<(u8, u16, Vec<u8>)>)| {
    let (mended, edits) = input;
    let mut files = DATA.clone();
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
    if mended {
        files.iter_mut().for_each(|(path, content)| mend(path, content));
    }
    let disk = SimDisk::from_seed(2);
    for (path, bytes) in &files {
        disk.create_dir_all(path.parent().unwrap()).unwrap();
        disk.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    let disk = disk.crash(Unsynced::All);

    let inspection = Inspection::open(&disk.env(), Path::new(DIR)).unwrap();
    let verified = inspection.verify();
    inspection.dump(&Selection::default(), &mut |_| ControlFlow::Continue(()));
    drop(inspection);
    if files == *DATA {
        assert_eq!((&verified.damages[..], verified.batches), (&[][..], 12));
    }
    let Ok((log, _)) = Log::open(disk.env(), Path::new(DIR), options()) else { return };
    for partition in log.partitions() {
        let mut from = partition.start();
        loop {
            let next = match partition.read(from, Offset::MAX, 1 << 20) {
                Ok(batches) => batches.last().map(|last| last.next_offset()),
                Err(ReadError::Corrupt { next, .. }) => next,
                Err(_) => None,
            };
            let Some(next) = next else { break };
            assert!(next > from);
            from = next;
        }
        let _ = partition.offset_at(Timestamp(7));
    }
    log.scrub();
    let _ = log.close();
});

/// Makes the checksum fit, which chance would not, so that the fields behind it are reached.
fn mend(path: &Path, content: &mut [u8]) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "checkpoint" && content.len() >= 32 {
        // One full block, as a log that has just been opened writes it.
        content[..8].copy_from_slice(b"GLCK\0\x01\0\x01");
        let crc = crc32c::crc32c_append(crc32c::crc32c(&content[..12]), &content[16..]);
        content[12..16].copy_from_slice(&crc.to_be_bytes());
    } else if name.ends_with("index")
        && let Some((body, crc)) = content.split_last_chunk_mut::<4>()
    {
        *crc = crc32c::crc32c(body).to_be_bytes();
    }
}

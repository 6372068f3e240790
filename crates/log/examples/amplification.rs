//! Bytes that the kernel accounts per payload byte, 1 KiB records fed one by one round many partitions.
//!
//! `cargo run --release -p goulette-log --example amplification DIR [PARTITIONS] [MEGABYTES]`: as `goulette bench storage` does,
//! without the rest of the program, which takes long to build.

#![allow(clippy::unwrap_used, reason = "a measurement that fails should stop")]

use std::{path::Path, sync::mpsc, time::Duration};

use goulette_env::{Env, OpenMode};
use goulette_log::{AppendError, Log, LogOptions};
use goulette_records::{BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, PartitionId, PartitionIndex, Timestamp, TopicId};

const IN_FLIGHT: usize = 8_192;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse::<u64>().unwrap());
    let (partitions, megabytes) = (number(1, 1_000) as u32, number(2, 1_000));
    let env = Env::real();
    let (log, _) = Log::open(env.clone(), Path::new(&arguments[0]), LogOptions::default()).unwrap();
    let partitions: Vec<_> = (0..partitions)
        .map(|index| {
            let id = PartitionId { topic: TopicId(1), index: PartitionIndex(index) };
            log.create_partition(id, &"amplification".parse().unwrap()).unwrap()
        })
        .collect();
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    let value: Vec<u8> = (0..128).flat_map(|_| env.random.next_u64().to_le_bytes()).collect();
    builder.push(None, Some(&value), &[], Timestamp(0)).unwrap();
    let batch = builder.build();
    for (phase, megabytes) in [("first", 3 * megabytes), ("measured", megabytes)] {
        let count = megabytes * 1_000_000 / 1_024;
        let (written, started) = (written_bytes(&env), env.clock.now());
        let (answer, answers) = mpsc::channel();
        let (mut sent, mut waiting) = (0, 0);
        let mut round = partitions.iter().cycle();
        while sent < count || waiting > 0 {
            if sent < count && waiting < IN_FLIGHT {
                let answer = answer.clone();
                let partition = round.next().unwrap();
                let done = Box::new(move |outcome: Result<_, AppendError>| _ = answer.send(outcome.map(drop)));
                partition.append(LeaderEpoch(1), batch.clone(), done);
                (sent, waiting) = (sent + 1, waiting + 1);
                continue;
            }
            waiting -= 1;
            match answers.recv().unwrap() {
                Ok(()) => {}
                Err(AppendError::Busy) => {
                    sent -= 1;
                    std::thread::park_timeout(Duration::from_micros(100));
                }
                Err(error) => panic!("{error}"),
            }
        }
        let took = env.clock.now() - started;
        log.flush().and_then(|()| log.checkpoint()).unwrap();
        let bytes = (count * 1_024) as f64;
        println!(
            "{phase}: {:.0} MB/s, {:.3} bytes written per byte; {:?}",
            bytes / 1e6 / took.as_secs_f64(),
            (written_bytes(&env) - written) as f64 / bytes,
            log.stats().wal
        );
    }
    log.close().unwrap();
}

/// What the kernel has accounted to this process.
fn written_bytes(env: &Env) -> u64 {
    let mut text = [0; 512];
    let file = env.disk.open(Path::new("/proc/self/io"), OpenMode::Read).unwrap();
    let count = file.read_at(&mut text, 0).unwrap();
    let text = String::from_utf8_lossy(&text[..count]).into_owned();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).map_or(0, |bytes| bytes.parse().unwrap())
}

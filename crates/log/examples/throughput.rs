//! How fast the engine takes synced appends, beside what the disk itself does in the same minute.
//!
//! `cargo run --release -p goulette-log --example throughput [DIR] [MEGABYTES] [BATCH_KIB] [IN_FLIGHT]`

#![allow(clippy::unwrap_used, reason = "a measurement that fails should stop")]

use std::{path::Path, sync::mpsc, time::Duration};

use goulette_env::{Env, OpenMode};
use goulette_log::{AppendError, Log, LogOptions, Retention};
use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, Offset, PartitionId, PartitionIndex, Timestamp, TopicId};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "throughput-data".into());
    let mut number = |default| arguments.next().map_or(default, |text| text.parse::<u64>().unwrap());
    let (megabytes, batch_kib, in_flight) = (number(3_000), number(512), number(8));
    let env = Env::real();
    let dir = Path::new(&dir);

    let disk = disk_rate(&env, dir, megabytes.min(1_000));
    println!("disk, 1 MiB writes into a growing file, each synced: {disk:.0} MB/s");

    let (log, report) = Log::open(env.clone(), &dir.join("log"), LogOptions::default()).unwrap();
    println!("opened: {report:?}");
    let id = PartitionId { topic: TopicId(1), index: PartitionIndex(0) };
    let partition = log.create_partition(id, &"throughput".parse().unwrap()).unwrap();
    partition.set_retention(Retention { age: None, bytes: Some(1 << 30) });
    let batches: Vec<_> = (0..16).map(|_| random_batch(&env, batch_kib as usize)).collect();
    let bytes_each = batches[0].encoded_bytes() as u64;
    let count = megabytes * 1_000_000 / bytes_each;

    let written = written_bytes(&env);
    let (answer, answers) = mpsc::channel();
    let (mut waiting, mut busy, mut latencies) = (0, 0u64, Vec::new());
    let started = env.clock.now();
    let mut second = started;
    for number in 0..count {
        loop {
            let (answer, clock, sent) = (answer.clone(), env.clock.clone(), env.clock.now());
            let done = Box::new(move |outcome| {
                let _ = answer.send((outcome, clock.now() - sent));
            });
            partition.append(LeaderEpoch(1), batches[(number % 16) as usize].clone(), done);
            waiting += 1;
            let mut again = false;
            while waiting >= in_flight || again {
                let (outcome, took) = answers.recv().unwrap();
                waiting -= 1;
                match outcome {
                    Ok(_) => latencies.push(took),
                    Err(AppendError::Busy) => again = true,
                    Err(error) => panic!("{error}"),
                }
                if again {
                    busy += 1;
                    std::thread::park_timeout(Duration::from_millis(1));
                    break;
                }
            }
            if !again {
                break;
            }
        }
        if env.clock.now() - second > Duration::from_secs(1) {
            second = env.clock.now();
            println!("{:?}", log.stats());
        }
    }
    while waiting > 0 {
        let (outcome, took) = answers.recv().unwrap();
        waiting -= 1;
        if outcome.is_ok() {
            latencies.push(took);
        }
    }
    let produced = rate(latencies.len() as u64 * bytes_each, env.clock.now() - started);
    let written = (written_bytes(&env) - written) as f64 / (latencies.len() as u64 * bytes_each) as f64;
    println!("written per byte: {written:.2}");
    latencies.sort_unstable();
    let percentile = |of: usize| latencies[(latencies.len() - 1) * of / 1_000];
    println!(
        "append: {produced:.0} MB/s, {:.2} of the disk; p50 {:.1?} p99 {:.1?} max {:.1?}; busy {busy} times",
        produced / disk,
        percentile(500),
        percentile(990),
        percentile(1_000),
    );

    let started = env.clock.now();
    let (mut from, mut bytes) = (partition.start(), 0);
    loop {
        let read = partition.read(from, Offset::MAX, 1 << 20).unwrap();
        let Some(last) = read.last() else { break };
        from = last.next_offset();
        bytes += read.iter().map(|batch| batch.encoded_bytes() as u64).sum::<u64>();
    }
    println!("read: {:.0} MB/s", rate(bytes, env.clock.now() - started));
    let started = env.clock.now();
    log.close().unwrap();
    println!("close: {:.1?}", env.clock.now() - started);
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

/// What the kernel has accounted to this process.
fn written_bytes(env: &Env) -> u64 {
    let mut text = [0; 512];
    let file = env.disk.open(Path::new("/proc/self/io"), OpenMode::Read).unwrap();
    let count = file.read_at(&mut text, 0).unwrap();
    let text = String::from_utf8_lossy(&text[..count]).into_owned();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).map_or(0, |bytes| bytes.parse().unwrap())
}

fn random_batch(env: &Env, kib: usize) -> Batch {
    let limits = Limits::default();
    let mut builder = BatchBuilder::new(Compression::None, limits);
    for _ in 0..kib {
        let value: Vec<u8> = (0..128).flat_map(|_| env.random.next_u64().to_le_bytes()).collect();
        builder.push(None, Some(&value), &[], Timestamp(env.clock.wall_ms())).unwrap();
    }
    builder.build()
}

fn disk_rate(env: &Env, dir: &Path, megabytes: u64) -> f64 {
    env.disk.create_dir_all(dir).unwrap();
    let path = dir.join("disk-rate");
    let file = env.disk.open(&path, OpenMode::CreateOrOpen).unwrap();
    file.set_len(0).unwrap();
    let block: Vec<u8> = (0..(1 << 17)).flat_map(|_| env.random.next_u64().to_le_bytes()).collect();
    let started = env.clock.now();
    let count = megabytes * 1_000_000 / block.len() as u64;
    for number in 0..count {
        file.write_all_at(&block, number * block.len() as u64).unwrap();
        file.sync_data().unwrap();
    }
    let measured = rate(count * block.len() as u64, env.clock.now() - started);
    env.disk.remove_file(&path).unwrap();
    measured
}

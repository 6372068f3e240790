//! What the log does with synced entries beside what the disk does with synced writes of the same sizes.
//!
//! `cargo run --release -p goulette-wal --example wal_throughput -- [FOLDER] [MEGABYTES]`

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use goulette_env::{Env, OpenMode};
use goulette_wal::{AppendError, Committed, Entry, Payload, Sink, SyncPolicy, Wal, WalError, WalOptions};

/// Counts the completed entries.
struct Count(mpsc::Sender<usize>);

impl Sink<()> for Count {
    fn committed(&mut self, entries: &mut Vec<Committed<()>>) {
        // Nobody listens any more at the very end.
        let _ = self.0.send(entries.len());
    }

    fn failed(&mut self, _tags: Vec<()>, error: &WalError) {
        eprintln!("{error}");
    }
}

#[allow(clippy::disallowed_methods, reason = "a program that measures")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let megabytes: usize = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let dir = base.join(format!("wal-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    println!("{megabytes} MB each, in {}", dir.display());
    for (name, size) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let count = (megabytes << 20) / size;
        let raw_count = count.min(2_000);
        for (kind, reuse) in [("a growing file", false), ("blocks written before", true)] {
            let took = raw_writes(&dir, size, raw_count, reuse)?;
            print_line(&format!("raw {name:>6}, fdatasync each, {kind}"), size * raw_count, took);
        }
        for (kind, sync) in [("always", SyncPolicy::Always), ("never", SyncPolicy::Never)] {
            for round in ["new segments", "recycled"] {
                let (took, stats) = wal_writes(&dir, size, count, sync)?;
                print_line(&format!("wal {name:>6}, sync {kind}, {round}"), size * count, took);
                println!(
                    "{:>50} {} groups, {} KiB each, sync {:?} on average",
                    "",
                    stats.groups,
                    stats.bytes / stats.groups.max(1) / 1024,
                    stats.sync_time_total / (stats.syncs.max(1) as u32)
                );
            }
        }
        std::fs::remove_dir_all(dir.join("wal"))?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn print_line(what: &str, bytes: usize, took: Duration) {
    println!("{what:<50} {:>8.1} MB/s", bytes as f64 / 1e6 / took.as_secs_f64());
}

#[allow(clippy::disallowed_methods, reason = "a program that measures")]
fn raw_writes(dir: &Path, size: usize, count: usize, reuse: bool) -> std::io::Result<Duration> {
    let env = Env::real();
    let path = dir.join("raw");
    let file = env.disk.open(&path, OpenMode::CreateNew)?;
    let buffer = noise(size);
    if reuse {
        for index in 0..count {
            file.write_all_at(&buffer, (index * size) as u64)?;
        }
        file.sync_data()?;
    }
    let start = Instant::now();
    for index in 0..count {
        file.write_all_at(&buffer, (index * size) as u64)?;
        file.sync_data()?;
    }
    let took = start.elapsed();
    env.disk.remove_file(&path)?;
    Ok(took)
}

#[allow(clippy::disallowed_methods, reason = "a program that measures")]
fn wal_writes(
    dir: &Path,
    size: usize,
    count: usize,
    sync: SyncPolicy,
) -> Result<(Duration, goulette_wal::WalStats), Box<dyn std::error::Error>> {
    let options = WalOptions { sync, ..WalOptions::default() };
    let (done, completed) = mpsc::channel();
    let from = None;
    let recovery = Wal::<()>::recover(&Env::real(), &dir.join("wal"), options, from, &mut |_| Ok(()))?;
    let wal = Wal::open(recovery, Box::new(Count(done)))?;
    // What earlier rounds wrote is not needed: their segments are this round's.
    wal.recycle_before(wal.end());
    let payload = Bytes::from(noise(size));
    let start = Instant::now();
    let mut outstanding = 0;
    for _ in 0..count {
        let mut entry = Entry { kind: 1, payload: Payload::from(payload.clone()), tag: () };
        while let Err(error) = wal.append(entry) {
            match error {
                AppendError::Busy(back) => entry = back,
                other => return Err(other.to_string().into()),
            }
            outstanding -= completed.recv()?;
        }
        outstanding += 1;
    }
    while outstanding > 0 {
        outstanding -= completed.recv()?;
    }
    let took = start.elapsed();
    let stats = wal.stats();
    wal.close()?;
    Ok((took, stats))
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

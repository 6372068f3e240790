//! `goulette bench storage`: the storage engine without network, beside the disk's own limit.
//!
//! One thread appends, round the partitions, as long as fewer than the allowed appends are on their way; an append counts
//! when its sync has returned. Bytes written are what the kernel accounts to this process, from the first measured append
//! to the end of a forced checkpoint: WAL, fragments, indexes and checkpoint together.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use goulette_env::Env;
use goulette_log::{AppendError, Log, LogOptions, Partition, Retention};
use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, PartitionId, PartitionIndex, Timestamp, TopicId, TopicName};
use serde::Serialize;

use super::{
    disk::{self, FileKind},
    mb_per_s, now, round,
    values::Values,
};
use crate::{
    cli::{StorageFlags, StorageLoads},
    exit::Failure,
    output::{Output, Table, print, print_json},
};

/// What a steady topic keeps, and what every log has had before it is measured.
const KEPT_BYTES: u64 = 2 << 30;
const FIRST_BYTES: u64 = 3 << 30;
/// Payload that may be on its way, and appends at least.
const IN_FLIGHT_BYTES: usize = 8 << 20;
const IN_FLIGHT_MIN: usize = 256;
/// Size of the writes that measure the disk, and for how long they go on.
const LIMIT_WRITE_BYTES: usize = 1 << 20;
const LIMIT_DURATION: Duration = Duration::from_millis(700);

/// What is appended: batches of `per_batch` records, each of `record_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    record_bytes: usize,
    per_batch: usize,
    partitions: u32,
}

impl Load {
    /// How many appends are kept on their way.
    fn in_flight(self) -> usize {
        (IN_FLIGHT_BYTES / (self.record_bytes * self.per_batch)).max(IN_FLIGHT_MIN)
    }
}

/// Records of 100 B come as a producer gathers them; larger ones alone, which is the hardest for us.
const MATRIX: [(usize, usize); 3] = [(100, 160), (1 << 10, 1), (64 << 10, 1)];
const PARTITIONS: [u32; 3] = [1, 100, 1000];
const STEADY: Load = Load { record_bytes: 1 << 10, per_batch: 256, partitions: 1 };

/// The result of one measurement.
#[derive(Debug, Serialize)]
struct Figures {
    load: &'static str,
    record_bytes: usize,
    records_per_batch: usize,
    partitions: u32,
    in_flight: usize,
    payload_bytes: u64,
    mb_per_s: f64,
    records_per_s: f64,
    disk_mb_per_s: f64,
    share_of_disk: f64,
    written_per_byte: f64,
}

pub(crate) fn run(flags: &StorageFlags) -> Result<(), Failure> {
    let failed = |error: String| {
        Failure::failed(format_args!("cannot measure in {}: {error}", flags.dir.display()))
            .hint("name a writable folder with -dir; the loads need up to 10 GiB there")
    };
    let bench = Bench::new(flags);
    let mut all = Vec::new();
    if flags.loads != StorageLoads::Steady {
        for (record_bytes, per_batch) in MATRIX {
            for partitions in PARTITIONS {
                let load = Load { record_bytes, per_batch, partitions };
                all.push(bench.in_folder(|dir| bench.warm(dir, load)).map_err(failed)?);
            }
        }
    }
    if flags.loads != StorageLoads::Matrix {
        all.extend(bench.in_folder(|dir| bench.steady(dir)).map_err(failed)?);
    }
    match flags.output {
        Output::Json => print_json(&all),
        Output::Text => print(&table(&all).to_string()),
    }
}

struct Bench {
    env: Env,
    dir: PathBuf,
    bytes: u64,
    values: Values,
}

impl Bench {
    fn new(flags: &StorageFlags) -> Self {
        let env = Env::real();
        let values = Values::new(&*env.random, 64 << 10);
        Self { env, dir: flags.dir.clone(), bytes: flags.bytes, values }
    }

    /// Runs in a new folder, and removes it also after an error.
    fn in_folder<T>(&self, run: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
        let dir = self.dir.join(format!(".goulette-bench-storage.{}", std::process::id()));
        let result = run(&dir);
        remove_tree(&dir);
        result
    }

    /// A load into a log whose WAL has its segments already, as every broker's has that has run for a minute; the
    /// fragments grow.
    fn warm(&self, dir: &Path, load: Load) -> Result<Figures, String> {
        let (log, partitions) = self.open(dir, load, Retention::FOREVER)?;
        let first = (FIRST_BYTES.min(3 * self.bytes) / (load.record_bytes * load.per_batch) as u64).max(1);
        append(&partitions, &self.batch(load)?, first, load.in_flight())?;
        log.flush().and_then(|()| log.checkpoint()).map_err(|error| error.to_string())?;
        let figures = self.measure("warm", dir, &log, &partitions, load, self.bytes, FileKind::Preallocated)?;
        log.close().map_err(|error| error.to_string())?;
        Ok(figures)
    }

    /// Fills a topic beyond what it keeps, and measures on: then every byte goes into a block that has been written before.
    fn steady(&self, dir: &Path) -> Result<Vec<Figures>, String> {
        let retention = Retention { age: None, bytes: Some(KEPT_BYTES) };
        let (log, partitions) = self.open(dir, STEADY, retention)?;
        let mut all = Vec::new();
        for (name, bytes, kind) in [
            ("first pass", FIRST_BYTES.min(3 * self.bytes), FileKind::Growing),
            ("steady", KEPT_BYTES.min(2 * self.bytes), FileKind::Preallocated),
        ] {
            all.push(self.measure(name, dir, &log, &partitions, STEADY, bytes, kind)?);
        }
        log.close().map_err(|error| error.to_string())?;
        Ok(all)
    }

    fn open(&self, dir: &Path, load: Load, retention: Retention) -> Result<(Log, Vec<Arc<Partition>>), String> {
        let options = LogOptions { retention_interval: Duration::from_millis(100), ..LogOptions::default() };
        let (log, _) = Log::open(self.env.clone(), dir, options).map_err(|error| error.to_string())?;
        let topic: TopicName = "bench".parse().expect("the name is allowed");
        let id = TopicId(self.env.random.next_id());
        let mut partitions = Vec::new();
        for index in 0..load.partitions {
            let id = PartitionId { topic: id, index: PartitionIndex(index) };
            let partition = log.create_partition(id, &topic).map_err(|error| error.to_string())?;
            partition.set_retention(retention);
            partitions.push(partition);
        }
        Ok((log, partitions))
    }

    #[allow(clippy::too_many_arguments, reason = "one call, one line of the table")]
    fn measure(
        &self,
        name: &'static str,
        dir: &Path,
        log: &Log,
        partitions: &[Arc<Partition>],
        load: Load,
        bytes: u64,
        kind: FileKind,
    ) -> Result<Figures, String> {
        let batch = self.batch(load)?;
        let batches = bytes.div_ceil((load.record_bytes * load.per_batch) as u64);
        let limit_before = self.limit(dir, kind)?;
        let written_before = written_bytes()?;
        let begun = now();
        append(partitions, &batch, batches, load.in_flight())?;
        let seconds = begun.elapsed().as_secs_f64();
        log.flush().and_then(|()| log.checkpoint()).map_err(|error| error.to_string())?;
        let written = written_bytes()? - written_before;
        let limit = (limit_before + self.limit(dir, kind)?) / 2.0;
        let records = batches * load.per_batch as u64;
        let payload_bytes = records * load.record_bytes as u64;
        let reached = mb_per_s(payload_bytes, seconds);
        Ok(Figures {
            load: name,
            record_bytes: load.record_bytes,
            records_per_batch: load.per_batch,
            partitions: load.partitions,
            in_flight: load.in_flight(),
            payload_bytes,
            mb_per_s: reached,
            records_per_s: round(records as f64 / seconds),
            disk_mb_per_s: round(limit),
            share_of_disk: round(reached / limit),
            written_per_byte: round(written as f64 / payload_bytes as f64),
        })
    }

    /// What the disk itself does now, in MB/s.
    fn limit(&self, dir: &Path, kind: FileKind) -> Result<f64, String> {
        let path = dir.join(".limit");
        let mut bench = disk::Bench { env: self.env.clone(), path, file_bytes: 256 << 20, duration: LIMIT_DURATION };
        let figures = bench.measure(kind, LIMIT_WRITE_BYTES);
        // Also after an error: the log must not find it.
        let _ = bench.env.disk.remove_file(&bench.path);
        figures.map(|figures| figures.mb_per_s).map_err(|error| error.to_string())
    }

    fn batch(&self, load: Load) -> Result<Batch, String> {
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        for number in 0..load.per_batch {
            let value = self.values.get(number as u64).slice(..load.record_bytes);
            builder.push(None, Some(&value), &[], Timestamp(0)).map_err(|error| error.to_string())?;
        }
        Ok(builder.build())
    }
}

/// Shared with the engine's threads.
struct Flight {
    appends: AtomicUsize,
    /// The engine asked to be left alone for a moment; the append was not taken.
    busy: AtomicBool,
    failed: Mutex<Option<String>>,
    appender: Thread,
}

/// Appends so many batches, round the partitions, and returns when all are durable.
fn append(partitions: &[Arc<Partition>], batch: &Batch, batches: u64, in_flight: usize) -> Result<(), String> {
    let flight = Arc::new(Flight {
        appends: AtomicUsize::new(0),
        busy: AtomicBool::new(false),
        failed: Mutex::default(),
        appender: std::thread::current(),
    });
    let mut round = partitions.iter().cycle();
    for _ in 0..batches {
        wait_below(&flight, in_flight)?;
        let Some(partition) = round.next() else { return Err("there is no partition".into()) };
        loop {
            let heard = flight.clone();
            flight.appends.fetch_add(1, Ordering::AcqRel);
            let done = Box::new(move |outcome: Result<_, AppendError>| {
                match outcome {
                    Ok(_) => {}
                    Err(AppendError::Busy) => heard.busy.store(true, Ordering::Release),
                    Err(error) => note(&heard.failed, error.to_string()),
                }
                // One wake-up for many: the appender has then room for as many.
                let left = heard.appends.fetch_sub(1, Ordering::AcqRel) - 1;
                if left == in_flight / 2 || left == 0 {
                    heard.appender.unpark();
                }
            });
            partition.append(LeaderEpoch(1), batch.clone(), done);
            if !flight.busy.swap(false, Ordering::AcqRel) {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    wait_below(&flight, 1)
}

fn wait_below(flight: &Flight, appends: usize) -> Result<(), String> {
    while flight.appends.load(Ordering::Acquire) >= appends {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let failed = flight.failed.lock().expect("nobody panics while holding it").take();
    failed.map_or(Ok(()), Err)
}

fn note(failed: &Mutex<Option<String>>, error: String) {
    failed.lock().expect("nobody panics while holding it").get_or_insert(error);
}

/// Bytes that the kernel has accounted to this process as written to disks.
fn written_bytes() -> Result<u64, String> {
    const PATH: &str = "/proc/self/io";
    #[allow(clippy::disallowed_methods, reason = "the kernel's own counters are no file of the engine")]
    let counters = std::fs::read_to_string(PATH).map_err(|error| format!("{PATH}: {error}"))?;
    let line = counters.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).ok_or_else(|| format!("{PATH} tells no write_bytes"))
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's own folder")]
fn remove_tree(dir: &Path) {
    // It may never have been made.
    let _ = std::fs::remove_dir_all(dir);
}

fn table(all: &[Figures]) -> Table {
    let mut table = Table::new(&[
        "load",
        "record bytes",
        "per batch",
        "partitions",
        "in flight",
        "MB/s",
        "records/s",
        "disk MB/s",
        "share",
        "written per byte",
    ]);
    for figures in all {
        table.row([
            figures.load.to_owned(),
            figures.record_bytes.to_string(),
            figures.records_per_batch.to_string(),
            figures.partitions.to_string(),
            figures.in_flight.to_string(),
            format!("{:.1}", figures.mb_per_s),
            format!("{:.0}", figures.records_per_s),
            format!("{:.1}", figures.disk_mb_per_s),
            format!("{:.2}", figures.share_of_disk),
            format!("{:.2}", figures.written_per_byte),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_appended_whole_and_its_bytes_are_counted() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let env = Env::real();
        let values = Values::new(&*env.random, 64 << 10);
        let bench = Bench { env, dir: folder.path().to_owned(), bytes: 1 << 20, values };
        let load = Load { record_bytes: 100, per_batch: 10, partitions: 3 };
        let dir = folder.path().join("log");
        let (log, partitions) = bench.open(&dir, load, Retention::FOREVER).unwrap();
        append(&partitions, &bench.batch(load).unwrap(), 100, 7).unwrap();
        assert_eq!(partitions.iter().map(|partition| partition.end().0).collect::<Vec<_>>(), [340, 330, 330]);
        log.close().unwrap();
        assert!(written_bytes().unwrap() > 0);
    }
}

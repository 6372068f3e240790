//! How long a killed log takes to be ready again, beside what the disk alone takes for the same bytes; and what many
//! partitions cost: to make, in memory, in open files.
//!
//! `cargo run --release -p goulette-log --example recovery DIR PARTITIONS MEGABYTES`, once per size: fills DIR (which must
//! not exist) in a process of its own, kills that, and opens DIR in another one. With `kill DIR PARTITIONS` it only appends for
//! a while and kills. `make bench-recovery` runs it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement: what fails should stop it")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use goulette_env::{Env, OpenMode};
use goulette_log::{AppendError, Identity, Inspection, Log, LogOptions, Partition};
use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, PartitionId, PartitionIndex, Timestamp, TopicId};

/// Partitions of one topic.
const TOPIC_PARTITIONS: u32 = 100;
/// Appends on their way.
const IN_FLIGHT: usize = 512;
/// How long appends go on to a log that is full, before it is killed.
const AFTERMATH: Duration = Duration::from_secs(3);

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map_or(1_000, |text| text.parse::<u64>().unwrap());
    match arguments.first().map(String::as_str) {
        Some("fill") => fill(Path::new(&arguments[1]), number(2) as u32, number(3)),
        Some("kill") => drop(fill_and_kill(&arguments[1], &number(2).to_string(), "0")),
        Some("open") => open(Path::new(&arguments[1])),
        Some(dir) => measure(dir, &number(1).to_string(), &number(2).to_string()),
        None => eprintln!("recovery DIR PARTITIONS MEGABYTES"),
    }
}

fn measure(dir: &str, partitions: &str, megabytes: &str) {
    let this = fill_and_kill(dir, partitions, megabytes);
    let disk = disk_alone(Path::new(dir));
    let opened = Command::new(&this).args(["open", dir]).output().unwrap();
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let text = String::from_utf8(opened.stdout).unwrap();
    print!("{text}");
    let ready: f64 =
        text.lines().find_map(|line| line.strip_prefix("ready after ")?.split(' ').next()?.parse().ok()).unwrap();
    println!("beyond the disk's own time to read the tail: {:.2} s", ready - disk.as_secs_f64());
}

/// Returns this program's path.
fn fill_and_kill(dir: &str, partitions: &str, megabytes: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let mut filling =
        Command::new(&this).args(["fill", dir, partitions, megabytes]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(filling.stdout.take().unwrap()).lines();
    for line in lines.map(Result::unwrap).take_while(|line| line != "full") {
        println!("{line}");
    }
    std::thread::sleep(AFTERMATH);
    filling.kill().unwrap();
    filling.wait().unwrap();
    this
}

/// Syncs what the killed process left, and reads the WAL's tail from the disk. Returns the time for the reading.
fn disk_alone(dir: &Path) -> Duration {
    let started = Instant::now();
    assert!(Command::new("sync").arg("-f").arg(dir).status().unwrap().success());
    let synced = started.elapsed();
    let env = Env::real();
    let wal = Inspection::open(&env, dir).unwrap().contents().wal;
    let (Some(from), Some(end)) = (wal.from, wal.end) else { panic!("there is no WAL") };
    let (mut bytes, mut took) = (0, Duration::ZERO);
    for segment in from.segment..=end.segment {
        let path = dir.join("wal").join(goulette_log::segment_name(segment));
        let Ok(file) = env.disk.open(&path, OpenMode::Read) else { continue };
        file.drop_cache(0, 0).unwrap();
        let mut position = if segment == from.segment { from.offset.into() } else { 0 };
        let last = if segment == end.segment { end.offset.into() } else { file.len().unwrap() };
        let mut buffer = vec![0; 1 << 20];
        let started = Instant::now();
        while position < last {
            position += file.read_at(&mut buffer, position).unwrap() as u64;
        }
        took += started.elapsed();
        bytes += last;
    }
    println!(
        "disk alone: syncs what the process left in {:.2} s, reads the tail ({} MB) in {:.2} s",
        synced.as_secs_f64(),
        bytes / 1_000_000,
        took.as_secs_f64()
    );
    took
}

fn open(dir: &Path) {
    let env = Env::real();
    let began = env.clock.now();
    let (log, report) = Log::open(env.clone(), dir, LogOptions::default()).unwrap();
    let took = env.clock.now() - began;
    println!("took {} ms of processor time", processor_ms());
    println!(
        "ready after {:.2} s: {} partitions, {} MB, of which {} entries with {} MB were replayed",
        took.as_secs_f64(),
        log.partitions().len(),
        log.partitions().iter().map(|partition| partition.bytes()).sum::<u64>() / 1_000_000,
        report.entries,
        report.bytes / 1_000_000
    );
    assert_eq!(report.lost, None);
    print_process();
    log.close().unwrap();
}

fn fill(dir: &Path, count: u32, megabytes: u64) {
    let env = Env::real();
    Identity::open(&env, dir, &"bench".parse().unwrap()).unwrap();
    let (log, _) = Log::open(env.clone(), dir, LogOptions::default()).unwrap();
    let began = Instant::now();
    let partitions = create(&log, count);
    println!("made {count} partitions, {:.0} a second", f64::from(count) / began.elapsed().as_secs_f64());

    let batches: Vec<_> = (0..16).map(|_| random_batch(&env, 16)).collect();
    let total = megabytes * 1_000_000 / batches[0].encoded_bytes() as u64;
    let mut load = Load::new(partitions);
    let began = Instant::now();
    for number in 0..total {
        load.append(number, &batches[number as usize % batches.len()]);
    }
    let rate = megabytes as f64 / began.elapsed().as_secs_f64();
    load.latencies.sort_unstable();
    let percentile = |of: usize| {
        load.latencies.get(load.latencies.len().saturating_sub(1) * of / 10_000).copied().unwrap_or_default()
    };
    println!(
        "appended {megabytes} MB, {rate:.0} MB/s; latency p50 {:.1?} p99 {:.1?} p99.99 {:.1?} max {:.1?}",
        percentile(5_000),
        percentile(9_900),
        percentile(9_999),
        percentile(10_000)
    );
    print_process();
    println!("full");
    load.latencies.clear();
    let small = random_batch(&env, 1);
    for number in 0.. {
        load.append(number, &small);
    }
}

/// Makes the partitions from several threads, as a broker's calls do.
fn create(log: &Log, count: u32) -> Vec<Arc<Partition>> {
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let (topic, index) = (number / TOPIC_PARTITIONS, number % TOPIC_PARTITIONS);
                    let id = PartitionId { topic: TopicId(1 + u128::from(topic)), index: PartitionIndex(index) };
                    log.create_partition(id, &format!("topic-{topic}").parse().unwrap()).unwrap();
                }
            });
        }
    });
    log.partitions()
}

/// Appends on their way, over all partitions in turn.
struct Load {
    partitions: Vec<Arc<Partition>>,
    answer: mpsc::Sender<(u64, Result<(), AppendError>, Duration)>,
    answers: mpsc::Receiver<(u64, Result<(), AppendError>, Duration)>,
    waiting: usize,
    latencies: Vec<Duration>,
}

impl Load {
    fn new(partitions: Vec<Arc<Partition>>) -> Self {
        let (answer, answers) = mpsc::channel();
        Self { partitions, answer, answers, waiting: 0, latencies: Vec::new() }
    }

    fn append(&mut self, number: u64, batch: &Batch) {
        self.send(number, batch);
        while self.waiting >= IN_FLIGHT {
            let (number, outcome, took) = self.answers.recv().unwrap();
            self.waiting -= 1;
            match outcome {
                Ok(()) => self.latencies.push(took),
                Err(AppendError::Busy) => {
                    std::thread::sleep(Duration::from_millis(1));
                    self.send(number, batch);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn send(&mut self, number: u64, batch: &Batch) {
        let partition = &self.partitions[number as usize % self.partitions.len()];
        let (answer, sent) = (self.answer.clone(), Instant::now());
        let done = Box::new(move |outcome: Result<_, _>| {
            let _ = answer.send((number, outcome.map(drop), sent.elapsed()));
        });
        partition.append(LeaderEpoch(1), batch.clone(), done);
        self.waiting += 1;
    }
}

/// What this process has used, user and system, so far.
fn processor_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
}

/// Memory and open files of this process.
fn print_process() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!("resident {} MiB (peak {} MiB), {files} open files", field("VmRSS:") / 1024, field("VmHWM:") / 1024);
}

fn random_batch(env: &Env, kib: usize) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    for _ in 0..kib {
        let mut value = vec![0; 1_000];
        value
            .chunks_mut(8)
            .for_each(|chunk| chunk.copy_from_slice(&env.random.next_u64().to_be_bytes()[..chunk.len()]));
        builder.push(None, Some(&value), &[], Timestamp(env.clock.wall_ms())).unwrap();
    }
    builder.build()
}

//! `goulette bench`: how fast it is, and how fast the disk beneath it is.

mod consume;
mod disk;
mod failover;
mod produce;
mod storage;
mod values;

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::{cli::BenchCommand, exit::Failure};

pub(crate) async fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Produce(flags) => produce::run(flags).await,
        BenchCommand::Consume(flags) => consume::run(flags).await,
        // Blocks this thread, and nothing else runs.
        BenchCommand::Disk(flags) => disk::run(&flags),
        BenchCommand::Storage(flags) => storage::run(&flags),
        BenchCommand::Failover(flags) => failover::run(flags).await,
    }
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// For latencies in nanoseconds, up to ten minutes, to three digits.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(600_000_000_000, 3).expect("the bounds are allowed")
}

/// Millions of bytes a second.
fn mb_per_s(bytes: u64, seconds: f64) -> f64 {
    round(bytes as f64 / 1e6 / seconds)
}

/// To three digits behind the point: more would be noise.
fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

//! Flags of `goulette bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use goulette_client::{Compression, ProducerOptions};
use goulette_types::{Acks, TopicName};

use super::HostPort;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Send records as fast as they are acknowledged
    Produce(ProduceFlags),
    /// Read records as fast as they come
    Consume(ConsumeFlags),
    /// Write to the disk as a log does: sequentially, each write followed by a sync
    Disk(DiskFlags),
    /// Append to the storage engine alone, without network: throughput beside the disk's own, and bytes written per byte
    ///
    /// Every append is synced before it counts. Beside each load stands what the disk itself did just before and just after
    /// with writes of 1 MiB into a preallocated, once-written file, each followed by a sync.
    Storage(StorageFlags),
    /// Kill leaders, and stop them: how long nothing is acknowledged
    ///
    /// Starts a sentinel and three brokers of its own on this machine, with default settings, and a producer with acks=all.
    /// Measured are the times from `kill -9` of the leader to the ack of the first record sent after it, and the longest
    /// pause between two acks while a leader is stopped with SIGTERM.
    Failover(FailoverFlags),
}

#[derive(Args, Debug)]
pub(crate) struct ProduceFlags {
    #[command(flatten)]
    pub(crate) target: TargetFlags,

    /// Records to send
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: u64,

    /// Size of each record's value, in bytes: random, so that nothing can compress it
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=(64 << 20)))]
    pub(crate) size: u32,

    /// Partitions of the topic, if it is created now
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: u32,

    /// When a record counts as acknowledged: all, leader or none
    #[arg(long, default_value = "all")]
    pub(crate) acks: Acks,

    /// Records that may be unacknowledged, beside the library's bound of 64 MiB
    #[arg(long, value_name = "RECORDS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) window: u32,

    /// Size at which a batch is closed, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = ProducerOptions::default().batch_bytes as u32, value_parser = clap::value_parser!(u32).range(1024..=(8 << 20)))]
    pub(crate) batch_bytes: u32,

    /// How long a batch waits for more records, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = ProducerOptions::default().linger.as_millis() as u64, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub(crate) linger_ms: u64,

    /// Compression of batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,
}

#[derive(Args, Debug)]
pub(crate) struct ConsumeFlags {
    #[command(flatten)]
    pub(crate) target: TargetFlags,

    /// Records to read, from the beginning [default: all that the topic holds now]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct TargetFlags {
    /// Sentinels, comma-separated
    #[arg(long, value_name = "HOST:PORT,..", default_value = "127.0.0.1:50052", value_delimiter = ',')]
    pub(crate) sentinel: Vec<HostPort>,

    /// Topic
    #[arg(long, default_value = "bench")]
    pub(crate) topic: TopicName,

    /// How to print: a table, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct DiskFlags {
    /// Folder to write in; the files are removed afterwards
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// How long each of the six measurements lasts, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) duration_ms: u64,

    /// Size of the preallocated file, and the most that a growing one reaches, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 36)))]
    pub(crate) file_bytes: u64,

    /// How to print: a table, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct FailoverFlags {
    /// Folder for the brokers' data; what is made there is removed afterwards
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// How often the leader is killed
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) kills: u32,

    /// How often the leader is stopped
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) stops: u32,

    /// How to print: a table, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct StorageFlags {
    /// Folder to write in; what is made there is removed afterwards
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// Payload bytes of each load; the steady state takes 3 GiB before it is measured
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 40)))]
    pub(crate) bytes: u64,

    /// Loads to run: matrix, steady or all
    #[arg(long, default_value = "all")]
    pub(crate) loads: StorageLoads,

    /// How to print: a table, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

/// Which loads `goulette bench storage` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StorageLoads {
    /// Records of 100 B, 1 KiB and 64 KiB into 1, 100 and 1,000 partitions
    Matrix,
    /// Large batches into one partition that keeps 2 GiB, once it has had 3 GiB
    Steady,
    /// Both
    All,
}

//! Flags of `goulette log`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use goulette_types::{Offset, TopicName};

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show batches one by one: offsets, leader epoch, codec, producer, times, and where they stand
    ///
    /// Partition by partition those in fragments, then in the order of their appends those that are only in the
    /// write-ahead log. What is damaged between them is shown in its place.
    Dump(DumpFlags),
    /// Check everything that counts, and name each damage with file and byte; exit code 1 if there is any
    ///
    /// Reads broker.json, the checkpoint, the write-ahead log behind it, and every batch of every fragment: checksum,
    /// continuity of the offsets, leader epoch. Index files must be those of their fragment; one that is missing is made
    /// anew when it is needed.
    Verify(DirFlags),
    /// Show partitions, offsets, fragments, bytes, and what a start would replay
    Stats(DirFlags),
}

#[derive(Args, Debug)]
pub(crate) struct DirFlags {
    /// The data folder of a broker that does not run
    #[arg(value_name = "DATA-DIR")]
    pub(crate) dir: PathBuf,

    /// How to print: for people, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct DumpFlags {
    #[command(flatten)]
    pub(crate) dir: DirFlags,

    /// Only this topic [default: all]
    #[arg(long)]
    pub(crate) topic: Option<TopicName>,

    /// Only the partition with this number [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) partition: Option<u32>,

    /// Begin with the batch that holds this offset
    #[arg(long, value_name = "OFFSET", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=Offset::MAX.0))]
    pub(crate) from: u64,

    /// Show so many batches [default: all]
    #[arg(long, value_name = "BATCHES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Show the records too
    #[arg(long)]
    pub(crate) records: bool,
}

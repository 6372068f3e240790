//! Flags of `goulette cluster` and `goulette oplog`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{KeyValue, moves::RebalanceFlags, topic::ClusterFlags};

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show sentinels, brokers, where the metadata is, and what is wrong
    Status(StatusFlags),
    /// Write all metadata to a file of JSON lines, to move it to another mode or cluster
    ///
    /// Topics, partitions, settings and the operation log; records stay where they are, on the brokers.
    Export(ExportFlags),
    /// Read an exported file into a cluster that has no topics yet
    ///
    /// The cluster keeps its own id: a sentinel of the same -cluster-id as before lets brokers return with all they hold.
    Import(ImportFlags),
    /// Make topics of partitions that brokers hold and the metadata does not know
    ///
    /// cluster status shows them. Nothing that a broker holds is ever deleted because metadata is missing.
    Adopt(AdoptFlags),
    /// Move partitions so that all live brokers have their share; for brokers that were added
    Rebalance(RebalanceFlags),
}

#[derive(Args, Debug)]
pub(crate) struct StatusFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct ExportFlags {
    /// The file to write, which must not exist; - is standard output
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct ImportFlags {
    /// The file that cluster export wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct AdoptFlags {
    /// Topic ids, 32 hexadecimal digits each, as cluster status shows them; none: all that are unknown
    #[arg(value_name = "TOPIC-ID")]
    pub(crate) topic_ids: Vec<String>,

    /// Another name for a topic whose remembered one is taken, as ID=NAME; may be repeated [default: none]
    #[arg(long, value_name = "ID=NAME")]
    pub(crate) name: Vec<KeyValue>,

    /// Go on although partitions between the held ones are nowhere: they begin empty
    #[arg(long)]
    pub(crate) missing_may_be_empty: bool,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct OplogFlags {
    /// Show operations from this id on, oldest first [default: the newest ones]
    #[arg(long, value_name = "ID")]
    pub(crate) from: Option<u64>,

    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

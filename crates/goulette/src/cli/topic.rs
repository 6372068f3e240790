//! Flags of `goulette topic`.

use clap::{Args, Subcommand};
use goulette_types::TopicName;

use super::{HostPort, KeyValue};
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic
    Create(CreateFlags),
    /// List all topics
    List(ListFlags),
    /// Show a topic's partitions, who leads them, and what they hold
    Describe(DescribeFlags),
    /// Change a topic's settings, or add partitions
    Alter(AlterFlags),
    /// Delete a topic and all its records, for ever
    Delete(DeleteFlags),
}

#[derive(Args, Debug)]
pub(crate) struct ClusterFlags {
    /// Sentinels, comma-separated
    #[arg(long, value_name = "HOST:PORT,..", default_value = "127.0.0.1:50052", value_delimiter = ',')]
    pub(crate) sentinel: Vec<HostPort>,

    /// How to print: a table, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct CreateFlags {
    /// Topic, 1 to 249 of A-Z a-z 0-9 . _ -
    pub(crate) name: TopicName,

    /// Number of partitions [default: the sentinel's -default-partitions, usually 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,

    /// Replicas wanted of each partition [default: the cluster's, usually 3]; there are at most as many as brokers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replication_factor: Option<u32>,

    /// A setting of this topic, as fragment_ms=3600000; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) config: Vec<KeyValue>,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct ListFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct DescribeFlags {
    /// Topic
    pub(crate) name: TopicName,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct AlterFlags {
    /// Topic
    pub(crate) name: TopicName,

    /// New number of partitions, which can only grow [default: unchanged]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,

    /// Replicas wanted of each partition, added or removed by and by [default: unchanged]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replication_factor: Option<u32>,

    /// A setting to set, as fragment_ms=3600000; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) config: Vec<KeyValue>,

    /// A setting to give back its default; may be repeated [default: none]
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteFlags {
    /// Topic
    pub(crate) name: TopicName,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

//! Flags of `goulette sentinel`.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use goulette_types::{ClusterId, SentinelId};

use super::{AdminAddress, ConfigFlag, HostPort, ListenAddress, LoggingFlags, MembershipCommand, StoreFlags};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SentinelFlags {
    #[command(subcommand)]
    pub(crate) membership: Option<MembershipCommand>,

    /// Name in the cluster, 1 to 64 of A-Z a-z 0-9 . _ -; the data folder remembers it
    #[arg(long, default_value = "sentinel1")]
    pub(crate) id: SentinelId,

    /// Address to listen on, host:port; :port is every interface (there is no TLS yet)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50052")]
    pub(crate) address: ListenAddress,

    /// Address that brokers and clients dial, host:port [default: the address; for every interface, the one of the default route]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<HostPort>,

    /// Address of the admin port (HTTP: /metrics, /livez, /readyz), host:port; off: none [default: port 50062: 127.0.0.1 and the address's port + 10]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_address: Option<AdminAddress>,

    /// Folder of the metadata, made if it is missing [default: data/sentinel_<id>]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,

    /// Create a topic at its first use
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) auto_create_topics: bool,

    /// Partitions of a topic that is created without a number
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) default_partitions: u32,

    /// Replicas wanted of each partition of a topic that is created without a number
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) default_replication_factor: u32,

    /// Id of a new cluster, 32 hexadecimal digits [default: a random one]; a cluster that exists keeps its own
    #[arg(long, value_name = "ID")]
    pub(crate) cluster_id: Option<ClusterId>,

    #[command(flatten)]
    pub(crate) store: StoreFlags,

    #[command(flatten)]
    pub(crate) config: ConfigFlag,

    #[command(flatten)]
    pub(crate) logging: LoggingFlags,
}

impl SentinelFlags {
    /// The folder of the metadata.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from(format!("data/sentinel_{}", self.id)))
    }
}

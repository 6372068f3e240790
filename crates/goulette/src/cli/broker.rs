//! Flags of `goulette broker`.

use std::path::PathBuf;

use clap::Args;
use goulette_types::BrokerId;

use super::{AdminAddress, BrokerCommand, ConfigFlag, HostPort, ListenAddress, LoggingFlags, RackName, SyncChoice};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BrokerFlags {
    #[command(subcommand)]
    pub(crate) command: Option<BrokerCommand>,

    /// Name in the cluster, 1 to 64 of A-Z a-z 0-9 . _ -; the data folder remembers it
    #[arg(long, default_value = "broker1")]
    pub(crate) id: BrokerId,

    /// Address to listen on, host:port; :port is every interface (there is no TLS yet)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub(crate) address: ListenAddress,

    /// Address that clients dial, host:port [default: the address; for every interface, the one of the default route]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<HostPort>,

    /// Address of the admin port (HTTP: /metrics, /livez, /readyz), host:port; off: none [default: port 50061: 127.0.0.1 and the address's port + 10]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_address: Option<AdminAddress>,

    /// Folder of the data, made if it is missing [default: data/<id>]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,

    /// Sentinels, comma-separated
    #[arg(long, value_name = "HOST:PORT,..", default_value = "127.0.0.1:50052", value_delimiter = ',')]
    pub(crate) sentinel: Vec<HostPort>,

    /// Where it stands (rack, room, zone; at most 100 bytes): replicas of a partition avoid each other's racks [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) rack: Option<RackName>,

    /// Its share of new partitions beside the other brokers', 1 to 100
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) weight: u32,

    /// When a record counts as stored: always (after a sync, before the ack), interval:MS (a sync follows within MS milliseconds: a power cut may lose acknowledged records), never
    #[arg(long, value_name = "POLICY", default_value = "always")]
    pub(crate) sync: SyncChoice,

    /// Largest record, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=(1 << 29)))]
    pub(crate) record_bytes_max: u32,

    /// Largest batch of records, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = clap::value_parser!(u32).range(1024..=(1 << 29)))]
    pub(crate) batch_bytes_max: u32,

    /// Batches are refused while fewer bytes are free on the disk [default: two WAL segments and 1 % of the volume, which counts as 64 MiB to 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) disk_free_bytes_min: Option<u64>,

    /// Bytes of old fragments that are read in a second, at most, to see whether they are sound; 0: none
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    pub(crate) scrub_bytes_per_second: u64,

    /// Bytes of old fragments that are read in a second, at most, for each follower that catches up
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) catch_up_bytes_per_second: u32,

    #[command(flatten)]
    pub(crate) config: ConfigFlag,

    #[command(flatten)]
    pub(crate) logging: LoggingFlags,
}

impl BrokerFlags {
    /// The folder of the data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from("data").join(self.id.as_str()))
    }
}

//! What a broker can be told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use goulette_log::{LogOptions, REMEMBERED_BATCHES};
use goulette_records::Limits;
use goulette_types::BrokerId;

/// A broker's settings, as data. [`new`](Self::new) gives every field but the first four its default.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// The broker's name in the cluster; its data directory remembers it.
    pub id: BrokerId,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The `host:port` that clients and sentinels dial; empty: the address that is listened on.
    pub advertise: String,
    /// Where the admin port listens (HTTP: metrics, health); port 0 takes a free one. Default: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where it stands: replicas of one partition are put on distinct racks while there are enough. At most 100 bytes;
    /// default: nowhere in particular.
    pub rack: Option<String>,
    /// Its share of new partitions beside the others', 1 to 100. Default 1.
    pub weight: u32,
    /// The folder of the log and of the broker's identity.
    pub data_dir: PathBuf,
    /// The sentinels' addresses (`host:port`), tried in turn.
    pub sentinels: Vec<String>,
    /// The storage engine's settings.
    pub log: LogOptions,
    /// How large records and batches may be.
    pub limits: Limits,
    /// Batches that a producer may have unanswered per partition, announced as the grant. At most
    /// [`REMEMBERED_BATCHES`], so that the log recognises each of them when it is sent again; that is the default too.
    pub batches_in_flight: u32,
    /// Bytes of batches that may be between the socket and the disk, over all producers; when they are used up, the
    /// broker stops reading from producers. At least one batch always fits. Default 128 MiB.
    pub produce_bytes_max: u32,
    /// Streams and calls at the same time, over all connections. Default 10,000.
    pub calls_max: u32,
    /// Reads from disk at the same time. Default 4.
    pub disk_reads_max: u32,
    /// A follower that has not held all of its leader's log for so long leaves the in-sync replicas. Default 5 s.
    pub replica_lag_max: Duration,
    /// Bytes per second that are read from fragments for each follower that has fallen behind, so that catching up does not
    /// starve producers. Default 64 MiB.
    pub catch_up_bytes_per_second: u32,
    /// How long a stop waits for streams and calls to end before it cuts them off; closing the log comes on top.
    /// Default 7 s.
    pub stop_deadline: Duration,
}

impl BrokerOptions {
    /// Options with the defaults, for a broker `id` that listens on `listen` and keeps its data in `data_dir`.
    pub fn new(id: BrokerId, listen: SocketAddr, data_dir: PathBuf, sentinels: Vec<String>) -> Self {
        Self {
            id,
            listen,
            advertise: String::new(),
            admin: None,
            rack: None,
            weight: 1,
            data_dir,
            sentinels,
            log: LogOptions::default(),
            limits: Limits::default(),
            batches_in_flight: REMEMBERED_BATCHES as u32,
            produce_bytes_max: 128 << 20,
            calls_max: 10_000,
            disk_reads_max: 4,
            replica_lag_max: Duration::from_secs(5),
            catch_up_bytes_per_second: 64 << 20,
            stop_deadline: Duration::from_secs(7),
        }
    }
}

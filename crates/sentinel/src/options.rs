//! What a sentinel can be told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use goulette_types::{ClusterId, SentinelId};

use crate::plan::{PARTITIONS_MAX, REPLICATION_FACTOR_MAX};

/// Options of a sentinel.
#[derive(Clone, Debug)]
pub struct SentinelOptions {
    /// Its id.
    pub id: SentinelId,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Where others reach it, `host:port`, if that is not the listening address.
    pub advertise: Option<String>,
    /// Where the admin port listens (HTTP: metrics, health); port 0 takes a free one. Default: nowhere.
    pub admin: Option<SocketAddr>,
    /// Its folder, made if absent.
    pub data_dir: PathBuf,
    /// The cluster to make, or to insist on; without it the first start draws an id.
    pub cluster_id: Option<ClusterId>,
    /// Whether a topic that a client asks for is created. Default: yes.
    pub auto_create_topics: bool,
    /// Partitions of a topic that does not say. Default: 1.
    pub default_partitions: u32,
    /// Replicas wanted by a topic that does not say; stored when the cluster is made. Default: 3.
    pub default_replication_factor: u32,
    /// How long a broker may be silent before it counts as down. Default: 6 s.
    pub session: Duration,
    /// How often brokers are to be heard. Default: 1 s.
    pub heartbeat: Duration,
}

impl SentinelOptions {
    /// The defaults.
    pub fn new(id: SentinelId, address: SocketAddr, data_dir: PathBuf) -> Self {
        Self {
            id,
            address,
            advertise: None,
            admin: None,
            data_dir,
            cluster_id: None,
            auto_create_topics: true,
            default_partitions: 1,
            default_replication_factor: 3,
            session: Duration::from_secs(6),
            heartbeat: Duration::from_secs(1),
        }
    }

    /// Every mistake in the options, as sentences; empty if there is none.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !(1..=PARTITIONS_MAX).contains(&self.default_partitions) {
            mistakes.push(format!("default partitions must be 1 to {PARTITIONS_MAX}, not {}", self.default_partitions));
        }
        if !(1..=REPLICATION_FACTOR_MAX).contains(&self.default_replication_factor) {
            mistakes.push(format!(
                "default replication factor must be 1 to {REPLICATION_FACTOR_MAX}, not {}",
                self.default_replication_factor
            ));
        }
        if self.heartbeat.is_zero() || self.session < 3 * self.heartbeat {
            mistakes.push("a session must last at least three heartbeats".to_owned());
        }
        mistakes
    }
}

//! `/goulette/brokers/<id>`: a broker that has ever registered.

use goulette_types::{BrokerId, Incarnation, StorageId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const FOLDER: &str = "brokers";

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// Where clients and other brokers reach it: `host:port`.
    pub address: String,
    /// Its last registered start.
    #[serde(with = "codec::text")]
    pub incarnation: Incarnation,
    /// The disk that it came with.
    #[serde(with = "codec::text")]
    pub storage: StorageId,
    /// Whether it may lead.
    pub state: BrokerState,
    /// Since when it is in that state.
    #[serde(rename = "since_ms", with = "codec::timestamp")]
    pub since: Timestamp,
    /// The release that it runs.
    pub release: String,
    /// Its share of partitions beside the others'.
    #[serde(default = "codec::one", skip_serializing_if = "codec::is_one")]
    pub weight: u32,
    /// Replicas of one partition avoid each other's racks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Whether it follows and feeds others; else it is given partitions of which it holds the only replica.
    #[serde(default, skip_serializing_if = "codec::is_false")]
    pub replicates: bool,
    /// This start of it is about to stop: it leads only where nobody else can.
    #[serde(default, skip_serializing_if = "codec::is_false")]
    pub hands_over: bool,
    /// Its disk does not confirm what is written: it leads only where nobody else can.
    #[serde(default, skip_serializing_if = "codec::is_false")]
    pub hangs: bool,
    /// What an operator has ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// The operation that changed this last.
    #[serde(with = "codec::text")]
    pub operation: OperationId,
}

/// Whether a broker may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerState {
    /// Registered, and heard of in time.
    Live,
    /// Silent for a session, and not answering a probe.
    Down,
    /// Unregistered itself before it stopped.
    Left,
}

/// An operator's order to move everything away from a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Whether it is forgotten once it holds nothing.
    pub remove: bool,
    /// Who takes its place; absent: whom the ring says.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "codec::optional_text")]
    pub replacement: Option<BrokerId>,
}

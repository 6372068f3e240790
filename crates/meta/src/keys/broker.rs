//! `/goulette/brokers/<id>`: a broker that has ever registered.

use goulette_types::{Incarnation, StorageId, Timestamp};
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

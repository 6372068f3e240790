//! `/goulette/topics/<name>`: a topic that exists.

use std::collections::BTreeMap;

use goulette_types::{Timestamp, TopicId};
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const FOLDER: &str = "topics";

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Never reused.
    #[serde(with = "codec::text")]
    pub id: TopicId,
    /// How many partitions it has. The topic is usable once each of them has its key.
    pub partitions: u32,
    /// Replicas that each partition wants; it may have fewer while there are too few brokers.
    pub replication_factor: u32,
    /// What differs from the defaults.
    pub config: BTreeMap<String, String>,
    /// When the topic was made.
    #[serde(rename = "created_at_ms", with = "codec::timestamp")]
    pub created_at: Timestamp,
    /// What the caller named its request to create it, so that a repetition is recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The operation that changed this last.
    #[serde(with = "codec::text")]
    pub operation: OperationId,
}

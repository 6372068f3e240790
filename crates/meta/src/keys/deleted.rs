//! `/goulette/deleted/<topic id>`: that a topic was deleted on purpose.
//!
//! A broker that was away then is told when it comes back. What is merely unknown is never deleted.

use goulette_types::{Timestamp, TopicName};
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const FOLDER: &str = "deleted";

/// A deleted topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRecord {
    /// The name that it had.
    #[serde(with = "codec::text")]
    pub name: TopicName,
    /// When it was deleted.
    #[serde(rename = "at_ms", with = "codec::timestamp")]
    pub at: Timestamp,
    /// The operation that deleted it.
    #[serde(with = "codec::text")]
    pub operation: OperationId,
}

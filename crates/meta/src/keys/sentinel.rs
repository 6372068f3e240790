//! `/goulette/sentinels/<id>`: a sentinel that runs, and `/goulette/sentinel/leader`: the one that leads. Both end with their
//! writer's lease.

use goulette_types::{Incarnation, SentinelId, Timestamp};
use serde::{Deserialize, Serialize};

use super::codec;

pub(super) const FOLDER: &str = "sentinels";
pub(super) const LEADER: &str = "sentinel/leader";

/// A sentinel that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentinelRecord {
    /// Its id.
    #[serde(with = "codec::text")]
    pub id: SentinelId,
    /// Where others reach it: `host:port`.
    pub address: String,
    /// This start of it.
    #[serde(with = "codec::text")]
    pub incarnation: Incarnation,
    /// When it started.
    #[serde(rename = "started_at_ms", with = "codec::timestamp")]
    pub started_at: Timestamp,
    /// The release that it runs.
    pub release: String,
}

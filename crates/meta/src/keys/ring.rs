//! `/goulette/ring`: the hash ring as of one operation, written by whoever drops operations before it.

use std::collections::BTreeMap;

use goulette_types::BrokerId;
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const NAME: &str = "ring";

/// The brokers that take part in placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingRecord {
    /// Their shares and racks.
    #[serde(with = "codec::keyed")]
    pub members: BTreeMap<BrokerId, RingMember>,
    /// The last operation that is in here.
    #[serde(with = "codec::text")]
    pub operation: OperationId,
}

/// A broker on the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingMember {
    /// Its share beside the others'.
    pub weight: u32,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
}

//! `/goulette/partitions/<topic id>/<n>`: who holds a partition, and who leads it.

use goulette_types::{
    BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, PartitionId, PartitionIndex, StorageId, TopicId,
};
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const FOLDER: &str = "partitions";

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// The brokers that are to hold it.
    #[serde(with = "codec::texts")]
    pub replicas: Vec<BrokerId>,
    /// The disks that hold everything that is committed.
    pub isr: Vec<InSync>,
    /// Who leads; `None` after an election that found nobody.
    pub leader: Option<Leader>,
    /// Rises with each leadership.
    #[serde(with = "codec::leader_epoch")]
    pub leader_epoch: LeaderEpoch,
    /// Rises with each change of this key.
    #[serde(with = "codec::partition_epoch")]
    pub partition_epoch: PartitionEpoch,
    /// The operation that changed this last.
    #[serde(with = "codec::text")]
    pub operation: OperationId,
}

/// A member of the in-sync replicas: a broker with one particular disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSync {
    /// The broker.
    #[serde(with = "codec::text")]
    pub broker: BrokerId,
    /// Its disk: the same broker with another one holds nothing.
    #[serde(with = "codec::text")]
    pub storage: StorageId,
}

/// A leader: one start of one broker. The broker's next start leads nothing until it is elected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The broker.
    #[serde(with = "codec::text")]
    pub broker: BrokerId,
    /// Its start.
    #[serde(with = "codec::text")]
    pub incarnation: Incarnation,
}

pub(super) fn parse(rest: &str) -> Option<PartitionId> {
    let (topic, index) = rest.split_once('/')?;
    let index: u32 = index.parse().ok().filter(|number: &u32| number.to_string() == index)?;
    Some(PartitionId { topic: topic.parse::<TopicId>().ok()?, index: PartitionIndex(index) })
}

//! `/goulette/partitions/<topic id>/<n>`: who holds a partition, who is in sync, and who leads.

use goulette_types::{
    BrokerId, Incarnation, LeaderEpoch, Offset, PartitionEpoch, PartitionId, PartitionIndex, StorageId, TopicId,
};
use serde::{Deserialize, Serialize};

use super::{OperationId, codec};

pub(super) const FOLDER: &str = "partitions";

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// The brokers that are to hold it, the preferred leader first.
    #[serde(with = "codec::texts")]
    pub replicas: Vec<BrokerId>,
    /// The disks that hold everything that is committed.
    pub isr: Vec<InSync>,
    /// Those that held everything that was committed when the ISR fell below the minimum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eligible: Vec<InSync>,
    /// Who leads; `None` after an election that found nobody.
    pub leader: Option<Leader>,
    /// Rises with each leadership.
    #[serde(with = "codec::leader_epoch")]
    pub leader_epoch: LeaderEpoch,
    /// Rises with each change of this key.
    #[serde(with = "codec::partition_epoch")]
    pub partition_epoch: PartitionEpoch,
    /// The minimum in force: nothing is committed with fewer in-sync replicas.
    #[serde(default = "codec::one", skip_serializing_if = "codec::is_one")]
    pub min_insync_replicas: u32,
    /// The minimum wanted by the topic; absent: the majority of the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_wanted: Option<u32>,
    /// The epoch begun by the last election that may have lost committed records; 0 for none.
    #[serde(default = "no_epoch", skip_serializing_if = "is_no_epoch", with = "codec::leader_epoch")]
    pub unclean_epoch: LeaderEpoch,
    /// A move to other replicas that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// Set while the stored ISR is not believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<InDoubt>,
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

/// A move to other replicas: those of both lists hold the partition until all of the new ones are in sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The replicas before.
    #[serde(with = "codec::texts")]
    pub from: Vec<BrokerId>,
    /// The replicas wanted, the preferred leader first.
    #[serde(with = "codec::texts")]
    pub to: Vec<BrokerId>,
}

/// Why the stored ISR is not believed: a replica has seen a later state. What the replicas hold is gathered here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InDoubt {
    /// The highest leader epoch seen by a replica.
    #[serde(with = "codec::leader_epoch")]
    pub leader_epoch: LeaderEpoch,
    /// The highest partition epoch seen by a replica.
    #[serde(with = "codec::partition_epoch")]
    pub partition_epoch: PartitionEpoch,
    /// What the replicas have reported.
    pub reports: Vec<ReportedEnd>,
}

/// Where a replica's log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedEnd {
    /// The broker.
    #[serde(with = "codec::text")]
    pub broker: BrokerId,
    /// Its disk.
    #[serde(with = "codec::text")]
    pub storage: StorageId,
    /// The epoch of its last batch; 0 for an empty log.
    #[serde(with = "codec::leader_epoch")]
    pub epoch: LeaderEpoch,
    /// The first unwritten offset.
    #[serde(with = "codec::offset")]
    pub end: Offset,
}

fn no_epoch() -> LeaderEpoch {
    LeaderEpoch(0)
}

fn is_no_epoch(epoch: &LeaderEpoch) -> bool {
    epoch.0 == 0
}

pub(super) fn parse(rest: &str) -> Option<PartitionId> {
    let (topic, index) = rest.split_once('/')?;
    let index: u32 = index.parse().ok().filter(|number: &u32| number.to_string() == index)?;
    Some(PartitionId { topic: topic.parse::<TopicId>().ok()?, index: PartitionIndex(index) })
}

//! `/goulette/operations/<20 digits>`: the log of what was decided, each entry written together with its effect.

use std::{fmt, str::FromStr};

use goulette_types::{BrokerId, ClusterId, Incarnation, PartitionIndex, StorageId, Timestamp, TopicId, TopicName};
use serde::{Deserialize, Serialize};

use super::codec;

pub(super) const FOLDER: &str = "operations";

/// An operation's number, from 1 and without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

impl fmt::Display for OperationId {
    /// 20 digits, so that the order of the texts is the order of the numbers.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:020}", self.0)
    }
}

impl FromStr for OperationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Self(number)),
            _ => Err(format!("an operation id is 20 digits, not {text:?}")),
        }
    }
}

/// An entry of the operation log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// When it was decided.
    #[serde(rename = "at_ms", with = "codec::timestamp")]
    pub at: Timestamp,
    /// What the caller named its request, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What was decided.
    #[serde(flatten)]
    pub operation: Operation,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase")]
pub enum Operation {
    /// The first sentinel made the cluster.
    CreateCluster {
        /// Its id.
        #[serde(with = "codec::text")]
        cluster_id: ClusterId,
    },
    /// A broker takes part in placement: one that was not known before, or with another share or rack.
    AddBrokerToHashRing {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
        /// Its share of partitions beside the others'.
        #[serde(default = "codec::one", skip_serializing_if = "codec::is_one")]
        weight: u32,
        /// Replicas of one partition avoid each other's racks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rack: Option<String>,
    },
    /// A broker was removed on an operator's order.
    RemoveBrokerFromHashRing {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
    },
    /// Leaders proposed other in-sync replicas.
    ChangeInSyncReplicas {
        /// The leader.
        #[serde(with = "codec::text")]
        broker: BrokerId,
        /// Of how many partitions in this transaction.
        partitions: u32,
    },
    /// A broker that is about to stop, or whose disk hangs, hands its leaderships over.
    HandOver {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
        /// How many in this transaction.
        partitions: u32,
    },
    /// Leaders were elected: after a change that an earlier sentinel left half done, or to restore the preferred ones.
    ElectLeaders {
        /// Of how many partitions in this transaction.
        partitions: u32,
    },
    /// An operator let a replica lead that may lack committed records.
    ElectLeaderUnclean {
        /// The partition's topic.
        #[serde(with = "codec::text")]
        topic_id: TopicId,
        /// The partition.
        #[serde(with = "codec::partition_index")]
        partition: PartitionIndex,
        /// The replica.
        #[serde(with = "codec::text")]
        broker: BrokerId,
    },
    /// Partitions began to move to other replicas, went on, were finished or cancelled.
    ReassignPartitions {
        /// How many in this transaction.
        partitions: u32,
    },
    /// An operator ordered everything away from a broker, or took that back.
    DrainBroker {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
        /// Whether the order stands.
        ordered: bool,
    },
    /// Partitions that brokers hold became known again.
    AdoptPartitions {
        /// Their topic's id.
        #[serde(with = "codec::text")]
        topic_id: TopicId,
        /// Its name.
        #[serde(with = "codec::text")]
        topic: TopicName,
        /// How many in this transaction.
        partitions: u32,
    },
    /// Metadata was taken over from elsewhere.
    ImportMetadata {
        /// The generation that this began.
        generation: u64,
    },
    /// A broker's new start registered, and was elected where it holds the data.
    RegisterBroker {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
        /// Its start.
        #[serde(with = "codec::text")]
        incarnation: Incarnation,
        /// Its disk.
        #[serde(with = "codec::text")]
        storage: StorageId,
        /// Partitions that it was elected for in this transaction.
        elected: u32,
    },
    /// A broker left in order.
    UnregisterBroker {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
        /// Its start.
        #[serde(with = "codec::text")]
        incarnation: Incarnation,
    },
    /// Brokers did not answer and count as down.
    HandleUnreachableBrokers {
        /// Which.
        #[serde(with = "codec::texts")]
        brokers: Vec<BrokerId>,
    },
    /// A topic was made.
    CreateTopic {
        /// Its id.
        #[serde(with = "codec::text")]
        topic_id: TopicId,
        /// Its name.
        #[serde(with = "codec::text")]
        topic: TopicName,
        /// How many partitions it is to have.
        partitions: u32,
    },
    /// Partitions were placed.
    GenerateTopicReplicas {
        /// Whose.
        #[serde(with = "codec::text")]
        topic_id: TopicId,
        /// The first one.
        #[serde(with = "codec::partition_index")]
        first: PartitionIndex,
        /// Where: the replicas of each partition from the first on, the preferred leader first.
        #[serde(default, with = "codec::lists")]
        replicas: Vec<Vec<BrokerId>>,
    },
    /// A topic's config or partition count was changed.
    AlterTopic {
        /// Its id.
        #[serde(with = "codec::text")]
        topic_id: TopicId,
        /// Its name.
        #[serde(with = "codec::text")]
        topic: TopicName,
    },
    /// A topic was deleted; brokers delete its data.
    DeleteTopic {
        /// Its id.
        #[serde(with = "codec::text")]
        topic_id: TopicId,
        /// The name that it had.
        #[serde(with = "codec::text")]
        topic: TopicName,
    },
}

impl Operation {
    /// The name that it is stored under: `registerBroker`.
    pub fn name(&self) -> String {
        let name = serde_json::to_value(self).ok().and_then(|value| Some(value.get("name")?.as_str()?.to_owned()));
        name.unwrap_or_default()
    }
}

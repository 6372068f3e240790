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
    /// A broker came that was not known before: it takes part in placement.
    AddBrokerToHashRing {
        /// Which.
        #[serde(with = "codec::text")]
        broker: BrokerId,
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
        /// Where: one broker for each partition from the first on.
        #[serde(with = "codec::texts")]
        brokers: Vec<BrokerId>,
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

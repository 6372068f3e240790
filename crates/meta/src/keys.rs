//! What is stored where.
//!
//! | key | value |
//! |---|---|
//! | `/goulette/cluster` | [`ClusterRecord`]: id, settings |
//! | `/goulette/topics/<name>` | [`TopicRecord`]: id, partition count, config |
//! | `/goulette/partitions/<topic id>/<n>` | [`PartitionRecord`]: replicas, leader, epochs |
//! | `/goulette/brokers/<id>` | [`BrokerRecord`]: address, incarnation, state |
//! | `/goulette/deleted/<topic id>` | [`DeletedRecord`]: that the topic was deleted, on purpose |
//! | `/goulette/operations/<20 digits>` | [`OperationRecord`]: who changed what |
//! | `/goulette/increment/<name>` | [`CounterRecord`]: the next number |
//! | `/goulette/ring` | [`RingRecord`]: the hash ring as of one operation |
//! | `/goulette/sentinels/<id>` | [`SentinelRecord`]: a sentinel that runs |
//! | `/goulette/sentinel/leader` | [`SentinelRecord`]: the one that leads |
//!
//! A value is one JSON object with its format's `version`; each but a counter or a sentinel names the `operation` that changed it
//! last. An older binary refuses a newer version by name and ignores fields that it does not know.

use bytes::Bytes;
use goulette_types::{BrokerId, ErrorKind, PartitionId, SentinelId, TopicId, TopicName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use broker::{BrokerRecord, BrokerState, Leaving};
pub use cluster::ClusterRecord;
pub use counter::{Counter, CounterRecord};
pub use deleted::DeletedRecord;
pub use operation::{Operation, OperationId, OperationRecord};
pub use partition::{InDoubt, InSync, Leader, Moving, PartitionRecord, ReportedEnd};
pub use ring::{RingMember, RingRecord};
pub use sentinel::SentinelRecord;
pub use topic::TopicRecord;

mod broker;
mod cluster;
mod codec;
mod counter;
mod deleted;
mod operation;
mod partition;
mod ring;
mod sentinel;
mod topic;

/// Everything of ours begins so.
pub const PREFIX: &str = "/goulette/";

/// The version of every value's format so far.
const VERSION: u32 = 1;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The cluster as a whole.
    Cluster,
    /// A topic.
    Topic(TopicName),
    /// A partition.
    Partition(PartitionId),
    /// A broker.
    Broker(BrokerId),
    /// A topic that was deleted.
    Deleted(TopicId),
    /// An entry of the operation log.
    Operation(OperationId),
    /// A counter.
    Counter(Counter),
    /// The hash ring.
    Ring,
    /// A sentinel that runs.
    Sentinel(SentinelId),
    /// The sentinel that leads.
    LeadingSentinel,
}

impl Key {
    /// The key as it is stored.
    pub fn path(&self) -> String {
        let rest = match self {
            Key::Cluster => cluster::NAME.to_owned(),
            Key::Topic(name) => format!("{}/{name}", topic::FOLDER),
            Key::Partition(id) => format!("{}/{id}", partition::FOLDER),
            Key::Broker(id) => format!("{}/{id}", broker::FOLDER),
            Key::Deleted(id) => format!("{}/{id}", deleted::FOLDER),
            Key::Operation(id) => format!("{}/{id}", operation::FOLDER),
            Key::Counter(counter) => format!("{}/{counter}", counter::FOLDER),
            Key::Ring => ring::NAME.to_owned(),
            Key::Sentinel(id) => format!("{}/{id}", sentinel::FOLDER),
            Key::LeadingSentinel => sentinel::LEADER.to_owned(),
        };
        format!("{PREFIX}{rest}")
    }

    /// The inverse of [`path`](Self::path); `None` for a path that this binary does not know.
    pub fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix(PREFIX)?;
        if path == cluster::NAME {
            return Some(Key::Cluster);
        }
        if path == ring::NAME {
            return Some(Key::Ring);
        }
        if path == sentinel::LEADER {
            return Some(Key::LeadingSentinel);
        }
        let (folder, rest) = path.split_once('/')?;
        match folder {
            topic::FOLDER => rest.parse().ok().map(Key::Topic),
            partition::FOLDER => partition::parse(rest).map(Key::Partition),
            broker::FOLDER => rest.parse().ok().map(Key::Broker),
            deleted::FOLDER => rest.parse().ok().map(Key::Deleted),
            operation::FOLDER => rest.parse().ok().map(Key::Operation),
            counter::FOLDER => rest.parse().ok().map(Key::Counter),
            sentinel::FOLDER => rest.parse().ok().map(Key::Sentinel),
            _ => None,
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the key of the same name with its record")]
pub enum Entry {
    Cluster(ClusterRecord),
    Topic(TopicName, TopicRecord),
    Partition(PartitionId, PartitionRecord),
    Broker(BrokerId, BrokerRecord),
    Deleted(TopicId, DeletedRecord),
    Operation(OperationId, OperationRecord),
    Counter(Counter, CounterRecord),
    Ring(RingRecord),
    Sentinel(SentinelId, SentinelRecord),
    LeadingSentinel(SentinelRecord),
}

impl Entry {
    /// Reads what is stored; `None` for a key that this binary does not know.
    ///
    /// # Errors
    /// [`KeyError`], naming the key, if the value is none of ours or of a later version.
    pub fn parse(path: &str, value: &[u8]) -> Result<Option<Self>, KeyError> {
        let Some(key) = Key::parse(path) else { return Ok(None) };
        Ok(Some(match key {
            Key::Cluster => Entry::Cluster(decode(path, value)?),
            Key::Topic(name) => Entry::Topic(name, decode(path, value)?),
            Key::Partition(id) => Entry::Partition(id, decode(path, value)?),
            Key::Broker(id) => Entry::Broker(id, decode(path, value)?),
            Key::Deleted(id) => Entry::Deleted(id, decode(path, value)?),
            Key::Operation(id) => Entry::Operation(id, decode(path, value)?),
            Key::Counter(counter) => Entry::Counter(counter, decode(path, value)?),
            Key::Ring => Entry::Ring(decode(path, value)?),
            Key::Sentinel(id) => Entry::Sentinel(id, decode(path, value)?),
            Key::LeadingSentinel => Entry::LeadingSentinel(decode(path, value)?),
        }))
    }

    /// The entry's key.
    pub fn key(&self) -> Key {
        match self {
            Entry::Cluster(_) => Key::Cluster,
            Entry::Topic(name, _) => Key::Topic(name.clone()),
            Entry::Partition(id, _) => Key::Partition(*id),
            Entry::Broker(id, _) => Key::Broker(id.clone()),
            Entry::Deleted(id, _) => Key::Deleted(*id),
            Entry::Operation(id, _) => Key::Operation(*id),
            Entry::Counter(counter, _) => Key::Counter(*counter),
            Entry::Ring(_) => Key::Ring,
            Entry::Sentinel(id, _) => Key::Sentinel(id.clone()),
            Entry::LeadingSentinel(_) => Key::LeadingSentinel,
        }
    }

    /// The entry's value as it is stored.
    pub fn value(&self) -> Bytes {
        match self {
            Entry::Cluster(record) => encode(record),
            Entry::Topic(_, record) => encode(record),
            Entry::Partition(_, record) => encode(record),
            Entry::Broker(_, record) => encode(record),
            Entry::Deleted(_, record) => encode(record),
            Entry::Operation(_, record) => encode(record),
            Entry::Counter(_, record) => encode(record),
            Entry::Ring(record) => encode(record),
            Entry::Sentinel(_, record) | Entry::LeadingSentinel(record) => encode(record),
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "changes are few and short-lived")]
pub enum Change {
    /// It gets this value.
    Put(Entry),
    /// It goes.
    Delete(Key),
}

impl Change {
    /// The change as a store takes it.
    pub fn write(&self) -> (String, Option<Bytes>) {
        match self {
            Change::Put(entry) => (entry.key().path(), Some(entry.value())),
            Change::Delete(key) => (key.path(), None),
        }
    }
}

/// Why a stored value is not understood.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A later release wrote it.
    #[error("{path} has format {found}, this binary knows formats up to {VERSION}: use a newer binary")]
    Newer {
        /// The key.
        path: String,
        /// The format found.
        found: u32,
    },
    /// Somebody else wrote it, or it is damaged.
    #[error("the value of {path} is not Goulette's")]
    Foreign {
        /// The key.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl KeyError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            KeyError::Newer { .. } => ErrorKind::Unsupported,
            KeyError::Foreign { .. } => ErrorKind::Corrupt,
        }
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn encode<T: Serialize>(record: &T) -> Bytes {
    let versioned = Versioned { version: VERSION, record };
    serde_json::to_vec(&versioned).expect("records have string keys and no failing parts").into()
}

fn decode<T: DeserializeOwned>(path: &str, value: &[u8]) -> Result<T, KeyError> {
    let foreign = |source| KeyError::Foreign { path: path.to_owned(), source };
    let Version { version: found } = serde_json::from_slice(value).map_err(foreign)?;
    if found > VERSION {
        return Err(KeyError::Newer { path: path.to_owned(), found });
    }
    serde_json::from_slice(value).map_err(foreign)
}

#[cfg(test)]
mod tests;

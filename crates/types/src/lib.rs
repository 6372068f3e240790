//! The nouns that every crate shares: names, ids, offsets, epochs and the closed list of error kinds.
//!
//! A value of these types is valid by construction: the edge that reads a flag, a file or the wire parses once
//! (`TryFrom`, `FromStr`), and past it an illegal name or a negative size cannot exist. No I/O, no async, no wire
//! format, no serde: every stored or sent layout is spelt out where it is stored or sent.
//!
//! Start with `name` and `offset`.

mod acks;
mod error_kind;
mod id;
mod name;
mod offset;
mod split_mix;

pub use acks::Acks;
pub use error_kind::ErrorKind;
pub use id::{ClusterId, Incarnation, ParseIdError, PartitionId, ProducerId, StorageId, TopicId};
pub use name::{BrokerId, GroupName, NameError, SentinelId, TopicName};
pub use offset::{LeaderEpoch, Offset, PartitionEpoch, PartitionIndex, ProducerEpoch, Revision, Timestamp};
pub use split_mix::SplitMix64;

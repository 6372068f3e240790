//! Many versions of small values: etcd's data model as a library, one file on one disk.
//!
//! A [`Store`] has one *revision*, which rises by one with each transaction that changes anything. Every key remembers
//! when it was created, when it was last changed and how often. Old revisions stay readable, and their changes can be
//! followed as events, until [`Store::compact`] drops them. A returned write is on stable storage.
//!
//! It refuses to know who asks: no network, no async, no meaning of keys or values. The pages are redb's, its file is
//! reached through [`goulette_env::Disk`] alone.
//!
//! Start with `store`, then `txn`; what is stored is in `revision`.

mod backend;
mod compaction;
mod error;
mod range;
mod revision;
mod store;
mod txn;
mod watch;

pub use backend::{FILE_NAME, RedbFile};
pub use error::{OpenError, ReadError, WriteError};
pub use range::{KeyRange, RangeQuery, RangeResult};
pub use revision::KeyValue;
pub use store::{Listener, Store};
pub use txn::{Compare, Op, OpResult, Relation, Target, Txn, TxnResult};
pub use watch::{Event, EventKind, Events};

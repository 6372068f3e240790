//! The cluster's metadata: what is stored under `/goulette`, and the store that it is stored in.
//!
//! [`MetaStore`] is the one door: get, range, compare-and-set transactions, watch. [`LocalStore`] keeps everything in
//! this process, for one sentinel alone; [`EtcdStore`] keeps it in an etcd cluster that several sentinels share. Keys and
//! their values, JSON that `etcdctl get` prints readably, are in [`keys`], one kind per file.
//!
//! It refuses to know what the metadata is for: who leads, and when that changes, is decided by the sentinel.
//!
//! Start with [`store`], then [`keys`].

mod etcd;
pub mod keys;
mod local;
pub mod store;

pub use etcd::{EtcdOptions, EtcdStore, EtcdTls};
pub use keys::{Change, Entry, Key, KeyError};
pub use local::LocalStore;
pub use store::{
    Answer, Changes, Condition, Guard, KeyChange, LeaseId, MetaError, MetaLeases, MetaStore, MetaTxn, MetaWatch,
    Outcome, Snapshot, Stored,
};

//! The sentinel: tells clients who leads, and brokers what to lead.
//!
//! It keeps the cluster's metadata (in `goulette-meta`), notices which brokers live, places partitions and elects
//! leaders. Brokers and clients speak to it over gRPC; it never sees a record. It refuses to know flags, signals and
//! files other than its own folder.
//!
//! What must be right is in plain structs that only decide: `catalog` (what the metadata says), `plan` (what to
//! write next, one transaction at a time), `membership` (who lives), `placement`. Around them two tasks act: the
//! `controller` owns every write, the `detector` hears brokers and probes them. The gRPC shells are in
//! `service`, what the admin port shows in `watched`, and `node` wires it all. Start with `node`, then `plan`.

mod backing;
mod catalog;
mod controller;
mod detector;
mod election;
mod error;
mod feed;
mod identity;
mod membership;
mod metrics;
mod node;
mod options;
mod partition_state;
mod placement;
mod plan;
mod probe;
mod replay;
mod service;
#[cfg(feature = "sim")]
pub mod simulated;
mod state;
mod topic_config;
mod watched;

pub use error::{Failure, RequestError, StartError};
pub use node::Sentinel;
pub use options::{EtcdMode, EtcdOptions, SentinelOptions, Store, StoreTls};

//! The broker: takes batches in, stores them through the storage engine, and pushes them out again, over gRPC.
//!
//! It leads exactly the partitions that a sentinel has assigned to this start of the process, follows the leaders of others,
//! and tells every other request to look elsewhere. What lies on the disk is the business of `goulette-log`; which broker leads what is
//! decided by the sentinels alone; flags, signals and exit codes belong to the binary. The broker never reads a
//! record: it checks a batch's header and checksum and passes the same bytes on.
//!
//! Start with [`Broker`] (`node`: how the parts are wired, started and stopped), then follow a record: `service/produce`
//! (in), `partition` (who may write, and up to where one may read), `replication` (to the other replicas), `service/fetch` (out). `sentinel_link` is the
//! broker's one connection to the cluster; `watched` is what its admin port shows.

mod applier;
mod assignment;
mod budget;
mod error;
mod farewell;
mod groups;
mod lifecycle;
mod metrics;
mod node;
mod options;
mod partition;
mod reads;
mod registry;
mod replication;
mod sentinel_link;
mod server;
mod service;
mod start_error;
mod sync;
mod topic_settings;
mod watched;

pub use lifecycle::StopReason;
pub use node::Broker;
pub use options::BrokerOptions;
pub use start_error::StartError;

//! Consensus by raft: openraft decides, this module stores, sends and applies for it.
//!
//! Reading order: [`RaftNode`] (`node`: a member, started, as the server sees it; `start`: from what; `watching`: what it
//! does unasked), `core` (what a leader does for itself and for others), `log` and `record` (entries and votes in the WAL),
//! `machine` (how agreed entries reach the state), `network` and `peers` (what is said to other members), `service` (what
//! they say), `read_index` (linearizable reads), `ids` (etcd's ids).

mod core;
mod ids;
mod log;
mod machine;
mod network;
mod node;
mod peers;
mod read_index;
mod record;
mod service;
mod start;
mod told;
mod types;
mod watching;

pub use ids::{cluster_id, member_id};
pub use log::LogError;
pub use node::{RaftEnd, RaftNode};
pub use service::PeerService;
pub use start::{Bootstrap, RaftOptions, RaftStartError, initial_configuration};

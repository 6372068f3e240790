//! An etcd v3 server: what programs that we did not write expect of etcd 3.6, on our disk format and our log.
//!
//! It refuses to know what its keys are for: queues, topics and brokers do not occur here. It runs inside a sentinel, or
//! alone as `goulette etcd`.
//!
//! Reading order: [`consensus`] (how members agree, and the door through which agreed entries come back), [`store`]
//! (revisions, transactions and history: etcd's MVCC with etcd's own buckets as tables), then `service` (one file per
//! gRPC service) and [`error`] (etcd's refusals, letter by letter).

mod auth;
pub mod config;
pub mod consensus;
pub mod error;
mod http;
pub mod lease;
mod metrics;
pub mod node;
pub mod raft;
pub mod server;
mod service;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod tls;
pub mod watch;

pub use auth::{Jwt, JwtError, JwtOptions, TokenKind};
pub use config::Config;
pub use error::EtcdError;
pub use server::{EtcdServer, StartError};

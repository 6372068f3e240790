//! The client library: a [`Producer`], a [`Consumer`] and [`Admin`] calls over one [`Client`].
//!
//! A client knows sentinels; they tell it which broker leads which partition, and it talks to brokers from there on. As
//! long as routes are known it works without a sentinel, and it outlives the restart of any peer: what was sent and not
//! acknowledged is sent again, in order and at most once stored, and a consumer goes on at the record where it was.
//!
//! The crate knows nothing of a broker's or sentinel's inside, prints nothing, and reads no flag or file; it speaks
//! through results, and through `tracing` where a connection changes its state. What must be right about retries is
//! decided in a core without I/O (`producer/core.rs`).
//!
//! Start with [`Client`], then [`Producer`] or [`Consumer`].

mod admin;
mod backoff;
mod client;
mod connection;
mod consumer;
mod error;
mod producer;
mod routes;

pub use admin::{Admin, PartitionOffsets, TopicChange, TopicDescription, TopicSpec};
pub use backoff::Backoff;
pub use client::{Client, ClientOptions};
pub use consumer::{
    ConsumeError, Consumer, ConsumerOptions, ConsumerRecord, Partitions, RecordBatch, ResetPolicy, Start,
};
pub use error::ClientError;
pub use producer::{Delivered, Delivery, Producer, ProducerOptions, ProducerRecord, ProducerStats, SendError};
pub use routes::{Leader, PartitionRoute, TopicRoutes};

pub use goulette_records::{Compression, Record, RecordHeader};

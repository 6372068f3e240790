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
//!
//! ```no_run
//! # use goulette_client::*;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientOptions::for_sentinels("127.0.0.1:50052")).await?;
//! let topic = "greetings".parse()?;
//!
//! let producer = Producer::new(&client, &topic, ProducerOptions::default()).await?;
//! let delivery = producer.send(ProducerRecord::new("hello")).await?;
//! println!("stored at {:?}", delivery.await?.offset);
//! producer.close().await?;
//!
//! let mut consumer = Consumer::new(&client, &topic, ConsumerOptions::default()).await?;
//! while let Some(record) = consumer.next().await? {
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
mod backoff;
mod client;
mod cluster;
mod connection;
mod consumer;
mod error;
mod producer;
mod routes;

pub use admin::{Admin, TopicChange, TopicDescription, TopicSpec};
pub use backoff::Backoff;
pub use client::{Client, ClientOptions, PartitionOffsets};
pub use cluster::{Cluster, ExportError};
pub use consumer::{
    ConsumeError, Consumer, ConsumerOptions, ConsumerRecord, Partitions, RecordBatch, ResetPolicy, Start,
};
pub use error::ClientError;
pub use producer::{Delivered, Delivery, Producer, ProducerOptions, ProducerRecord, ProducerStats, SendError};
pub use routes::{Leader, PartitionRoute, TopicRoutes};

pub use goulette_records::{Compression, Record, RecordHeader};

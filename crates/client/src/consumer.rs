//! Receives records: one stream per partition, on which the broker pushes what the consumer has given credit for.
//!
//! Each partition has a task ([`fetcher`]) that keeps its stream open across restarts and changes of leadership, checks
//! and decodes batches, and hands them over in pieces; [`Consumer`] takes them from there.

mod api;
mod credit;
mod error;
mod fetcher;
mod setup;

pub use api::{Consumer, ConsumerOptions, ConsumerRecord, Partitions, RecordBatch, ResetPolicy, Start};
pub use error::ConsumeError;

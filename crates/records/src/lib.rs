//! Kafka's RecordBatch v2: the one form that records have on the wire, in the WAL and in fragments.
//!
//! A [`Batch`] is a 61-byte [`Header`] and the bytes of its records, compressed or not. The two are kept apart, so that
//! a broker patches base offset and leader epoch without touching a record: Kafka's CRC leaves out exactly these two
//! fields. Brokers check a batch ([`Batch::parse`]) and pass it on as it is; clients build it ([`BatchBuilder`]), take it
//! apart ([`Batch::iter`]) and choose a partition by key ([`partition_for_key`]).
//!
//! This crate knows no file, no socket and no clock. Bytes from outside never panic, no length is believed before it
//! is checked, and no input makes it allocate or work beyond [`Limits`].
//!
//! Start with [`Batch`], then [`Header`] for the layout. Format: Kafka's documentation, "Record Batch".

mod batch;
mod builder;
mod compression;
mod error;
mod header;
mod limits;
mod partitioner;
mod record;
mod varint;

pub use batch::Batch;
pub use builder::{BatchBuilder, PushError};
pub use compression::Compression;
pub use error::BatchError;
pub use header::{Attributes, HEADER_BYTES, Header, LENGTH_PREFIX_BYTES, Producer, RECORDS_MAX};
pub use limits::Limits;
pub use partitioner::{murmur2, partition_for_key};
pub use record::{Record, RecordHeader, Records};

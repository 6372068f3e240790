//! Sends records: appended to the open batch of their partition, sent batch by batch, acknowledged by their broker.
//!
//! [`Producer::send`] appends under one lock ([`accumulator`]) and returns. One task ([`sender`]) owns everything else:
//! it closes batches that are due, asks the [`core`] what to do, and does it over one stream per broker ([`link`]).

mod accumulator;
mod api;
mod core;
mod delivery;
mod error;
mod link;
mod partitioner;
mod sender;
mod window;

pub use accumulator::ProducerStats;
pub use api::{Producer, ProducerOptions, ProducerRecord};
pub use delivery::{Delivered, Delivery};
pub use error::SendError;

//! Numbering idempotent producers.

use goulette_meta::{
    Change, Entry, Key,
    keys::{Counter, CounterRecord},
};
use goulette_types::{ProducerEpoch, ProducerId};

use super::Step;
use crate::{RequestError, catalog::Catalog};

/// The largest epoch: Kafka's batches carry it as a signed 16-bit number.
const EPOCH_MAX: u16 = i16::MAX as u16;
/// The largest id that a batch carries.
const ID_MAX: u64 = i64::MAX as u64;

/// What a producer gets.
#[derive(Debug, PartialEq)]
pub(crate) enum Init {
    /// The next epoch of the id that it has. Nothing is stored: brokers keep the highest epoch that they see.
    Epoch(ProducerId, ProducerEpoch),
    /// A new id, once the step is committed.
    New(ProducerId, Step),
}

/// Answers a producer that has `present`, or nothing yet.
///
/// # Errors
/// [`RequestError::UnknownProducer`] for an id that was never given.
pub(crate) fn init(catalog: &Catalog, present: Option<(ProducerId, ProducerEpoch)>) -> Result<Init, RequestError> {
    let (next, revision) = catalog.counter(Counter::Producer);
    if let Some((id, epoch)) = present {
        if id.0 == 0 || id.0 >= next {
            return Err(RequestError::UnknownProducer { id: id.0 });
        }
        if epoch.0 < EPOCH_MAX {
            return Ok(Init::Epoch(id, ProducerEpoch(epoch.0 + 1)));
        }
        // The epochs are used up: the producer goes on under another id.
    }
    let changes = vec![Change::Put(Entry::Counter(Counter::Producer, CounterRecord { next: next + 1 }))];
    Ok(Init::New(ProducerId(next), Step { guards: vec![(Key::Counter(Counter::Producer), revision)], changes }))
}

/// The change that keeps ids above `seen`, the highest one that a broker has stored; `None` if they are.
pub(crate) fn raise(catalog: &Catalog, seen: u64) -> Result<Option<Change>, RequestError> {
    if seen >= ID_MAX {
        return Err(RequestError::Invalid(format!("producer id {seen} is above the largest one, {ID_MAX}")));
    }
    let (next, _) = catalog.counter(Counter::Producer);
    let raised = CounterRecord { next: seen + 1 };
    Ok((next <= seen).then_some(Change::Put(Entry::Counter(Counter::Producer, raised))))
}

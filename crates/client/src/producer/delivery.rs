//! What became of a record: shared by all the records of a batch.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use goulette_types::{Acks, Offset, PartitionIndex};
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::SendError;

/// Where a record is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: PartitionIndex,
    /// The record's offset. Absent with [`Acks::None`], and in the rare case that the broker recognises a retry but has
    /// forgotten where it stored the original.
    pub offset: Option<Offset>,
    /// The level of safety reached.
    pub acks: Acks,
}

/// The outcome of one record, to come. Dropping it does not take the record back.
#[must_use = "await it, or see `Producer::flush` for the errors of records whose deliveries were dropped"]
pub struct Delivery {
    outcome: Arc<Outcome>,
    /// The record's place in its batch.
    index: u32,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Delivery {
    /// The outcome, if there is one already.
    pub fn try_get(&self) -> Option<Result<Delivered, SendError>> {
        let result = self.outcome.result.get()?.as_ref();
        let delivered = |ack: &Acked| Delivered {
            partition: self.outcome.partition,
            offset: ack.base_offset.map(|base| base.plus(self.index.into())),
            acks: ack.acks,
        };
        Some(result.map(delivered).map_err(SendError::clone))
    }

    /// The partition that the record goes to.
    pub fn partition(&self) -> PartitionIndex {
        self.outcome.partition
    }
}

impl Future for Delivery {
    type Output = Result<Delivered, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(result) = self.try_get() {
                return Poll::Ready(result);
            }
            let Some(waiting) = &mut self.waiting else {
                // Hears every notification from its creation on; so look once more before the first poll.
                self.waiting = Some(Box::pin(Arc::clone(&self.outcome.done).notified_owned()));
                continue;
            };
            match waiting.as_mut().poll(context) {
                Poll::Ready(()) => self.waiting = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Delivery").field("partition", &self.partition()).field("outcome", &self.try_get()).finish()
    }
}

/// What a broker answered for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acked {
    /// The first record's offset.
    pub(crate) base_offset: Option<Offset>,
    /// The broker had it already.
    pub(crate) duplicate: bool,
    /// The level reached.
    pub(crate) acks: Acks,
}

#[derive(Debug)]
struct Outcome {
    partition: PartitionIndex,
    result: OnceLock<Result<Acked, SendError>>,
    done: Arc<Notify>,
}

/// The side that settles a batch's outcome, once. Dropped without that, it settles it as [`SendError::Closed`]: nobody
/// waits for ever.
#[derive(Debug)]
pub(crate) struct Completer {
    outcome: Arc<Outcome>,
    /// What a drop means: once sent, the batch may be stored.
    pub(crate) sent: bool,
}

impl Completer {
    pub(crate) fn new(partition: PartitionIndex) -> Self {
        let outcome = Outcome { partition, result: OnceLock::new(), done: Arc::new(Notify::new()) };
        Self { outcome: Arc::new(outcome), sent: false }
    }

    /// The delivery of the batch's record at `index`.
    pub(crate) fn delivery(&self, index: u32) -> Delivery {
        Delivery { outcome: Arc::clone(&self.outcome), index, waiting: None }
    }

    pub(crate) fn complete(self, result: Result<Acked, SendError>) {
        self.settle(result);
    }

    fn settle(&self, result: Result<Acked, SendError>) {
        if self.outcome.result.set(result).is_ok() {
            self.outcome.done.notify_waiters();
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.settle(Err(match self.sent {
            true => SendError::OutcomeUnknown { reason: "the producer was closed before an answer came".to_owned() },
            false => SendError::Closed,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(base: u64) -> Result<Acked, SendError> {
        Ok(Acked { base_offset: Some(Offset(base)), duplicate: false, acks: Acks::All })
    }

    #[tokio::test]
    async fn each_record_of_a_batch_learns_its_own_offset() {
        let completer = Completer::new(PartitionIndex(2));
        let early = tokio::spawn(completer.delivery(0));
        let late = completer.delivery(5);
        tokio::task::yield_now().await;
        completer.complete(acked(100));
        assert_eq!(early.await.unwrap().unwrap().offset, Some(Offset(100)));
        assert_eq!(late.await.unwrap().offset, Some(Offset(105)));
    }

    #[tokio::test]
    async fn a_delivery_never_waits_for_a_producer_that_is_gone() {
        let mut completer = Completer::new(PartitionIndex(0));
        let delivery = completer.delivery(0);
        completer.sent = true;
        drop(completer);
        assert!(matches!(delivery.await, Err(SendError::OutcomeUnknown { .. })));

        let completer = Completer::new(PartitionIndex(0));
        let delivery = completer.delivery(0);
        drop(completer);
        assert_eq!(delivery.await, Err(SendError::Closed));
    }
}

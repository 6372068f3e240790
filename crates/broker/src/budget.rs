//! How many bytes of batches may be between the socket and the disk.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Charged for each batch on top of its bytes: what the queues and the ack keep for it.
const BATCH_OVERHEAD: u32 = 1024;

/// The process's byte budget for batches that are not yet stored. Waiters are served in the order of their coming, so
/// a large batch is not starved by small ones.
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    bytes_max: u32,
}

/// A share of the budget, given back when dropped.
pub(crate) struct Charge {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(bytes_max: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max }
    }

    /// A share for a batch of `bytes`, if there is room now and nobody waits.
    pub(crate) fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.cost(bytes)).ok()?;
        Some(Charge { _permit: permit })
    }

    /// Waits for a share for a batch of `bytes`.
    pub(crate) fn charge(&self, bytes: usize) -> impl Future<Output = Charge> + Send + use<> {
        let acquire = Arc::clone(&self.free).acquire_many_owned(self.cost(bytes));
        async move { Charge { _permit: acquire.await.expect("the semaphore is never closed") } }
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u32 {
        self.bytes_max - u32::try_from(self.free.available_permits()).unwrap_or(self.bytes_max)
    }

    /// A batch larger than the whole budget takes all of it, alone, rather than waiting for ever.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(BATCH_OVERHEAD).min(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_large_batch_waits_its_turn_and_is_not_overtaken() {
        let budget = Budget::new(10_000);
        let held = budget.try_charge(5_000).unwrap();
        let mut large = std::pin::pin!(budget.charge(8_000));
        assert!(futures_util::FutureExt::now_or_never(large.as_mut()).is_none());
        assert!(budget.try_charge(1).is_none(), "the large batch was there first");
        drop(held);
        let large = large.await;
        assert_eq!(budget.used(), 8_000 + BATCH_OVERHEAD);
        drop(large);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_budget_takes_all_of_it() {
        let budget = Budget::new(2_000);
        let charge = budget.charge(1 << 20).await;
        assert_eq!(budget.used(), 2_000);
        drop(charge);
    }
}

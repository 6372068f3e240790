//! Reads that may wait for the disk, kept off the threads that serve the network.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::RequestError;

/// A few threads for reads from disk; those who find them busy wait in the order of their coming.
pub(crate) struct DiskReads {
    free: Arc<Semaphore>,
}

impl DiskReads {
    pub(crate) fn new(at_once: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(at_once.max(1) as usize)) }
    }

    /// Runs `read` on a thread where it may block.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let run = move || {
            let result = read();
            // Only now: a caller that has gone away does not stop the read that it began.
            drop(permit);
            result
        };
        tokio::task::spawn_blocking(run).await.map_err(|error| RequestError::Internal(error.to_string()))
    }
}

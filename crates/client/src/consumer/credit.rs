//! Bytes that the broker may still push: taken when a batch arrives, given back when the application has it.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::client::lock;

/// The credit of one partition's stream.
#[derive(Debug)]
pub(crate) struct Credit {
    total: u64,
    state: Mutex<State>,
    /// Enough has been given back to be worth a message.
    worthwhile: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Received, and not yet with the application.
    held: u64,
    /// Given back, and not yet granted to the broker again.
    returned: u64,
}

impl Credit {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default(), worthwhile: Notify::new() })
    }

    /// What to grant on a new stream: all but what earlier streams have brought and nobody has taken yet.
    pub(crate) fn open(&self) -> u64 {
        let mut state = lock(&self.state);
        state.returned = 0;
        self.total.saturating_sub(state.held)
    }

    /// A batch of so many bytes has arrived; dropping what is returned gives them back.
    pub(crate) fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        lock(&self.state).held += bytes;
        Held { credit: Arc::clone(self), bytes }
    }

    /// Waits until a good part can be granted again, and takes it for that.
    pub(crate) async fn returned(&self) -> u64 {
        loop {
            {
                let mut state = lock(&self.state);
                if state.returned >= self.threshold() {
                    return std::mem::take(&mut state.returned);
                }
            }
            self.worthwhile.notified().await;
        }
    }

    /// One message for a quarter of the credit: few messages, and the broker never runs dry.
    fn threshold(&self) -> u64 {
        (self.total / 4).max(1)
    }

    fn give_back(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.held -= bytes;
        state.returned += bytes;
        if state.returned >= self.threshold() {
            self.worthwhile.notify_one();
        }
    }
}

/// Credit that a received batch takes.
#[derive(Debug)]
pub(crate) struct Held {
    credit: Arc<Credit>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.credit.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn credit_comes_back_when_batches_are_taken() {
        let credit = Credit::new(1000);
        assert_eq!(credit.open(), 1000);
        let (first, second) = (credit.hold(200), credit.hold(100));
        drop(first);
        let mut returned = std::pin::pin!(credit.returned());
        let early = std::future::poll_fn(|context| Poll::Ready(returned.as_mut().poll(context).is_pending())).await;
        assert!(early, "200 are less than a quarter");
        drop(second);
        assert_eq!(returned.await, 300);
    }

    #[test]
    fn a_new_stream_gets_what_is_not_held() {
        let credit = Credit::new(1000);
        let _held = credit.hold(700);
        drop(credit.hold(300));
        assert_eq!(credit.open(), 300);
        let _too_much = credit.hold(900);
        assert_eq!(credit.open(), 0);
    }
}

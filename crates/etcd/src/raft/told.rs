//! What the log has been told: whoever is refused asks again at once, dozens of times a second.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The same is news again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Texts that are remembered.
const TEXTS_MAX: usize = 64;

/// Remembers what was said, and when.
#[derive(Default)]
pub(crate) struct Told {
    said: Mutex<HashMap<String, Instant>>,
}

impl Told {
    /// Whether a text is to be said; it counts as said then.
    pub(crate) fn is_news(&self, text: &str) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(text).is_some_and(|&at| now < at + AGAIN_AFTER) {
            return false;
        }
        if said.len() >= TEXTS_MAX {
            said.clear();
        }
        said.insert(text.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_a_minute() {
        let told = Told::default();
        assert!(told.is_news("a") && told.is_news("b"));
        assert!(!told.is_news("a"));
        tokio::time::advance(AGAIN_AFTER).await;
        assert!(told.is_news("a") && !told.is_news("a"));
        for number in 0..1_000 {
            assert!(told.is_news(&number.to_string()));
        }
        assert!(told.said.lock().unwrap().len() <= TEXTS_MAX);
    }
}

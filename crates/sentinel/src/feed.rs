//! Follows the metadata that all sentinels share: what each of them writes comes back through here.

use std::sync::Arc;

use goulette_meta::{Changes, MetaError, MetaStore, keys};
use goulette_types::Revision;
use tokio::{sync::mpsc, task::JoinHandle};

/// Answers of the store that may wait to be taken over.
const QUEUE: usize = 16;

/// The changes of everything under the prefix, in order; ends with an error when some are missing.
pub(crate) struct Feed {
    news: mpsc::Receiver<Result<Changes, MetaError>>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Follows from the changes of revision `from` on.
    pub(crate) fn start(store: &Arc<dyn MetaStore>, from: Revision) -> Self {
        let mut watch = store.watch(keys::PREFIX, from);
        let (tell, news) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            loop {
                let next = watch.next().await;
                let ends = next.is_err();
                if tell.send(next).await.is_err() || ends {
                    break;
                }
            }
        });
        Self { news, task }
    }

    /// Waits for the next changes; `None` behind an error. Nothing is lost if the wait is given up.
    pub(crate) async fn next(&mut self) -> Option<Result<Changes, MetaError>> {
        self.news.recv().await
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

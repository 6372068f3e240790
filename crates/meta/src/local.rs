//! The store of a single sentinel: an MVCC engine in this process.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use goulette_env::Disk;
use goulette_mvcc::{
    Compare, EventKind, KeyRange, KeyValue, Op, OpenError, RangeQuery, ReadError, Relation, Store, Target, Txn,
    WriteError,
};
use goulette_types::Revision;
use tokio::{sync::watch, task};

use crate::store::{
    Answer, Changes, Guard, KeyChange, MetaError, MetaStore, MetaTxn, MetaWatch, Outcome, Snapshot, Stored,
};

/// Revisions that stay readable behind the current one, for watchers that are late.
const HISTORY_KEPT: u64 = 10_000;
/// Revisions told at once to a watcher.
const WATCH_REVISIONS: u64 = 1_000;

/// Metadata in one folder of this machine, for one process.
pub struct LocalStore {
    engine: Arc<Store>,
    /// The newest revision; woken by each commit.
    revision: watch::Receiver<Revision>,
    history_kept: u64,
}

impl LocalStore {
    /// Opens the store in `folder`, or makes an empty one. Blocks for disk time.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it open.
    pub fn open(disk: &dyn Disk, folder: &Path) -> Result<Self, OpenError> {
        let engine = Arc::new(Store::open(disk, folder)?);
        let (tell, revision) = watch::channel(engine.revision());
        engine.set_listener(Box::new(move |revision| {
            tell.send_replace(revision);
        }));
        Ok(Self { engine, revision, history_kept: HISTORY_KEPT })
    }

    /// Runs a call of the engine on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T, MetaError> + Send + 'static,
    ) -> Result<T, MetaError> {
        blocking(Arc::clone(&self.engine), call).await
    }
}

async fn blocking<T: Send + 'static>(
    engine: Arc<Store>,
    call: impl FnOnce(&Store) -> Result<T, MetaError> + Send + 'static,
) -> Result<T, MetaError> {
    match task::spawn_blocking(move || call(&engine)).await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_cancelled) => Err(MetaError::Closed),
    }
}

impl MetaStore for LocalStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>> {
        let query = RangeQuery::new(KeyRange::key(Bytes::copy_from_slice(key.as_bytes())));
        Box::pin(self.blocking(move |engine| engine.range(&query)?.entries.pop().map(stored).transpose()))
    }

    fn range<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot> {
        let query = RangeQuery::new(KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes())));
        Box::pin(self.blocking(move |engine| {
            let result = engine.range(&query)?;
            let entries = result.entries.into_iter().map(stored).collect::<Result<_, _>>()?;
            Ok(Snapshot { revision: result.revision, entries })
        }))
    }

    fn txn(&self, txn: MetaTxn) -> Answer<'_, Outcome> {
        Box::pin(async move {
            txn.check()?;
            let history_kept = self.history_kept;
            self.blocking(move |engine| {
                let request = Txn {
                    compares: txn.guards.into_iter().map(compare).collect(),
                    success: txn.writes.into_iter().map(op).collect(),
                    failure: Vec::new(),
                };
                let result = engine.txn(&request)?;
                if !result.succeeded {
                    return Ok(Outcome::Conflict);
                }
                // The transaction has happened; that the disk fails now is what the next call will say too.
                compact_if_due(engine, history_kept).map_err(|error| MetaError::OutcomeUnknown(error.into()))?;
                Ok(Outcome::Committed(result.revision))
            })
            .await
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn MetaWatch> {
        Box::new(LocalWatch {
            engine: Arc::clone(&self.engine),
            committed: self.revision.clone(),
            keys: KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes())),
            next: from,
        })
    }
}

/// Drops old revisions, as many at once as are kept, so that a write pays for it only now and then.
fn compact_if_due(engine: &Store, kept: u64) -> Result<(), WriteError> {
    let (current, compacted) = (engine.revision().0, engine.compacted().0);
    if current < compacted + 2 * kept {
        return Ok(());
    }
    engine.compact(Revision(current - kept))
}

fn compare(guard: Guard) -> Compare {
    Compare { key: guard.key.into(), relation: Relation::Equal, target: Target::ModRevision(guard.revision) }
}

fn op((key, value): (String, Option<Bytes>)) -> Op {
    match value {
        Some(value) => Op::put(key, value),
        None => Op::Delete(KeyRange::key(key)),
    }
}

fn text(key: &Bytes) -> Result<String, MetaError> {
    String::from_utf8(key.to_vec()).map_err(|_| MetaError::ForeignKey)
}

fn stored(entry: KeyValue) -> Result<Stored, MetaError> {
    Ok(Stored { key: text(&entry.key)?, value: entry.value, revision: entry.mod_revision })
}

struct LocalWatch {
    engine: Arc<Store>,
    committed: watch::Receiver<Revision>,
    keys: KeyRange,
    next: Revision,
}

impl MetaWatch for LocalWatch {
    fn next(&mut self) -> Answer<'_, Changes> {
        Box::pin(async move {
            loop {
                let next = self.next;
                // The sender lives in the engine, which this watch keeps alive.
                self.committed.wait_for(|&committed| committed >= next).await.map_err(|_| MetaError::Closed)?;
                let keys = self.keys.clone();
                let found = blocking(Arc::clone(&self.engine), move |engine| {
                    Ok(engine.events(&keys, next, WATCH_REVISIONS)?)
                })
                .await?;
                self.next = found.next;
                if found.events.is_empty() {
                    continue;
                }
                let changes = found.events.into_iter().map(|event| {
                    let value = match event.kind {
                        EventKind::Put => Some(event.entry.value),
                        EventKind::Delete => None,
                    };
                    Ok(KeyChange { key: text(&event.entry.key)?, value, revision: event.entry.mod_revision })
                });
                return Ok(Changes {
                    revision: Revision(found.next.0 - 1),
                    changes: changes.collect::<Result<_, MetaError>>()?,
                });
            }
        })
    }
}

impl From<ReadError> for MetaError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { asked, .. } => MetaError::Compacted { from: asked },
            other => MetaError::Storage(other.into()),
        }
    }
}

impl From<WriteError> for MetaError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Read(error) => error.into(),
            WriteError::Commit(_) => MetaError::OutcomeUnknown(error.into()),
            other => MetaError::Storage(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use goulette_env::RealDisk;

    use super::*;

    #[tokio::test]
    async fn the_past_is_dropped_in_steps_and_a_late_watcher_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = LocalStore::open(&RealDisk, folder.path()).unwrap();
        store.history_kept = 10;
        let mut late = store.watch("k", Revision(2));
        for n in 0..40 {
            let writes = vec![("k".to_owned(), Some(Bytes::from(vec![n])))];
            store.txn(MetaTxn { guards: Vec::new(), writes, lease: None }).await.unwrap();
            let behind = store.engine.revision().0 - store.engine.compacted().0;
            assert!(behind < 20, "{behind} revisions kept");
        }
        assert!(store.engine.compacted() > Revision(0));
        assert!(matches!(late.next().await, Err(MetaError::Compacted { from: Revision(2) })));
        let mut punctual = store.watch("k", store.engine.revision());
        assert_eq!(punctual.next().await.unwrap().changes.len(), 1);
    }
}

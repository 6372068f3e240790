//! Dropping the past: what no reader of the compacted revision or a later one can see.

use redb::{Durability, ReadableTable};

use super::{Batch, COMPACTED_NEVER, Failure, KvHash, Revision, Store, StoreError, cost, hash::Hasher, tables};
use crate::EtcdError;

/// Changes looked at in one transaction, so that writers need not wait long.
const STEP: usize = 1_000;

/// A compaction that is agreed: its changes are to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The oldest readable revision from now on.
    pub at: i64,
    /// The one before, if its removal was complete: then the removal sees every change since, and its hash counts.
    pub previous: Option<i64>,
}

impl Batch<'_> {
    /// Makes `at` the oldest readable revision. What older ones need is removed later, by [`Store::remove_compacted`].
    ///
    /// # Errors
    /// [`EtcdError::Compacted`] if it is compacted already, [`EtcdError::FutureRev`] if it has not happened.
    pub fn compact(&mut self, at: i64) -> Result<Compaction, Failure> {
        if at <= self.compacted {
            return Err(EtcdError::Compacted.into());
        }
        if at > self.revision {
            return Err(EtcdError::FutureRev.into());
        }
        let mut meta = self.bucket(tables::META)?;
        let finished = {
            let stored = |name| -> Result<Option<Vec<u8>>, StoreError> {
                Ok(meta.get(name)?.map(|bytes| bytes.value().to_vec()))
            };
            stored(tables::meta::SCHEDULED_COMPACT)? == stored(tables::meta::FINISHED_COMPACT)?
        };
        meta.insert(tables::meta::SCHEDULED_COMPACT, &Revision::first(at).encode()[..])?;
        let previous = finished.then_some(self.compacted);
        self.compacted = at;
        Ok(Compaction { at, previous })
    }
}

impl Store {
    /// The compaction that a crash interrupted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn interrupted_compaction(&self) -> Result<Option<Compaction>, StoreError> {
        let scheduled = self.get(tables::META, tables::meta::SCHEDULED_COMPACT)?;
        let finished = self.get(tables::META, tables::meta::FINISHED_COMPACT)?;
        let at = scheduled.filter(|scheduled| finished.as_ref() != Some(scheduled));
        Ok(at.and_then(|at| Revision::decode(&at)).map(|(at, _)| Compaction { at: at.main, previous: None }))
    }

    /// Removes what a compaction made unreadable, in steps between which writers get their turn.
    ///
    /// # Errors
    /// [`StoreError`]; then the store is lost.
    pub fn remove_compacted(&self, compaction: Compaction) -> Result<(), StoreError> {
        let kept = self.memory_mut().index.compact(compaction.at);
        let previous = compaction.previous.unwrap_or(COMPACTED_NEVER);
        let mut hasher = Hasher::new(previous, compaction.at, &kept);
        let mut from = Revision::first(0).encode().to_vec();
        let end = Revision::first(compaction.at + 1).encode();
        loop {
            let database = self.database();
            let write = tables::begin(&database, Durability::None)?;
            let mut next = None;
            let mut freed = 0;
            {
                let mut history = write.open_table(tables::KEY)?;
                let mut obsolete = Vec::new();
                for (looked_at, change) in history.range(&from[..]..&end[..])?.enumerate() {
                    let (stored, value) = change?;
                    if looked_at == STEP {
                        next = Some(stored.value().to_vec());
                        break;
                    }
                    hasher.add(stored.value(), value.value());
                    if Revision::decode(stored.value()).is_none_or(|(revision, _)| !kept.contains(&revision)) {
                        freed += cost(stored.value(), value.value());
                        obsolete.push(stored.value().to_vec());
                    }
                }
                for stored in obsolete {
                    history.remove(&stored[..])?;
                }
            }
            if next.is_none() {
                let finished = Revision::first(compaction.at).encode();
                write.open_table(tables::META)?.insert(tables::meta::FINISHED_COMPACT, &finished[..])?;
            }
            write.commit()?;
            {
                let mut memory = self.memory_mut();
                memory.used = memory.used.saturating_sub(freed);
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        if compaction.previous.is_some() {
            let (compacted, revision) = (previous, compaction.at);
            self.remember_hash(KvHash { hash: hasher.finish(), compacted, revision });
        }
        Ok(())
    }
}

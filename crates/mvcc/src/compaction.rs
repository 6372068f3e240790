//! Dropping the past: what no reader of the compacted revision or a later one can see.

use goulette_types::Revision;
use redb::ReadableTable;

use crate::{
    ReadError, Store, WriteError,
    revision::{COMPACTED, HISTORY, INDEX, Position, STATE, latest_change},
};

/// Changes looked at in one transaction, so that writers need not wait long.
const STEP: usize = 1_000;

impl Store {
    /// Makes `revision` the oldest readable one and removes what only older ones could see.
    ///
    /// Kept are the newest change at or before `revision` of each key that lived then, and the deletions made by
    /// `revision` itself (a reader that follows from there must be told). That the revision is compacted is durable
    /// before anything is removed; what a crash leaves unremoved goes with the next compaction.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] if it is compacted already, [`ReadError::Future`] if it has not happened.
    pub fn compact(&self, revision: Revision) -> Result<(), WriteError> {
        {
            let (_turn, write) = self.begin_maintenance()?;
            if revision > self.revision() {
                return Err(ReadError::Future { asked: revision, current: self.revision() }.into());
            }
            if revision <= self.compacted() {
                return Err(ReadError::Compacted { asked: revision, compacted: self.compacted() }.into());
            }
            write.open_table(STATE)?.insert(COMPACTED, revision.0)?;
            self.commit(write)?;
            self.publish_compacted(revision.0);
        }
        let mut from = (0, 0);
        while let Some(next) = self.remove_step(from, revision.0)? {
            from = next;
        }
        Ok(())
    }

    /// Looks at the next changes from `from` on; answers where to go on, `None` at the end.
    fn remove_step(&self, from: Position, compacted: u64) -> Result<Option<Position>, WriteError> {
        let (_turn, write) = self.begin_maintenance()?;
        let mut looked_at = 0;
        let mut next = None;
        {
            let mut history = write.open_table(HISTORY)?;
            let mut index = write.open_table(INDEX)?;
            let mut obsolete = Vec::new();
            for change in history.range(from..=(compacted, u32::MAX))? {
                let (position, change) = change?;
                let position = position.value();
                if looked_at == STEP {
                    next = Some(position);
                    break;
                }
                looked_at += 1;
                let (deleted, .., key, _) = change.value();
                let newest = latest_change(&index, key, compacted)?.is_some_and(|(newest, _)| newest == position);
                if !newest || (deleted && position.0 < compacted) {
                    obsolete.push((position, key.to_vec()));
                }
            }
            for (position, key) in obsolete {
                history.remove(position)?;
                index.remove((key.as_slice(), position.0))?;
            }
        }
        self.commit(write)?;
        Ok(next)
    }
}

//! A checksum over history that equal members agree on, and agree with a real etcd on.

use std::collections::HashSet;

use redb::ReadableTable;

use super::{Failure, Reading, Revision, Store, StoreError, tables};
use crate::EtcdError;

/// How many compactions' hashes are remembered.
const REMEMBERED: usize = 10;

/// The checksum of history up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C over the bucket's name and every change's stored bytes.
    pub hash: u32,
    /// What was compacted when it was computed; -1 for nothing.
    pub compacted: i64,
    /// The last revision in it.
    pub revision: i64,
}

/// Computes the checksum from changes in the order in which they are stored.
pub(super) struct Hasher<'k> {
    crc: u32,
    compacted: i64,
    revision: i64,
    kept: &'k HashSet<Revision>,
}

impl<'k> Hasher<'k> {
    pub(super) fn new(compacted: i64, revision: i64, kept: &'k HashSet<Revision>) -> Self {
        Self { crc: crc32c::crc32c(b"key"), compacted, revision, kept }
    }

    pub(super) fn add(&mut self, stored: &[u8], value: &[u8]) {
        let Some((at, deleted)) = Revision::decode(stored) else { return };
        // Left out: what is later, what is about to be removed, and the deletions that only newer releases keep.
        let removed_soon = at.main <= self.compacted && !self.kept.is_empty() && !self.kept.contains(&at);
        if at.main > self.revision || removed_soon || (deleted && at.main == self.compacted) {
            return;
        }
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, stored), value);
    }

    pub(super) fn finish(self) -> u32 {
        self.crc
    }
}

impl Store {
    /// The checksum of history up to `revision` (0: the current one), and the current revision.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`] and [`EtcdError::FutureRev`].
    pub fn hash_kv(&self, revision: i64) -> Result<(KvHash, i64), Failure> {
        if let Some(hash) = self.hashes().iter().find(|hash| hash.revision == revision) {
            return Ok((*hash, self.revision()));
        }
        let Reading { memory, table } = self.read()?;
        let (compacted, current) = (memory.compacted, memory.revision);
        if revision > 0 && revision < compacted {
            return Err(EtcdError::Compacted.into());
        }
        if revision > current {
            return Err(EtcdError::FutureRev.into());
        }
        let revision = if revision == 0 { current } else { revision };
        let kept = memory.index.kept(revision);
        drop(memory);
        let mut hasher = Hasher::new(compacted, revision, &kept);
        for change in table.iter().map_err(StoreError::from)? {
            let (stored, value) = change.map_err(StoreError::from)?;
            hasher.add(stored.value(), value.value());
        }
        Ok((KvHash { hash: hasher.finish(), compacted, revision }, current))
    }

    /// A checksum over all buckets, for `Maintenance.Hash`: stable for one member, not comparable with etcd's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn hash_all(&self) -> Result<u32, StoreError> {
        let mut crc = 0;
        for bucket in tables::BUCKETS {
            let volatile = |name: &[u8]| {
                [tables::meta::CONSISTENT_INDEX, tables::meta::TERM, tables::meta::STORAGE_VERSION].contains(&name)
            };
            self.scan(bucket, |key, value| {
                // What differs between members that agree stays out.
                if !volatile(key) {
                    crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
                }
                Ok(())
            })?;
        }
        Ok(crc)
    }

    pub(super) fn remember_hash(&self, hash: KvHash) {
        let mut hashes = self.hashes();
        hashes.push(hash);
        hashes.sort_by_key(|hash| hash.revision);
        let surplus = hashes.len().saturating_sub(REMEMBERED);
        hashes.drain(..surplus);
    }
}

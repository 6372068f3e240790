//! Writes the state as a snapshot.

use std::collections::BTreeMap;

use goulette_bbolt::{WriteError, Writer};
use goulette_env::DiskFile;
use redb::TableHandle;

use crate::store::{
    Frozen, StoreError,
    tables::{self, cluster, meta},
};

/// The version of etcd's layout that the buckets have.
pub(crate) const STORAGE_VERSION: &str = "3.6.0";

/// Writes a bbolt file with etcd's buckets into an empty `file`, without the checksum behind it; its length in bytes, a
/// multiple of 4,096. Memory is bounded, whatever the store holds. Blocks.
///
/// # Errors
/// [`StoreError`] of the store, or of the file's disk.
pub fn save(state: &Frozen, file: &dyn DiskFile) -> Result<u64, StoreError> {
    let mut writer = Writer::new(file);
    for table in tables::BUCKETS {
        let name = table.name();
        let mut bucket = writer.bucket(name.as_bytes());
        if let Some(defaults) = defaults(name) {
            // A handful of entries: with what etcd expects and we may not have written.
            let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = defaults;
            state.scan(table, |key, value| {
                entries.insert(key.to_vec(), value.to_vec());
                Ok::<_, StoreError>(())
            })?;
            for (key, value) in entries {
                bucket.put(&key, &value).map_err(from_bbolt)?;
            }
        } else {
            state.scan(table, |key, value| bucket.put(key, value).map_err(from_bbolt))?;
        }
        bucket.finish().map_err(from_bbolt)?;
    }
    writer.finish().map_err(from_bbolt)
}

/// What etcd expects in a bucket.
fn defaults(bucket: &str) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let version = STORAGE_VERSION.as_bytes().to_vec();
    match bucket {
        "meta" => Some([(meta::STORAGE_VERSION.to_vec(), version)].into()),
        "cluster" => Some([(cluster::VERSION.to_vec(), version)].into()),
        _ => None,
    }
}

fn from_bbolt(error: WriteError) -> StoreError {
    match error {
        WriteError::Io(error) => error.into(),
        // The store's keys rise, and no request is as long as bbolt's limits.
        error => StoreError::Damaged(error.to_string()),
    }
}

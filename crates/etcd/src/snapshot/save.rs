//! Writes the state as a snapshot.

use std::collections::BTreeMap;

use goulette_bbolt::{WriteError, Writer};
use goulette_env::DiskFile;
use redb::TableHandle;
use serde_json::{Value, json};

use crate::store::{
    Frozen, StoreError,
    tables::{self, auth, cluster, meta},
};

/// The version of etcd's layout that the buckets have.
pub(crate) const STORAGE_VERSION: &str = "3.6.0";

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

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
        if let Some(defaults) = defaults(name, state)? {
            // A handful of entries: with what etcd expects and we may not have written.
            let mut entries = defaults;
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
fn defaults(bucket: &str, state: &Frozen) -> Result<Option<Entries>, StoreError> {
    let version = || STORAGE_VERSION.as_bytes().to_vec();
    let entries = match bucket {
        "meta" => {
            [(meta::STORAGE_VERSION.to_vec(), version()), (meta::CONF_STATE.to_vec(), configuration(state)?)].into()
        }
        "cluster" => [(cluster::VERSION.to_vec(), version())].into(),
        // A cluster that never had users is at their first revision.
        "auth" => [(auth::REVISION.to_vec(), 1_u64.to_be_bytes().to_vec())].into(),
        _ => return Ok(None),
    };
    Ok(Some(entries))
}

/// The members as etcd's raft tells them: who has a vote, and who learns.
fn configuration(state: &Frozen) -> Result<Vec<u8>, StoreError> {
    let (mut voters, mut learners) = (Vec::new(), Vec::new());
    state.scan(tables::MEMBERS, |key, value| {
        let damaged = || StoreError::Damaged(format!("the member {}", key.escape_ascii()));
        let id = str::from_utf8(key).ok().and_then(|key| u64::from_str_radix(key, 16).ok()).ok_or_else(damaged)?;
        let member: Value = serde_json::from_slice(value).map_err(|_| damaged())?;
        let learns = member.get("isLearner").and_then(Value::as_bool).unwrap_or(false);
        if learns {
            learners.push(id)
        } else {
            voters.push(id)
        };
        Ok::<_, StoreError>(())
    })?;
    let mut configuration = json!({ "auto_leave": false });
    for (name, ids) in [("voters", voters), ("learners", learners)] {
        if !ids.is_empty() {
            configuration[name] = ids.into();
        }
    }
    Ok(configuration.to_string().into_bytes())
}

fn from_bbolt(error: WriteError) -> StoreError {
    match error {
        WriteError::Io(error) => error.into(),
        // The store's keys rise, and no request is as long as bbolt's limits.
        error => StoreError::Damaged(error.to_string()),
    }
}

//! Whose data directory this is: `broker.json`, and the lock that keeps a second process out.

use std::{
    io,
    path::{Path, PathBuf},
};

use goulette_env::{DiskLock, Env};
use goulette_types::{BrokerId, ClusterId, ErrorKind, StorageId};
use serde::{Deserialize, Serialize};

use crate::{checkpoint_file::replace_file, error::OpenError, fragment::read_file};

/// The version of the data directory that is written, and the highest that is read.
const FORMAT_VERSION: u64 = 1;
pub(crate) const FILE: &str = "broker.json";
pub(crate) const LOCK: &str = "LOCK";

/// Who a data directory belongs to. Stored in `broker.json`, which is always replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The broker.
    pub broker: BrokerId,
    /// The cluster; none until the first registration.
    pub cluster: Option<ClusterId>,
    /// The directory's own id: another one once anything was lost here.
    pub storage: StorageId,
}

/// The cluster that a broker belongs to is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this broker belongs to cluster {stored}, not to {given}: register it there, or give an empty -data")]
pub struct OtherCluster {
    /// The cluster in `broker.json`.
    pub stored: ClusterId,
    /// The cluster of the sentinel that answered.
    pub given: ClusterId,
}

impl OtherCluster {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Conflict
    }
}

/// The file's fields.
#[derive(Serialize, Deserialize)]
struct Stored {
    format_version: u64,
    broker_id: String,
    cluster_id: Option<String>,
    storage_id: String,
    /// Of the fields above, as hexadecimal digits.
    checksum: String,
}

impl Stored {
    /// CRC-32C over the fields' text, one per line. A flipped bit may leave a name that is as good as the right one.
    fn sum(&self) -> String {
        let cluster = self.cluster_id.as_deref().unwrap_or_default();
        let text = format!("{}\n{}\n{cluster}\n{}\n", self.format_version, self.broker_id, self.storage_id);
        format!("{:08x}", crc32c::crc32c(text.as_bytes()))
    }
}

impl Identity {
    /// Reads a data directory's identity, or makes directory and identity if there is none. Call it before
    /// [`Log::open`](crate::Log::open): what it refuses is not touched.
    ///
    /// # Errors
    /// [`OpenError::OtherBroker`], [`OpenError::Newer`], [`OpenError::Locked`], [`OpenError::NotWritable`],
    /// [`OpenError::Damaged`].
    pub fn open(env: &Env, dir: &Path, broker: &BrokerId) -> Result<Identity, OpenError> {
        // Held while the file may be made: of two brokers in one new directory only one wins.
        let _lock = lock_dir(env, dir)?;
        match Identity::read(env, dir)? {
            Some(identity) if identity.broker == *broker => Ok(identity),
            Some(identity) => {
                Err(OpenError::OtherBroker { dir: dir.into(), found: identity.broker, given: broker.clone() })
            }
            None => {
                let storage = StorageId(env.random.next_id());
                let identity = Identity { broker: broker.clone(), cluster: None, storage };
                identity.write(env, dir)?;
                Ok(identity)
            }
        }
    }

    /// Reads the file; none if there is none.
    pub(crate) fn read(env: &Env, dir: &Path) -> Result<Option<Identity>, OpenError> {
        let path = dir.join(FILE);
        let bytes = match read_file(&*env.disk, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { doing: "read", path, source }),
        };
        Identity::decode(&bytes, &path).map(Some)
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Identity, OpenError> {
        let damaged = |reason: String| OpenError::Damaged { path: path.into(), reason };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        // Before the other fields: a later version may have others.
        let found = value.get("format_version").and_then(serde_json::Value::as_u64);
        match found {
            Some(1..=FORMAT_VERSION) => {}
            Some(found) if found > FORMAT_VERSION => {
                return Err(OpenError::Newer { path: path.into(), found, known: FORMAT_VERSION });
            }
            _ => return Err(damaged("it has no format_version".into())),
        }
        let stored: Stored = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if stored.checksum != stored.sum() {
            return Err(damaged("its checksum does not match".into()));
        }
        Ok(Identity {
            broker: stored.broker_id.parse().map_err(|error| damaged(format!("broker_id: {error}")))?,
            cluster: match stored.cluster_id {
                Some(id) => Some(id.parse().map_err(|error| damaged(format!("cluster_id: {error}")))?),
                None => None,
            },
            storage: stored.storage_id.parse().map_err(|error| damaged(format!("storage_id: {error}")))?,
        })
    }

    /// Makes the identity durable.
    pub(crate) fn write(&self, env: &Env, dir: &Path) -> Result<(), OpenError> {
        let mut stored = Stored {
            format_version: FORMAT_VERSION,
            broker_id: self.broker.to_string(),
            cluster_id: self.cluster.map(|id| id.to_string()),
            storage_id: self.storage.to_string(),
            checksum: String::new(),
        };
        stored.checksum = stored.sum();
        let mut bytes = serde_json::to_vec_pretty(&stored).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        replace_file(&*env.disk, dir, FILE, &bytes).map(drop).map_err(|error| OpenError::Io {
            doing: "write",
            path: dir.join(FILE),
            source: io::Error::other(error),
        })
    }
}

/// Makes a data directory unless it is there, and takes its lock.
pub(crate) fn lock_dir(env: &Env, dir: &Path) -> Result<Box<dyn DiskLock>, OpenError> {
    let not_writable = |source| OpenError::NotWritable { dir: PathBuf::from(dir), source };
    env.disk.create_dir_all(dir).map_err(not_writable)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        // Best effort: the folders above may be read-only to us, and were made long ago then.
        let _ = env.disk.sync_dir(parent);
    }
    match env.disk.lock(&dir.join(LOCK)) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OpenError::Locked { dir: dir.into() }),
        Err(source) => Err(not_writable(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_by_name_and_rubbish_by_reason() {
        let decode = |text: &str| Identity::decode(text.as_bytes(), Path::new("broker.json"));
        let newer = decode(r#"{"format_version": 7, "anything": 1}"#).unwrap_err();
        assert_eq!(
            newer.to_string(),
            "broker.json has format version 7, this program knows up to 1: start the newer program"
        );
        for rubbish in ["", "{}", "[]", r#"{"format_version": 0}"#, r#"{"format_version": 1, "broker_id": "../x"}"#] {
            assert!(matches!(decode(rubbish), Err(OpenError::Damaged { .. })), "{rubbish}");
        }
    }
}

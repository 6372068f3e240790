//! What a snapshot file holds.

use std::collections::HashSet;

use bytes::Bytes;
use goulette_bbolt::{Item, Reader};
use goulette_env::DiskFile;
use goulette_proto::etcd::mvccpb::KeyValue;
use prost::Message;
use serde::Serialize;

use super::source::{SourceError, entry, visit_bucket};
use crate::store::Revision;

/// The facts of a snapshot, as `etcdutl snapshot status` tells them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// CRC-32C over all buckets' names, keys and values.
    pub hash: u32,
    /// The last revision.
    pub revision: i64,
    /// Keys that live at that revision.
    pub total_key: u64,
    /// Bytes of the database within the file.
    pub total_size: u64,
    /// etcd's version of the layout; empty before 3.6.
    pub version: String,
}

/// Reads the whole file, and so checks its structure; not the checksum at its end. Memory: the living keys. Blocks.
///
/// # Errors
/// [`SourceError`] for anything that is not a snapshot.
pub fn status(file: &dyn DiskFile) -> Result<SnapshotStatus, SourceError> {
    let reader = Reader::open(file)?;
    let mut status =
        SnapshotStatus { hash: 0, revision: 0, total_key: 0, total_size: reader.bytes(), version: String::new() };
    let mut living = HashSet::new();
    for item in reader.items(&reader.root()) {
        let Item::Bucket(name, bucket) = item? else { return Err(entry("", b"")) };
        let text = String::from_utf8_lossy(&name).into_owned();
        let mut hash = crc32c::crc32c_append(status.hash, &name);
        visit_bucket(&reader, &text, &bucket, |key, value| {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
            match (&name[..], key) {
                (b"key", _) => {
                    let (revision, deleted) = Revision::decode(key).ok_or_else(|| entry(&text, key))?;
                    let kv = KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|_| entry(&text, key))?;
                    status.revision = revision.main;
                    if deleted {
                        living.remove(&kv.key);
                    } else {
                        living.insert(kv.key);
                    }
                }
                (b"meta", b"storageVersion") => status.version = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
            Ok::<_, SourceError>(())
        })?;
        status.hash = hash;
    }
    status.total_key = living.len() as u64;
    Ok(status)
}

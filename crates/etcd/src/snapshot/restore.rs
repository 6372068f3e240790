//! Makes the store of a new cluster's member from a snapshot.

use std::path::Path;

use bytes::Bytes;
use goulette_bbolt::Reader;
use goulette_env::{Disk, DiskFile};
use goulette_proto::etcd::mvccpb::KeyValue;
use prost::Message;
use serde_json::json;

use super::{
    save::STORAGE_VERSION,
    source::{SourceError, check_sum, entry, visit},
};
use crate::consensus::{LogPosition, MemberId};
use crate::store::{
    Revision, Store, StoreError, Writer,
    tables::{self, meta},
};

/// Why a snapshot was not restored. Nothing that a member would start from was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The new store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Takes a file without a checksum, or with a wrong one.
    pub skip_hash_check: bool,
    /// Lets revisions go on from this much above the snapshot's last one, all before being compacted: no client that saw
    /// revisions after the snapshot sees them again with other contents.
    pub bump_revision: Option<u64>,
    /// The new cluster's id.
    pub cluster: u64,
    /// The id of the member that the store is for; one of `members`.
    pub member: MemberId,
    /// The members that the new cluster begins with; the same for all of them.
    pub members: Vec<RestoredMember>,
    /// The same members as the consensus writes them down.
    pub configuration: Bytes,
}

/// A member of the new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredMember {
    /// Its id.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where the others will find it.
    pub peer_urls: Vec<String>,
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The revision at which the new cluster begins.
    pub revision: i64,
}

/// Where the new cluster's log begins: behind the entry that would have named its first members. Nobody has that entry,
/// so a member that joins later is given the whole state.
const BEGINNING: LogPosition = LogPosition { term: 0, index: 1 };

/// Makes the store of one member in `folder`, which must have none. Durable on return; after an error there is none.
/// Blocks, with bounded memory.
///
/// # Errors
/// [`RestoreError`].
pub fn restore(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    folder: &Path,
    options: &RestoreOptions,
) -> Result<Restored, RestoreError> {
    Store::fill(disk, folder, |fresh| {
        let revision = copy(file, options, fresh)?;
        for member in &options.members {
            let json = json!({ "id": member.id, "peerURLs": member.peer_urls, "name": member.name });
            let key = format!("{:016x}", member.id);
            fresh.insert(tables::MEMBERS, key.as_bytes(), json.to_string().as_bytes())?;
        }
        fresh.insert(tables::META, meta::CONSISTENT_INDEX, &BEGINNING.index.to_be_bytes())?;
        fresh.insert(tables::META, meta::TERM, &BEGINNING.term.to_be_bytes())?;
        let identity = [options.cluster.to_be_bytes(), options.member.to_be_bytes()].concat();
        fresh.insert(tables::GOULETTE, tables::goulette::IDENTITY, &identity)?;
        let mut configuration = [BEGINNING.term.to_be_bytes(), BEGINNING.index.to_be_bytes()].concat();
        configuration.extend_from_slice(&options.configuration);
        fresh.insert(tables::GOULETTE, tables::goulette::CONFIGURATION, &configuration)?;
        Ok(Restored { revision })
    })
}

/// Fills `fresh` with the snapshot's history, leases, alarms, users and roles. Members and positions in a log are the old
/// cluster's and stay behind. The last revision. Blocks.
///
/// # Errors
/// [`RestoreError`].
fn copy(file: &dyn DiskFile, options: &RestoreOptions, fresh: &mut Writer<'_>) -> Result<i64, RestoreError> {
    if !options.skip_hash_check {
        check_sum(file)?;
    }
    let reader = Reader::open(file).map_err(SourceError::from)?;
    check_version(&reader)?;
    let mut last = 1;
    let found = visit(&reader, "key", |key, value| {
        let (revision, _) = Revision::decode(key).ok_or_else(|| entry("key", key))?;
        let kv = KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|_| entry("key", key))?;
        last = revision.main;
        // etcd's own restore marks a raised revision with a change of no key; the compaction beside it says the same.
        if kv.key.is_empty() { Ok(()) } else { Ok::<_, RestoreError>(fresh.insert(tables::KEY, key, value)?) }
    })?;
    if !found {
        return Err(entry("", b"key").into());
    }
    for (name, table) in [
        ("lease", tables::LEASE),
        ("alarm", tables::ALARM),
        ("auth", tables::AUTH),
        ("authUsers", tables::AUTH_USERS),
        ("authRoles", tables::AUTH_ROLES),
    ] {
        // Older releases made a bucket when it was first needed.
        visit(&reader, name, |key, value| Ok::<_, RestoreError>(fresh.insert(table, key, value)?))?;
    }
    let mut compacted = None;
    visit(&reader, "meta", |key, value| {
        if [meta::SCHEDULED_COMPACT, meta::FINISHED_COMPACT].contains(&key) {
            let (revision, _) = Revision::decode(value).ok_or_else(|| entry("meta", key))?;
            compacted = compacted.max(Some(revision.main));
            if key == meta::FINISHED_COMPACT || options.bump_revision.is_none() {
                fresh.insert(tables::META, key, value)?;
            }
        }
        Ok::<_, RestoreError>(())
    })?;
    last = last.max(compacted.unwrap_or(last));
    if let Some(bump) = options.bump_revision {
        last = last.saturating_add_unsigned(bump);
        fresh.insert(tables::META, meta::SCHEDULED_COMPACT, &Revision::first(last).encode())?;
    }
    Ok(last)
}

fn check_version(reader: &Reader<'_>) -> Result<(), RestoreError> {
    let mut version = String::new();
    visit(reader, "meta", |key, value| {
        if key == meta::STORAGE_VERSION {
            version = String::from_utf8_lossy(value).into_owned();
        }
        Ok::<_, RestoreError>(())
    })?;
    let known = |version: &str| {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    if version.is_empty() || known(&version).is_some_and(|found| Some(found) <= known(STORAGE_VERSION)) {
        Ok(())
    } else {
        Err(SourceError::Version { found: version, known: STORAGE_VERSION }.into())
    }
}

//! The file: one table for each of etcd's buckets, with etcd's own keys and values, so that a snapshot in etcd's format
//! is a copy and a checksum over history is etcd's checksum. Layout: `docs/formats/etcd-store.md`.

use std::{
    io,
    path::{Path, PathBuf},
};

use goulette_env::{Disk, OpenMode};
use goulette_mvcc::RedbFile;
use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};

use super::StoreError;

/// A bucket of etcd's.
pub type Bucket = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// History: revision → `mvccpb.KeyValue`.
pub const KEY: Bucket = TableDefinition::new("key");
/// Consistent index, term, compaction: see the names below.
pub const META: Bucket = TableDefinition::new("meta");
/// Lease id (8 bytes, big endian) → `leasepb.Lease`.
pub const LEASE: Bucket = TableDefinition::new("lease");
/// `etcdserverpb.AlarmMember` → nothing.
pub const ALARM: Bucket = TableDefinition::new("alarm");
/// Cluster version and downgrade.
pub const CLUSTER: Bucket = TableDefinition::new("cluster");
/// Member id (16 hexadecimal digits) → JSON, as etcd's.
pub const MEMBERS: Bucket = TableDefinition::new("members");
/// Id of a member that was removed → `removed`.
pub const MEMBERS_REMOVED: Bucket = TableDefinition::new("members_removed");
/// Whether requests need permission, and the revision of users and roles.
pub const AUTH: Bucket = TableDefinition::new("auth");
/// Name → `authpb.User`.
pub const AUTH_USERS: Bucket = TableDefinition::new("authUsers");
/// Name → `authpb.Role`.
pub const AUTH_ROLES: Bucket = TableDefinition::new("authRoles");
/// What is ours alone, and no part of a snapshot in etcd's format: the format's version, the consensus' configuration.
pub const GOULETTE: Bucket = TableDefinition::new("goulette");

/// etcd's buckets.
pub const BUCKETS: [Bucket; 10] =
    [KEY, META, LEASE, ALARM, CLUSTER, MEMBERS, MEMBERS_REMOVED, AUTH, AUTH_USERS, AUTH_ROLES];

/// Names within [`META`].
pub mod meta {
    /// The index of the last applied entry, 8 bytes, big endian.
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    /// Its term, 8 bytes, big endian.
    pub const TERM: &[u8] = b"term";
    /// The revision to compact at, as a stored revision.
    pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
    /// The revision up to which compaction is complete, as a stored revision.
    pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
    /// etcd's version of this layout.
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
    /// The voters, as etcd's raft tells them (JSON).
    pub const CONF_STATE: &[u8] = b"confState";
}

/// Names within [`CLUSTER`].
pub mod cluster {
    /// The version that the whole cluster speaks, such as `3.6.0`.
    pub const VERSION: &[u8] = b"clusterVersion";
    /// The state of a downgrade (JSON).
    pub const DOWNGRADE: &[u8] = b"downgrade";
}

/// Names within [`AUTH`].
pub mod auth {
    /// Whether requests need permission: one byte.
    pub const ENABLED: &[u8] = b"authEnabled";
    /// How often users and roles have changed, 8 bytes, big endian.
    pub const REVISION: &[u8] = b"authRevision";
}

/// Names within [`GOULETTE`].
pub mod goulette {
    /// The version of this layout, 8 bytes, big endian.
    pub const FORMAT: &[u8] = b"format";
    /// Position (term, index: 8 bytes each) of the last configuration, then its bytes.
    pub const CONFIGURATION: &[u8] = b"configuration";
    /// Cluster id, then member id, 8 bytes each, big endian.
    pub const IDENTITY: &[u8] = b"identity";
}

/// The layout that this binary writes, and the newest that it reads.
const FORMAT_KNOWN: u64 = 1;
/// Pages that redb keeps in memory; the operating system keeps the others.
const CACHE_BYTES: usize = 16 << 20;
/// The file's name within its folder.
pub const FILE_NAME: &str = "etcd.redb";

/// Opens the file in `folder`, which the caller has locked; makes it if it is not there.
pub(crate) fn open(disk: &dyn Disk, folder: &Path) -> Result<Database, StoreError> {
    let path = folder.join(FILE_NAME);
    if !disk.exists(&path)? {
        create(disk, &draft(folder))?;
        disk.rename(&draft(folder), &path)?;
    }
    sync_names(disk, folder)?;
    let file = disk.open(&path, OpenMode::Write)?;
    // The page cache is not the disk: what a killed predecessor wrote and did not sync must become durable, or vanish,
    // before anybody reads it.
    file.sync_data()?;
    file.drop_cache(0, 0)?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(RedbFile::new(&path, file))?;
    let found = format(&database)?;
    if found != FORMAT_KNOWN {
        return Err(StoreError::Format { path, found, known: FORMAT_KNOWN });
    }
    Ok(database)
}

/// The file that is written before it takes the place of the current one.
pub(crate) fn draft(folder: &Path) -> PathBuf {
    folder.join("etcd.redb.new")
}

/// Makes an empty store at `path`, whatever was there; durable on return, but for its name.
pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<Database, StoreError> {
    if disk.exists(path)? {
        disk.remove_file(path)?;
    }
    let file = disk.open(path, OpenMode::CreateNew)?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(RedbFile::new(path, file))?;
    let write = begin(&database, Durability::Immediate)?;
    for bucket in BUCKETS {
        write.open_table(bucket)?;
    }
    write.open_table(GOULETTE)?.insert(goulette::FORMAT, &FORMAT_KNOWN.to_be_bytes()[..])?;
    write.commit()?;
    Ok(database)
}

/// Begins a write transaction of the given durability.
pub(crate) fn begin(database: &Database, durability: Durability) -> Result<WriteTransaction, StoreError> {
    let mut write = database.begin_write()?;
    write.set_durability(durability).map_err(|error| StoreError::Database(Box::new(error.into())))?;
    Ok(write)
}

fn format(database: &Database) -> Result<u64, StoreError> {
    let table = database.begin_read()?.open_table(GOULETTE)?;
    let stored = table.get(goulette::FORMAT)?;
    Ok(stored.and_then(|bytes| number(bytes.value())).unwrap_or(0))
}

/// A stored number, 8 bytes, big endian.
pub fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Makes every name on the way to the file as durable as what will be stored in it. A folder that we may not read is
/// none that we have made.
pub(crate) fn sync_names(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    for above in folder.ancestors() {
        match disk.sync_dir(above) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

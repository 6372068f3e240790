//! redb's file on our disk: making it, opening it, and the adapter through which the simulated disk reaches it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use goulette_env::{Disk, DiskFile, OpenMode};
use redb::{Database, ReadableDatabase};

use crate::{
    OpenError,
    revision::{COMPACTED, CURRENT, FORMAT, HISTORY, INDEX, STATE},
};

/// The layout that this binary writes, and the newest that it reads.
const FORMAT_KNOWN: u64 = 1;
/// The revision of a store in which nothing was ever written, as in etcd.
const REVISION_FIRST: u64 = 1;
/// The name of the store's file in its folder.
pub const FILE_NAME: &str = "mvcc.redb";
/// Pages that redb keeps in memory. Metadata is small; what is read often is cached above.
const CACHE_BYTES: usize = 16 << 20;

/// An open file, and what its state says.
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) revision: u64,
    pub(crate) compacted: u64,
}

/// Opens the file in `folder`, which the caller has locked; makes it if it is not there.
pub(crate) fn open(disk: &dyn Disk, folder: &Path) -> Result<Opened, OpenError> {
    let path = folder.join(FILE_NAME);
    let open = || {
        if !disk.exists(&path)? {
            create(disk, folder, &path)?;
        }
        sync_names(disk, folder)?;
        open_existing(disk, &path)
    };
    open().map_err(|failure| match failure {
        Failure::Newer { found } => OpenError::Newer { path: path.clone(), found, known: FORMAT_KNOWN },
        Failure::Io(source) => OpenError::Io { path: path.clone(), source },
        Failure::Database(source) => OpenError::Database { path: path.clone(), source },
    })
}

/// Makes an empty store. redb cannot open a file whose making a crash has interrupted, so the file gets its name only
/// when it is whole.
fn create(disk: &dyn Disk, folder: &Path, path: &Path) -> Result<(), Failure> {
    let draft = folder.join("mvcc.redb.new");
    if disk.exists(&draft)? {
        disk.remove_file(&draft)?;
    }
    let database = database(&draft, disk.open(&draft, OpenMode::CreateNew)?)?;
    let write = database.begin_write()?;
    write.open_table(HISTORY)?;
    write.open_table(INDEX)?;
    {
        let mut state = write.open_table(STATE)?;
        state.insert(FORMAT, FORMAT_KNOWN)?;
        state.insert(CURRENT, REVISION_FIRST)?;
        state.insert(COMPACTED, 0)?;
    }
    write.commit()?;
    // Closing it writes once more, and tells nobody whether that went well.
    drop(database);
    disk.open(&draft, OpenMode::Write)?.sync_data()?;
    Ok(disk.rename(&draft, path)?)
}

/// Makes every name on the way to the file as durable as what will be stored in it: now, or because a predecessor was
/// killed before it could. A folder that we may not read is none that we have made.
fn sync_names(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    for above in folder.ancestors() {
        match disk.sync_dir(above) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn open_existing(disk: &dyn Disk, path: &Path) -> Result<Opened, Failure> {
    let file = disk.open(path, OpenMode::Write)?;
    // The page cache is not the disk: what a killed predecessor wrote and did not sync must become durable, or vanish,
    // before anybody reads it.
    file.sync_data()?;
    file.drop_cache(0, 0)?;
    let database = database(path, file)?;
    let state = database.begin_read()?.open_table(STATE)?;
    let number = |name| state.get(name).map(|value| value.map_or(0, |value| value.value()));
    let (found, revision, compacted) = (number(FORMAT)?, number(CURRENT)?, number(COMPACTED)?);
    if found > FORMAT_KNOWN {
        return Err(Failure::Newer { found });
    }
    Ok(Opened { database, revision, compacted })
}

fn database(path: &Path, file: Box<dyn DiskFile>) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(RedbFile::new(path, file))
}

/// What can go wrong with the file.
enum Failure {
    Newer { found: u64 },
    Io(io::Error),
    Database(redb::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

macro_rules! from_redb {
    ($($source:ty),*) => {$(
        impl From<$source> for Failure {
            fn from(error: $source) -> Self {
                Failure::Database(error.into())
            }
        }
    )*};
}

from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// A [`DiskFile`] as redb's storage.
///
/// It takes none of redb's locks: the store holds the lock of the whole folder before the file is opened.
pub struct RedbFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl RedbFile {
    /// The open file `file`, which is found at `path` (for messages only).
    pub fn new(path: &Path, file: Box<dyn DiskFile>) -> Self {
        Self { path: path.to_path_buf(), file }
    }
}

impl fmt::Debug for RedbFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("RedbFile").field(&self.path).finish()
    }
}

impl redb::StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use goulette_env::sim::SimDisk;

    use super::*;

    #[test]
    fn a_store_of_a_later_release_is_refused_and_both_formats_are_named() {
        let disk = SimDisk::from_seed(1);
        let folder = Path::new("store");
        disk.create_dir_all(folder).unwrap();
        let opened = open(&disk, folder).unwrap();
        let write = opened.database.begin_write().unwrap();
        write.open_table(STATE).unwrap().insert(FORMAT, FORMAT_KNOWN + 1).unwrap();
        write.commit().unwrap();
        drop(opened);
        let error = open(&disk, folder).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("has format 2, this binary knows formats up to 1"), "{error}");
    }
}

//! redb's file, on our disk: the adapter through which the simulated disk reaches it.

use std::{fmt, io, path::PathBuf};

use goulette_env::DiskFile;

/// A [`DiskFile`] as redb's storage.
///
/// It takes none of redb's locks: the store holds the lock of the whole folder before the file is opened.
pub(crate) struct Backend {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl Backend {
    /// Gives the file to redb; `path` is for messages only.
    pub(crate) fn new(path: PathBuf, file: Box<dyn DiskFile>) -> Self {
        Self { path, file }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Backend").field(&self.path).finish()
    }
}

impl redb::StorageBackend for Backend {
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

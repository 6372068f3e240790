//! Files and folders, with durability spelt out.
//!
//! The contract that the storage engine relies on, for the real disk and for the simulated one alike:
//! - What was written is readable at once, and durable only once a `sync_*` of that file that was called after the
//!   write has returned `Ok`. Until then any subset of its sectors may survive a crash.
//! - A created, renamed or removed name is durable only once [`Disk::sync_dir`] of its folder has returned `Ok`.
//! - After a failed sync nothing is known of the bytes that it covered, and a second sync proves nothing
//!   (the kernel may have dropped the dirty pages): callers poison themselves instead of trying again.

use std::{io, io::IoSlice, path::Path};

pub use real::RealDisk;

mod real;

/// How [`Disk::open`] treats a file that is there, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist yet.
    CreateNew,
    /// For reading and writing; made if absent, kept as it is if present.
    CreateOrOpen,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name without its folder.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A file system. New files get mode 0600, new folders 0700.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a folder and those above it; no error if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted; names that are not UTF-8 are an error.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Renames a file or folder, replacing a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Whether the name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Takes the exclusive lock of a file (made if absent), until the returned value is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process, or another part of this one, holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// Bytes that may still be written to the file system that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Bytes that the file system that holds `path` has in all, free or not.
    fn volume_bytes(&self, path: &Path) -> io::Result<u64>;

    /// What kind of file system holds `path`, as far as that says something of its promises.
    fn volume_kind(&self, path: &Path) -> io::Result<VolumeKind> {
        let _ = path;
        Ok(VolumeKind::Disk)
    }

    /// The file system that holds a folder, if it can be synced as a whole and is known to report every failed write when
    /// it is.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if not: then files and folders are synced one by one.
    fn file_system(&self, dir: &Path) -> io::Result<Box<dyn FileSystem>> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What a file system keeps its bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    /// A disk of this machine, or something that says to be one.
    Disk,
    /// Memory: a sync keeps nothing.
    Memory,
    /// Another machine: what a sync promises, and whether a failed write is ever told, is up to that one.
    Network,
}

/// A file system as a whole.
pub trait FileSystem: Send + Sync {
    /// Makes all bytes and names durable that were written before the call, whoever wrote them. Fails if any write has
    /// failed since the file system was asked for, or last synced.
    fn sync_all(&self) -> io::Result<()>;
}

/// A held lock; dropping it releases it.
pub trait DiskLock: Send + Sync {}

/// An open file; positions are bytes from its start. Safe to use from several threads.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; 0 exactly at or behind the end (or for an empty buffer).
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all the slices one behind the other, growing the file where needed; a gap reads as zeros.
    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or grows (with zeros) the file.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Reserves disk space for `position..position + length`, growing the file with zeros where needed.
    fn allocate(&self, position: u64, length: u64) -> io::Result<()>;

    /// Makes all bytes written so far, and the length needed to read them, durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Starts writing dirty pages of the range to the disk, without waiting and without any promise.
    fn start_writeback(&self, position: u64, length: u64) -> io::Result<()>;

    /// Forgets clean cached pages, so that the next read asks the disk itself. A whole file for `0, 0`.
    fn drop_cache(&self, position: u64, length: u64) -> io::Result<()>;

    /// Fills the buffer.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut position: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, position)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    buffer = &mut buffer[read..];
                    position += read as u64;
                }
            }
        }
        Ok(())
    }

    /// Writes one slice.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_at(&[IoSlice::new(bytes)], position)
    }
}

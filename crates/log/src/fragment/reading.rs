//! Reading a fragment: its bytes, what its index knows, and its batches' headers one after the other.

use std::{io, sync::atomic::Ordering};

use bytes::Bytes;
use goulette_env::Disk;
use goulette_records::{HEADER_BYTES, Header};

use super::{Fragment, read_file};
use crate::{
    index::{Described, Index},
    lock,
};

/// Bytes read at once while headers are scanned.
const SCAN_BYTES: usize = 256 << 10;

/// A batch's header as found by a scan.
pub(crate) struct Found {
    pub(crate) position: u32,
    pub(crate) header: Header,
}

impl Fragment {
    /// Reads up to `bytes` from `position`, fewer only at the end of the valid bytes.
    pub(crate) fn read(&self, disk: &dyn Disk, position: u32, bytes: usize) -> io::Result<Bytes> {
        let valid = self.written.load(Ordering::Acquire);
        let bytes = bytes.min(valid.saturating_sub(position) as usize);
        let mut buffer = vec![0; bytes];
        self.file(disk)?.read_exact_at(&mut buffer, position.into())?;
        Ok(buffer.into())
    }

    /// Looks something up in the index, which is loaded or built first if need be. In a damaged fragment it ends where
    /// the damage begins.
    pub(crate) fn with_index<T>(&self, disk: &dyn Disk, look_up: impl FnOnce(&Index) -> T) -> io::Result<T> {
        let mut slot = lock(&self.handle.index);
        if let Some(index) = &*slot {
            return Ok(look_up(index));
        }
        let index = self.load_index(disk)?;
        let found = look_up(&index);
        // Appends go on noting behind it: so it is kept only if nothing is missing.
        if index.length() == self.written.load(Ordering::Acquire) || self.handle.sealed.load(Ordering::Acquire) {
            *slot = Some(index);
        }
        Ok(found)
    }

    fn load_index(&self, disk: &dyn Disk) -> io::Result<Index> {
        let length = self.written.load(Ordering::Acquire);
        if self.handle.sealed.load(Ordering::Acquire) {
            let describes = Described { number: self.number, base: self.base, length };
            let read = |extension| read_file(disk, &self.path.with_extension(extension));
            if let (Ok(offsets), Ok(times)) = (read("index"), read("timeindex"))
                && let Some(index) = Index::decode(&offsets, &times, describes)
            {
                return Ok(index);
            }
        }
        let mut index = Index::new(self.number, self.base);
        let scanned = self.scan(disk, 0, |found| {
            index.note(&found.header, &found.header.to_bytes());
            true
        });
        match scanned {
            Err(scan) if !is_damage(&scan.error) => Err(scan.error),
            _ => Ok(index),
        }
    }

    /// Visits the batches' headers from `position`, where one begins, while `visit` says so. Checks no more than that
    /// each is a header which continues the one before it.
    pub(crate) fn scan(
        &self,
        disk: &dyn Disk,
        mut position: u32,
        mut visit: impl FnMut(Found) -> bool,
    ) -> Result<(), ScanError> {
        let end = self.written.load(Ordering::Acquire);
        let mut window = Bytes::new();
        let mut window_start = position;
        let mut expected = (position == 0).then_some(self.base);
        while position < end {
            let within = (position - window_start) as usize;
            let Some(bytes) = window.get(within..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) else {
                let left = (end - position) as usize;
                if left < HEADER_BYTES {
                    return Err(ScanError::rubbish(position, "the bytes end within a header"));
                }
                window = self.read(disk, position, SCAN_BYTES).map_err(|error| ScanError { position, error })?;
                window_start = position;
                continue;
            };
            let header = Header::parse(bytes).map_err(|error| ScanError::rubbish(position, error))?;
            if expected.is_some_and(|expected| header.base_offset != expected) || header.base_offset < self.base {
                return Err(ScanError::rubbish(position, format!("offset {} is out of order", header.base_offset)));
            }
            let next = u64::from(position) + header.encoded_bytes() as u64;
            if next > u64::from(end) {
                return Err(ScanError::rubbish(position, "the batch reaches past the valid bytes"));
            }
            expected = Some(header.next_offset());
            if !visit(Found { position, header }) {
                return Ok(());
            }
            position = next as u32;
        }
        Ok(())
    }
}

/// A scan came upon bytes that it cannot read, or that are no batch.
#[derive(Debug)]
pub(crate) struct ScanError {
    pub(crate) position: u32,
    /// Of kind [`io::ErrorKind::InvalidData`] if the bytes were read, but are rubbish.
    pub(crate) error: io::Error,
}

impl ScanError {
    fn rubbish(position: u32, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { position, error: io::Error::new(io::ErrorKind::InvalidData, reason) }
    }
}

/// EIO: of a read, that the device cannot give the bytes back.
const UNREADABLE: i32 = 5;

/// Whether the bytes are at fault, not the way to them. A file that is too short has lost some, one that is not there all of
/// them, and a device that cannot read them too.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
        || error.raw_os_error() == Some(UNREADABLE)
}

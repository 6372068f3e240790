//! A snapshot file of unknown origin.

use goulette_bbolt::{Bucket, Item, ReadError, Reader};
use goulette_env::DiskFile;
use sha2::{Digest, Sha256};

use super::CHECKSUM_BYTES;

/// The file is a multiple of this long, then the checksum.
const SECTOR: u64 = 512;
/// Bytes read at once for the checksum.
const CHUNK: usize = 256 << 10;

/// Why a file is no snapshot to use.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Damaged, or no bbolt file.
    #[error("cannot read the snapshot: {0}")]
    Bbolt(#[from] ReadError),
    /// It ends without a checksum: copied from a data directory, or cut short.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoChecksum,
    /// Its bytes are not those that were saved.
    #[error("expected sha256 {expected}, got {found}")]
    Checksum {
        /// What stands in the file.
        expected: String,
        /// What its bytes give.
        found: String,
    },
    /// An entry is not what etcd stores.
    #[error("the snapshot's bucket {bucket} holds an entry that is none of etcd's: {key}")]
    Entry {
        /// The bucket.
        bucket: String,
        /// The entry's key, as text.
        key: String,
    },
    /// The snapshot is of a newer etcd.
    #[error("the snapshot has storage version {found}, this binary knows up to {known}")]
    Version {
        /// Its version.
        found: String,
        /// Ours.
        known: &'static str,
    },
}

/// Checks the SHA-256 at the end of the file. Blocks.
///
/// # Errors
/// [`SourceError::NoChecksum`] and [`SourceError::Checksum`], or what the disk says.
pub fn check_sum(file: &dyn DiskFile) -> Result<(), SourceError> {
    let length = file.len().map_err(ReadError::Io)?;
    if length % SECTOR != CHECKSUM_BYTES {
        return Err(SourceError::NoChecksum);
    }
    let end = length - CHECKSUM_BYTES;
    let mut sum = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut position = 0;
    while position < end {
        let wanted = CHUNK.min((end - position) as usize);
        file.read_exact_at(&mut chunk[..wanted], position).map_err(ReadError::Io)?;
        sum.update(&chunk[..wanted]);
        position += wanted as u64;
    }
    let mut expected = [0; CHECKSUM_BYTES as usize];
    file.read_exact_at(&mut expected, end).map_err(ReadError::Io)?;
    let found = sum.finalize();
    if found[..] == expected {
        Ok(())
    } else {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Err(SourceError::Checksum { expected: hex(&expected), found: hex(&found) })
    }
}

/// Visits the values of a bucket in the order of their keys; `false` if there is no such bucket.
pub(crate) fn visit<E: From<SourceError>>(
    reader: &Reader<'_>,
    bucket: &str,
    visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    match reader.bucket(bucket.as_bytes()).map_err(SourceError::from)? {
        Some(found) => visit_bucket(reader, bucket, &found, visit).map(|()| true),
        None => Ok(false),
    }
}

/// As [`visit`], for a bucket that is found already.
pub(crate) fn visit_bucket<E: From<SourceError>>(
    reader: &Reader<'_>,
    name: &str,
    bucket: &Bucket,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for item in reader.items(bucket) {
        match item.map_err(SourceError::from)? {
            Item::Value(key, value) => visit(&key, &value)?,
            Item::Bucket(key, _) => return Err(entry(name, &key).into()),
        }
    }
    Ok(())
}

/// The error that names an entry.
pub(crate) fn entry(bucket: &str, key: &[u8]) -> SourceError {
    SourceError::Entry { bucket: bucket.to_owned(), key: key.escape_ascii().to_string() }
}

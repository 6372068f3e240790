//! A whole state, out to another member and in from one, and into a fresh file (defragmentation).
//!
//! The stream: 8 bytes of magic, then for each entry bucket (1 byte), key length, value length (4 bytes each, little
//! endian), key, value; a bucket of 255 ends it; then the CRC-32C of all before (4 bytes, little endian).

use std::{
    io::{self, Read, Write},
    path::Path,
};

use goulette_env::Disk;

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable};

use super::{Store, StoreError, load, tables};

const MAGIC: [u8; 8] = *b"GLTETCD1";
const END: u8 = 255;
/// The place of the consensus' configuration in the stream, behind etcd's buckets.
const CONFIGURATION: u8 = 254;
/// Longest key or value that a stream may announce: a transaction's limits keep all far below.
const BYTES_MAX: usize = 64 << 20;
/// Entries written in one transaction, and their bytes, whichever is reached first.
const STEP: usize = 10_000;
const STEP_BYTES: usize = 8 << 20;

/// A frozen view of the whole state.
pub struct Frozen {
    read: ReadTransaction,
}

impl Store {
    /// Freezes the state as of now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn freeze(&self) -> Result<Frozen, StoreError> {
        Ok(Frozen { read: self.database().begin_read()? })
    }

    /// Replaces the state by the one in the stream, which is written to a file of its own first. Durable on return;
    /// after an error the state is the one before.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] if the stream is.
    pub fn install(&self, from: &mut dyn Read) -> Result<(), StoreError> {
        let path = tables::draft(&self.folder);
        let fresh = tables::create(&*self.disk, &path)?;
        let identity = self.get(tables::GOULETTE, tables::goulette::IDENTITY)?;
        let mut writer = Writer::new(&fresh);
        read_stream(from, |bucket, key, value| match bucket {
            CONFIGURATION => writer.insert(tables::GOULETTE, key, value),
            bucket => match tables::BUCKETS.get(usize::from(bucket)) {
                Some(&bucket) => writer.insert(bucket, key, value),
                None => Err(damaged("an unknown bucket")),
            },
        })?;
        if let Some(identity) = identity {
            writer.insert(tables::GOULETTE, tables::goulette::IDENTITY, &identity)?;
        }
        writer.finish()?;
        self.replace(fresh)
    }

    /// Makes a store in `folder`, which has none, of what `fill` inserts. Durable on return; after an error there is none.
    ///
    /// # Errors
    /// What `fill` says, or [`StoreError`].
    pub(crate) fn fill<T, E: From<StoreError>>(
        disk: &dyn Disk,
        folder: &Path,
        fill: impl FnOnce(&mut Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = tables::draft(folder);
        let fresh = tables::create(disk, &path)?;
        let mut writer = Writer::new(&fresh);
        let filled = fill(&mut writer)?;
        writer.finish()?;
        drop(fresh);
        disk.rename(&path, &folder.join(tables::FILE_NAME)).map_err(StoreError::from)?;
        tables::sync_names(disk, folder).map_err(StoreError::from)?;
        Ok(filled)
    }

    /// Writes everything into a fresh file, without the free space of the old one. Nobody else can read or write
    /// meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn defragment(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = tables::draft(&self.folder);
        let fresh = tables::create(&*self.disk, &path)?;
        let mut writer = Writer::new(&fresh);
        let read = database.begin_read()?;
        for bucket in tables::BUCKETS.into_iter().chain([tables::GOULETTE]) {
            for entry in read.open_table(bucket)?.iter()? {
                let (key, value) = entry?;
                writer.insert(bucket, key.value(), value.value())?;
            }
        }
        writer.finish()?;
        drop(read);
        self.disk.rename(&path, &self.folder.join(tables::FILE_NAME))?;
        self.disk.sync_dir(&self.folder)?;
        *database = fresh;
        let mut memory = self.memory_mut();
        memory.used_peak = memory.used;
        Ok(())
    }

    fn replace(&self, fresh: Database) -> Result<(), StoreError> {
        let loaded = load(&fresh)?;
        let mut database = self.database.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.disk.rename(&tables::draft(&self.folder), &self.folder.join(tables::FILE_NAME))?;
        self.disk.sync_dir(&self.folder)?;
        *database = fresh;
        *self.memory_mut() = loaded;
        self.hashes().clear();
        Ok(())
    }
}

impl Frozen {
    /// One value of a bucket.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, bucket: tables::Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read.open_table(bucket)?.get(key)?.map(|value| value.value().to_vec()))
    }

    /// Visits all entries of a bucket in the order of keys.
    ///
    /// # Errors
    /// [`StoreError`], or what `visit` says.
    pub fn scan<E: From<StoreError>>(
        &self,
        bucket: tables::Bucket,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.read.open_table(bucket).map_err(StoreError::from)?;
        for entry in table.iter().map_err(StoreError::from)? {
            let (key, value) = entry.map_err(StoreError::from)?;
            visit(key.value(), value.value())?;
        }
        Ok(())
    }

    /// Writes the state as a stream that [`Store::install`] reads.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(&self, to: &mut dyn Write) -> Result<(), StoreError> {
        let mut crc = crc32c::crc32c(&MAGIC);
        to.write_all(&MAGIC)?;
        let mut entry = |bucket: u8, key: &[u8], value: &[u8]| -> Result<(), StoreError> {
            let mut head = [bucket; 9];
            head[1..5].copy_from_slice(&(key.len() as u32).to_le_bytes());
            head[5..].copy_from_slice(&(value.len() as u32).to_le_bytes());
            for part in [&head[..], key, value] {
                crc = crc32c::crc32c_append(crc, part);
                to.write_all(part)?;
            }
            Ok(())
        };
        for (number, bucket) in tables::BUCKETS.into_iter().enumerate() {
            self.scan(bucket, |key, value| entry(number as u8, key, value))?;
        }
        if let Some(configuration) = self.get(tables::GOULETTE, tables::goulette::CONFIGURATION)? {
            entry(CONFIGURATION, tables::goulette::CONFIGURATION, &configuration)?;
        }
        entry(END, b"", b"")?;
        Ok(to.write_all(&crc.to_le_bytes())?)
    }
}

/// Reads a stream, whose entries are only to be believed once it returns.
fn read_stream(
    from: &mut dyn Read,
    mut visit: impl FnMut(u8, &[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged("it is no state of ours"));
    }
    let mut crc = crc32c::crc32c(&magic);
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        crc = crc32c::crc32c_append(crc, &head);
        let length = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (key, value) = (length(1), length(5));
        if key > BYTES_MAX || value > BYTES_MAX {
            return Err(damaged("an entry is too long"));
        }
        // Grows with what arrives, not with what is announced.
        bytes.clear();
        io::Read::take(&mut *from, (key + value) as u64).read_to_end(&mut bytes)?;
        if bytes.len() != key + value {
            return Err(damaged("it ends too early"));
        }
        crc = crc32c::crc32c_append(crc, &bytes);
        if head[0] == END {
            break;
        }
        visit(head[0], &bytes[..key], &bytes[key..])?;
    }
    let mut stored = [0; 4];
    from.read_exact(&mut stored)?;
    if stored == crc.to_le_bytes() { Ok(()) } else { Err(damaged("its checksum does not match")) }
}

fn damaged(why: &str) -> StoreError {
    StoreError::Damaged(format!("the state that was received: {why}"))
}

/// Fills a fresh file in transactions of bounded size.
pub(crate) struct Writer<'d> {
    database: &'d Database,
    pending: Vec<(tables::Bucket, Vec<u8>, Vec<u8>)>,
    pending_bytes: usize,
}

impl<'d> Writer<'d> {
    pub(crate) fn new(database: &'d Database) -> Self {
        Self { database, pending: Vec::new(), pending_bytes: 0 }
    }

    pub(crate) fn insert(&mut self, bucket: tables::Bucket, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.pending.push((bucket, key.to_vec(), value.to_vec()));
        self.pending_bytes += key.len() + value.len();
        let full = self.pending.len() == STEP || self.pending_bytes >= STEP_BYTES;
        if full { self.flush(Durability::None) } else { Ok(()) }
    }

    /// Makes everything durable.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        self.flush(Durability::Immediate)
    }

    fn flush(&mut self, durability: Durability) -> Result<(), StoreError> {
        let write = tables::begin(self.database, durability)?;
        for of_bucket in
            self.pending.chunk_by(|(a, ..), (b, ..)| redb::TableHandle::name(a) == redb::TableHandle::name(b))
        {
            let mut table = write.open_table(of_bucket[0].0)?;
            for (_, key, value) in of_bucket {
                table.insert(&key[..], &value[..])?;
            }
        }
        write.commit()?;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }
}

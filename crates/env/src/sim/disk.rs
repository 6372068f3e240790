//! A disk in memory that can lose what was not synced.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Faults, Operation, SimClock, SimRandom, Unsynced,
    machine::{Machine, Node, parent},
};
use crate::{Disk, DiskFile, DiskLock, Entry, Env, FileSystem, OpenMode};

/// A disk in memory; clones are the same disk.
///
/// It keeps what was written apart from what was synced. [`crash`](Self::crash) gives the disk that a machine would
/// find after a power cut, [`restart`](Self::restart) the one that the next process finds when only the process died:
/// unsynced bytes are still in the page cache, and still not durable. After either, this disk and its open files are
/// dead, but can be asked again for another outcome.
#[derive(Clone)]
pub struct SimDisk {
    machine: Arc<Mutex<Machine>>,
}

impl SimDisk {
    /// An empty disk. Everything that it leaves to chance follows from the seed.
    pub fn from_seed(seed: u64) -> Self {
        Self::new(Machine::new(seed))
    }

    /// A world around this disk: its own clock at zero, and random numbers from the disk's seed.
    pub fn env(&self) -> Env {
        let seed = self.lock().seed;
        Env {
            disk: Arc::new(self.clone()),
            clock: Arc::new(SimClock::new(1_700_000_000_000)),
            random: Arc::new(SimRandom::from_seed(!seed)),
        }
    }

    /// The disk after a power cut, without faults.
    pub fn crash(&self, unsynced: Unsynced) -> SimDisk {
        Self::new(self.lock().crash(unsynced))
    }

    /// The disk for the next process after this one's was killed, without faults and locks.
    pub fn restart(&self) -> SimDisk {
        Self::new(self.lock().restart())
    }

    /// Changes what is to go wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How many operations were done that change something or make it durable.
    pub fn operations(&self) -> u64 {
        self.lock().log.len() as u64
    }

    /// These operations, in order.
    pub fn log(&self) -> Vec<Operation> {
        self.lock().log.clone()
    }

    /// How many syncs were tried, of files and of folders.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How many writes were tried.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// How many changes a crash would put at stake.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced()
    }

    /// How many single sectors, names and lengths these are: 2 to the power of it is the number of disks that may be left.
    pub fn unsynced_sectors(&self) -> usize {
        self.lock().unsynced_sectors()
    }

    /// Whether the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// The bytes of each file by path, as reads see them; also of a dead disk. For comparing, and for damaging copies.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.lock().live_files()
    }

    fn new(machine: Machine) -> Self {
        Self { machine: Arc::new(Mutex::new(machine)) }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> io::Result<MutexGuard<'_, Machine>> {
        let machine = self.lock();
        machine.running()?;
        Ok(machine)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut machine = self.running()?;
        let id = match (machine.node(path), mode) {
            (Some(Node::Folder), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::CreateNew | OpenMode::CreateOrOpen) => machine.create(path)?,
        };
        let writable = mode != OpenMode::Read;
        Ok(Box::new(SimFile { disk: self.clone(), id, path: path.to_owned(), writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.running()?;
        let mut missing = Vec::new();
        for path in path.ancestors() {
            match machine.node(path) {
                Some(Node::Folder) => break,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => missing.push(path),
            }
        }
        missing.into_iter().rev().try_for_each(|path| machine.create_folder(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let machine = self.running()?;
        machine.folder(path)?;
        let entry = |(path, node): (&PathBuf, &Node)| {
            let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Entry { name: name.to_owned(), is_dir: *node == Node::Folder })
        };
        let mut entries = machine.children(path).map(entry).collect::<io::Result<Vec<_>>>()?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.running()?;
        machine.folder(parent(to))?;
        match (machine.node(from), machine.node(to)) {
            (None, _) => Err(io::ErrorKind::NotFound.into()),
            (Some(Node::File(_)), Some(Node::Folder)) => Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::Folder), Some(Node::File(_))) => Err(io::ErrorKind::NotADirectory.into()),
            (Some(Node::Folder), Some(Node::Folder)) if machine.children(to).next().is_some() => {
                Err(io::ErrorKind::DirectoryNotEmpty.into())
            }
            (Some(node), _) => machine.rename(from, to, node),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.running()?;
        match machine.node(path) {
            Some(Node::File(_)) => machine.remove(path),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.running()?;
        machine.folder(path)?;
        if machine.children(path).next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        machine.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.running()?;
        machine.folder(path)?;
        machine.sync_folder(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.running()?.node(path).is_some())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.open(path, OpenMode::CreateOrOpen)?;
        if !self.running()?.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let machine = self.running()?;
        Ok(machine.faults.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(machine.used())))
    }

    fn volume_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.running()?.faults.capacity.unwrap_or(u64::MAX / 2))
    }

    fn file_system(&self, _dir: &Path) -> io::Result<Box<dyn FileSystem>> {
        Ok(Box::new(SimFileSystem(self.clone())))
    }
}

struct SimFileSystem(SimDisk);

impl FileSystem for SimFileSystem {
    fn sync_all(&self) -> io::Result<()> {
        self.0.running()?.sync_all()
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.lock().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    /// As it was when the file was opened; for the log.
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn writable(&self) -> io::Result<MutexGuard<'_, Machine>> {
        if !self.writable {
            return Err(rustix::io::Errno::BADF.into());
        }
        self.disk.running()
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let machine = self.disk.running()?;
        let bytes = machine.bytes(self.id);
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let bytes = slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
        self.writable()?.write(self.id, &self.path, position, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.running()?.bytes(self.id).len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writable()?.set_length(self.id, "set_len", &self.path, length)
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<()> {
        let mut machine = self.writable()?;
        let length = (position + length).max(machine.bytes(self.id).len() as u64);
        machine.set_length(self.id, "allocate", &self.path, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.running()?.sync(self.id, &self.path)
    }

    fn start_writeback(&self, _position: u64, _length: u64) -> io::Result<()> {
        // What a crash leaves of unsynced bytes is anybody's guess, started or not.
        self.disk.running().map(drop)
    }

    fn drop_cache(&self, position: u64, length: u64) -> io::Result<()> {
        self.disk.running()?.drop_cache(self.id, position, length);
        Ok(())
    }
}

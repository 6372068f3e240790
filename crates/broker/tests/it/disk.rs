//! The real disk, whose syncs a test can hold back or let fail.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use goulette_env::{Disk, DiskFile, DiskLock, Entry, Env, OpenMode, RealDisk};

const DEADLINE: Duration = Duration::from_secs(30);

/// Holds every sync back while it is shut.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Shut,
    Broken,
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.set(State::Shut);
    }

    pub(crate) fn open(&self) {
        self.set(State::Open);
    }

    /// From now on every sync fails.
    pub(crate) fn break_disk(&self) {
        self.set(State::Broken);
    }

    /// The real world, but for syncs, which have to pass this gate.
    pub(crate) fn env(&self) -> Env {
        Env { disk: Arc::new(GatedDisk { gate: self.clone() }), ..Env::real() }
    }

    fn set(&self, state: State) {
        *self.0.0.lock().unwrap() = state;
        self.0.1.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let state = self.0.0.lock().unwrap();
        // A test that fails while the gate is shut must still come to its end.
        let (state, _) = self.0.1.wait_timeout_while(state, DEADLINE, |state| *state == State::Shut).unwrap();
        match *state {
            State::Open => Ok(()),
            State::Shut => Err(io::Error::other("the test left the gate shut")),
            State::Broken => Err(io::Error::other("the test broke this disk")),
        }
    }
}

pub(crate) struct GatedDisk {
    gate: Gate,
}

struct GatedFile {
    file: Box<dyn DiskFile>,
    gate: Gate,
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GatedFile { file: RealDisk.open(path, mode)?, gate: self.gate.clone() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        RealDisk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }

    fn volume_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.volume_bytes(path)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.file.write_at(slices, position)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<()> {
        self.file.allocate(position, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }

    fn start_writeback(&self, position: u64, length: u64) -> io::Result<()> {
        self.file.start_writeback(position, length)
    }

    fn drop_cache(&self, position: u64, length: u64) -> io::Result<()> {
        self.file.drop_cache(position, length)
    }
}

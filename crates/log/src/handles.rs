//! What fragments hold while they are in use: a descriptor, and the index of sealed ones. Bounded over all partitions.
//!
//! Those that were not used for a while are let go first, in the order of the CLOCK algorithm: a handle that was used since
//! it was last looked at gets another round. **A descriptor with unsynced bytes is never closed**: the kernel would tell a
//! failed write to nobody. Where nothing else is left, one is synced first.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use goulette_env::DiskFile;

use crate::{index::Index, lock, trigger::Trigger};

/// Handles looked at, at most, to find one that can be let go.
const LOOKS_MAX: usize = 64;

/// All handles that may hold a descriptor.
pub(crate) struct Handles {
    max: usize,
    /// Oldest first; with those of fragments that are gone, until they are come upon.
    open: Mutex<VecDeque<Weak<Handle>>>,
    /// Pulled when too many are unsynced: a checkpoint makes them all durable at once.
    checkpoint: Arc<Trigger>,
}

/// A fragment's descriptor and index.
#[derive(Default)]
pub(crate) struct Handle {
    slot: Mutex<Slot>,
    used: AtomicBool,
    /// Held while the file is synced: what fails is reported to one caller only. True once it failed.
    syncing: Mutex<bool>,
    /// None until somebody needs it, if the fragment was not begun in this life.
    pub(crate) index: Mutex<Option<Index>>,
    pub(crate) sealed: AtomicBool,
}

#[derive(Default)]
struct Slot {
    file: Option<Arc<dyn DiskFile>>,
    /// Writes under way.
    writing: usize,
    /// Rises when a write begins, and when it ends.
    writes: u64,
    /// So many of them a successful sync has seen.
    durable: u64,
}

impl Slot {
    fn is_dirty(&self) -> bool {
        self.writing > 0 || self.writes != self.durable
    }
}

/// How much was written when somebody looked.
#[derive(Clone, Copy)]
pub(crate) struct Mark(u64);

impl Handles {
    pub(crate) fn new(max: usize, checkpoint: Arc<Trigger>) -> Self {
        Self { max, open: Mutex::default(), checkpoint }
    }

    /// Takes charge of a handle that was opened, and lets others go if there are too many. Returns one if none of those
    /// looked at can be let go as it is: a writer syncs it first.
    fn admit(&self, handle: &Arc<Handle>) -> Option<Arc<Handle>> {
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(handle));
        let mut kept = None;
        // Twice around: the first time only takes note that they were used.
        for _ in 0..LOOKS_MAX.min(2 * open.len()) {
            if open.len() <= self.max {
                return None;
            }
            let oldest = open.pop_front()?;
            let Some(oldest) = oldest.upgrade() else { continue };
            if oldest.used.swap(false, Ordering::Relaxed) || !oldest.release() {
                open.push_back(Arc::downgrade(&oldest));
                kept.get_or_insert(oldest);
            }
        }
        let crowded = open.len() > self.max;
        drop(open);
        let kept = kept.filter(|_| crowded);
        if kept.as_ref().is_some_and(|kept| kept.unsynced().is_some()) {
            self.checkpoint.pull();
        }
        kept
    }
}

/// An open file, and a handle that a writer must sync before it can be let go.
type Opened = (Arc<dyn DiskFile>, Option<Arc<Handle>>);

impl Handle {
    /// The open file; `open` opens it if it is not.
    pub(crate) fn file(
        self: &Arc<Self>,
        handles: &Handles,
        open: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        // Readers do not wait for a sync: what they open can be let go again.
        self.open(handles, open).map(|(file, _)| file)
    }

    /// Has `write` change the file, which is unsynced from then on; `open` opens it if it is not.
    pub(crate) fn write<T>(
        self: &Arc<Self>,
        handles: &Handles,
        open: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
        write: impl FnOnce(&dyn DiskFile) -> io::Result<T>,
    ) -> io::Result<T> {
        self.note_write(1);
        let written = self.open(handles, open).and_then(|(file, unsynced)| {
            if let Some(unsynced) = unsynced {
                // Whatever the reason: nobody knows what became of the bytes, so that it must not look like a full disk.
                unsynced.sync().map_err(|error| io::Error::other(format!("cannot sync another fragment: {error}")))?;
                unsynced.release();
            }
            write(&*file)
        });
        self.note_write(-1);
        written
    }

    fn note_write(&self, change: isize) {
        let mut slot = lock(&self.slot);
        slot.writing = slot.writing.strict_add_signed(change);
        slot.writes += 1;
    }

    fn open(
        self: &Arc<Self>,
        handles: &Handles,
        open: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Opened> {
        self.used.store(true, Ordering::Relaxed);
        let mut slot = lock(&self.slot);
        if let Some(file) = &slot.file {
            return Ok((file.clone(), None));
        }
        let file: Arc<dyn DiskFile> = open()?.into();
        slot.file = Some(file.clone());
        // The handles' lock is taken before a handle's.
        drop(slot);
        Ok((file, handles.admit(self)))
    }

    /// Makes all that was written before the call durable. Fails for good once it has failed.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut failed = lock(&self.syncing);
        if *failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        let Some(mark) = self.unsynced() else { return Ok(()) };
        let file = lock(&self.slot).file.clone();
        // A write that could not open the file has written nothing.
        if let Some(file) = file {
            file.sync_data().inspect_err(|_| *failed = true)?;
        }
        self.note_synced(mark);
        Ok(())
    }

    /// Whether there is anything that a sync would make durable, and how much.
    pub(crate) fn unsynced(&self) -> Option<Mark> {
        let slot = lock(&self.slot);
        slot.is_dirty().then_some(Mark(slot.writes))
    }

    /// All that was written when the mark was taken is durable.
    pub(crate) fn note_synced(&self, mark: Mark) {
        let mut slot = lock(&self.slot);
        slot.durable = slot.durable.max(mark.0);
    }

    /// Lets go of descriptor and index, if nothing is unsynced and nobody looks into the index: who does may be waiting for
    /// the caller's lock. Whoever reads from the file holds on to it for so long.
    fn release(&self) -> bool {
        let Ok(mut index) = self.index.try_lock() else { return false };
        let mut slot = lock(&self.slot);
        if slot.is_dirty() {
            return false;
        }
        slot.file = None;
        if self.sealed.load(Ordering::Acquire) {
            *index = None;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use goulette_env::{Disk, OpenMode, sim::SimDisk};

    use super::*;

    fn path(number: usize) -> PathBuf {
        Path::new("/").join(number.to_string())
    }

    fn is_open(handle: &Handle) -> bool {
        lock(&handle.slot).file.is_some()
    }

    struct World {
        disk: SimDisk,
        handles: Handles,
        all: Vec<Arc<Handle>>,
    }

    impl World {
        fn new(max: usize) -> Self {
            let handles = Handles::new(max, Arc::default());
            Self { disk: SimDisk::from_seed(1), handles, all: (0..10).map(|_| Arc::default()).collect() }
        }

        fn read(&self, number: usize) {
            let open = || self.disk.open(&path(number), OpenMode::CreateOrOpen);
            self.all[number].file(&self.handles, open).unwrap();
        }

        fn write(&self, number: usize) {
            let open = || self.disk.open(&path(number), OpenMode::CreateOrOpen);
            self.all[number].write(&self.handles, open, |file| file.write_all_at(b"x", 0)).unwrap();
        }

        fn open(&self) -> Vec<usize> {
            (0..10).filter(|&number| is_open(&self.all[number])).collect()
        }
    }

    #[test]
    fn no_more_than_so_many_stay_open_and_the_ones_in_use_do() {
        let world = World::new(3);
        (0..10).for_each(|number| {
            world.read(0);
            world.read(number);
            assert!(world.open().len() <= 3);
        });
        assert!(world.open().contains(&9));
    }

    #[test]
    fn what_is_unsynced_is_synced_before_it_is_closed() {
        let world = World::new(3);
        (0..10).for_each(|number| {
            world.write(number);
            let closed = (0..=number).filter(|&number| !is_open(&world.all[number]));
            assert!(closed.clone().all(|number| world.all[number].unsynced().is_none()), "after {number}");
            assert!(world.open().len() <= 3, "{:?}", world.open());
        });
        assert_eq!(world.disk.syncs(), 7);
        assert!(world.handles.checkpoint.wait(std::time::Duration::ZERO), "a checkpoint is asked for");
        let kept = world.disk.crash(goulette_env::sim::Unsynced::None).files();
        assert!(kept.is_empty() || kept.values().all(|bytes| bytes == b"x"));
    }

    #[test]
    fn a_write_under_way_is_not_taken_for_synced() {
        let world = World::new(3);
        let handle = &world.all[0];
        let open = || world.disk.open(&path(0), OpenMode::CreateOrOpen);
        handle
            .write(&world.handles, open, |file| {
                handle.sync().unwrap();
                assert!(!handle.release());
                file.write_all_at(b"late", 0)
            })
            .unwrap();
        assert!(handle.unsynced().is_some() && !handle.release());
        handle.sync().unwrap();
        assert!(handle.unsynced().is_none() && handle.release());
    }

    #[test]
    fn a_handle_whose_index_is_in_use_is_kept() {
        let world = World::new(1);
        world.read(0);
        let in_use = lock(&world.all[0].index);
        // Twice: the first look only takes note that it was used.
        (1..4).for_each(|number| world.read(number));
        assert!(is_open(&world.all[0]));
        drop(in_use);
        (4..7).for_each(|number| world.read(number));
        assert!(!is_open(&world.all[0]));
    }

    #[test]
    fn a_sync_that_failed_is_not_tried_again() {
        let world = World::new(3);
        world.write(0);
        world.disk.set_faults(goulette_env::sim::Faults { fail_sync_at: Some(1), ..Default::default() });
        assert!(world.all[0].sync().is_err());
        assert!(world.all[0].sync().is_err());
        assert_eq!(world.disk.syncs(), 1);
    }
}

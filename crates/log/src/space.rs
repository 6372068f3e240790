//! Space on the disk: appends are refused before it runs out, so that all that was taken finds its place and the rest of
//! the engine goes on.
//!
//! What an append needs is reserved before it is queued: once in the WAL, once in its fragment. Below a mark appends are
//! refused, until somewhat more is free. What is left is for what must go on: checkpoints, deletions, retention, groups'
//! positions. Somebody else may take even that: so a *ballast* file holds some back, and is given up when the checkpoint
//! or the WAL finds nothing else. Whatever meets a full disk all the same waits in memory and in the WAL.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use goulette_env::{Disk, OpenMode};
use goulette_types::BrokerId;
use goulette_wal::Wal;

use crate::{engine::Engine, error::AppendError, lock, options::LogOptions};

/// The ballast's file in the data directory.
pub(crate) const FILE: &str = "ballast";
/// How often is looked whether others have taken space, or given it back.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Space that nobody else may need at once: a checkpoint, and the blocks that a file system takes for itself.
const CHECKPOINT_BYTES: u64 = 8 << 20;

/// Groups of the WAL, and most file systems, count in blocks.
const BLOCK_BYTES: u64 = 4096;

/// How much of the disk is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceOptions {
    /// Appends are refused while fewer bytes are free, those on their way to the disk counted as stored; they are taken
    /// again when a quarter more is. None: two WAL segments and 1 % of the volume, which counts as no less than 64 MiB
    /// (or a sixteenth of a smaller volume) and no more than 1 GiB.
    pub free_bytes_min: Option<u64>,
    /// Bytes of the ballast; 0 for none. None: a WAL segment and 8 MiB.
    pub ballast_bytes: Option<u64>,
}

/// What becomes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceEvent {
    /// Appends are refused from now on. Said once.
    Refusing {
        /// Bytes that are free.
        free: u64,
        /// Bytes below which appends are refused.
        below: u64,
    },
    /// Appends are taken again.
    Accepting {
        /// Bytes that are free.
        free: u64,
    },
}

/// Hears of the disk, on a thread of its own.
pub type SpaceListener = Arc<dyn Fn(&SpaceEvent) + Send + Sync>;

/// The disk in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Whether appends are refused.
    pub refusing: bool,
    /// Bytes below which they are.
    pub free_bytes_min: u64,
    /// Bytes held back for checkpoint and WAL; 0 while they are given up.
    pub ballast_bytes: u64,
}

pub(crate) struct Space {
    broker: Option<BrokerId>,
    path: PathBuf,
    free_min: u64,
    /// Appends are taken again when so much is free.
    free_enough: u64,
    ballast_bytes: u64,
    /// Bytes that all batches that were let in [may take](at_most).
    accepted: AtomicU64,
    /// How many may be let in before somebody must look again.
    limit: AtomicU64,
    refusing: AtomicBool,
    /// Whether the listener knows that. Held while it is told.
    told: Mutex<bool>,
    /// What was free when somebody looked last.
    free: AtomicU64,
    /// Whether the ballast is on the disk. Held while that changes.
    ballast: Mutex<bool>,
    pub(crate) listener: Mutex<Option<SpaceListener>>,
}

impl Space {
    pub(crate) fn new(disk: &dyn Disk, path: PathBuf, broker: Option<BrokerId>, options: &LogOptions) -> Self {
        let segment = u64::from(options.wal.segment_bytes);
        // An unknown size is a large one.
        let volume = path.parent().map_or(Ok(u64::MAX), |dir| disk.volume_bytes(dir)).unwrap_or(u64::MAX);
        let margin = (volume / 100).clamp((64 << 20).min(volume / 16), 1 << 30);
        let free_min = options.space.free_bytes_min.unwrap_or(2 * segment + margin);
        Self {
            broker,
            path,
            free_min,
            free_enough: free_min.saturating_add(free_min / 4),
            ballast_bytes: options.space.ballast_bytes.unwrap_or(segment + CHECKPOINT_BYTES),
            accepted: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            told: Mutex::new(false),
            free: AtomicU64::new(0),
            ballast: Mutex::new(false),
            listener: Mutex::default(),
        }
    }

    pub(crate) fn stats(&self) -> SpaceStats {
        SpaceStats {
            refusing: self.refusing.load(Ordering::Relaxed),
            free_bytes_min: self.free_min,
            ballast_bytes: if *lock(&self.ballast) { self.ballast_bytes } else { 0 },
        }
    }

    fn refusal(&self) -> AppendError {
        AppendError::StorageFull {
            broker: self.broker.clone(),
            free: self.free.load(Ordering::Relaxed),
            below: self.free_min,
        }
    }

    /// The ballast goes, and whatever waits for its space may try again. Returns whether there was any.
    pub(crate) fn release_ballast(&self, disk: &dyn Disk) -> bool {
        let mut held = lock(&self.ballast);
        // Should it not go, the next one tries again.
        *held && disk.remove_file(&self.path).is_ok_and(|()| std::mem::take(&mut *held))
    }

    /// Puts the ballast there, or finds it there.
    fn hold_ballast(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut held = lock(&self.ballast);
        if !*held && self.ballast_bytes > 0 {
            let allocated =
                disk.open(&self.path, OpenMode::CreateOrOpen).and_then(|file| file.allocate(0, self.ballast_bytes));
            if let Err(error) = allocated {
                // Half a ballast is none; what it took is wanted elsewhere.
                let _ = disk.remove_file(&self.path);
                return Err(error);
            }
            *held = true;
        }
        Ok(())
    }
}

impl Engine {
    /// Reserves disk space for a batch. (It is given back by being used, or with [`return_space`](Self::return_space).)
    pub(crate) fn reserve_space(&self, bytes: usize) -> Result<(), AppendError> {
        let space = &self.space;
        if space.refusing.load(Ordering::Relaxed) {
            return Err(space.refusal());
        }
        let needed = at_most(bytes);
        let accepted = space.accepted.fetch_add(needed, Ordering::Relaxed) + needed;
        if accepted > space.limit.load(Ordering::Relaxed) {
            self.measure_space(needed);
            if accepted > space.limit.load(Ordering::Relaxed) {
                self.return_space(bytes);
                self.refuse_appends();
                return Err(space.refusal());
            }
        }
        Ok(())
    }

    /// A batch was not taken after all.
    pub(crate) fn return_space(&self, bytes: usize) {
        self.space.accepted.fetch_sub(at_most(bytes), Ordering::Relaxed);
    }

    /// Somebody met a full disk: whatever was measured, nothing more is let in for now.
    pub(crate) fn refuse_appends(&self) {
        let space = &self.space;
        if !space.refusing.swap(true, Ordering::Relaxed) {
            // To look what can be done, and to tell.
            self.retention_trigger.pull();
            self.space_trigger.pull();
        }
    }

    /// There was no space where some was expected.
    pub(crate) fn out_of_space(&self) -> AppendError {
        self.refuse_appends();
        self.space.refusal()
    }

    /// Sets the limit anew; `let_in` of what was let in has yet to find its room. Returns the bytes that will be free when everything on its way has arrived, the ballast not
    /// counted; none if the system does not tell.
    fn measure_space(&self, let_in: u64) -> Option<u64> {
        let space = &self.space;
        // In this order: what is let in meanwhile counts against the limit, at worst twice.
        let accepted = space.accepted.load(Ordering::Relaxed);
        let queued = self.with_wal(Wal::stats).unwrap_or_default().queue_bytes;
        let on_its_way = (self.unflushed() as u64).saturating_add(queued);
        let free_bytes = || self.env.disk.free_bytes(&self.dir);
        let enough = |free: u64| free.saturating_sub(on_its_way) >= space.free_enough;
        let free = match free_bytes() {
            // Recycled fragments count as free: here is where they become so.
            Ok(free) if !enough(free) && self.fragment_pool.clear(&*self.env.disk) => free_bytes(),
            free => free,
        };
        let Ok(free) = free else {
            space.limit.store(u64::MAX, Ordering::Relaxed);
            return None;
        };
        space.free.store(free, Ordering::Relaxed);
        let left = free.saturating_sub(on_its_way);
        // Once in the WAL, once in a fragment.
        let room = left.saturating_sub(space.free_min) / 2;
        space.limit.store(accepted.saturating_sub(let_in).saturating_add(room), Ordering::Relaxed);
        Some(left)
    }

    /// Looks at the disk once: refuses appends or takes them again, gives up the ballast or gathers it again.
    pub(crate) fn look_at_space(&self) {
        self.look();
        self.space.tell();
    }

    fn look(&self) {
        let space = &self.space;
        let disk = &*self.env.disk;
        let wal_full = self.with_wal(Wal::stats).unwrap_or_default().full;
        if wal_full {
            self.refuse_appends();
            space.release_ballast(disk);
        }
        let Some(left) = self.measure_space(0) else { return };
        if left < space.free_min {
            self.refuse_appends();
        }
        if space.refusing.load(Ordering::Relaxed) && self.space_awaits_checkpoint() {
            self.checkpoint_trigger.pull();
        }
        // The ballast before the appends: who is let in may need it.
        let held = *lock(&space.ballast);
        let enough = if held { space.free_enough } else { space.free_enough.saturating_add(space.ballast_bytes) };
        if wal_full || left < enough || space.hold_ballast(disk).is_err() {
            return;
        }
        if space.refusing.swap(false, Ordering::Relaxed) {
            self.measure_space(0);
        }
    }

    /// Before the WAL is opened, which takes a segment: on a full disk gives up the ballast for it.
    pub(crate) fn make_room_to_open(&self) {
        let disk = &*self.env.disk;
        *lock(&self.space.ballast) = disk.exists(&self.space.path).unwrap_or(false);
        let needed = u64::from(self.options.wal.segment_bytes) + CHECKPOINT_BYTES.min(self.space.free_min);
        if disk.free_bytes(&self.dir).is_ok_and(|free| free < needed) {
            self.space.release_ballast(disk);
        }
    }

    /// Whether files wait to be removed.
    fn space_awaits_checkpoint(&self) -> bool {
        !lock(&self.deleted).is_empty()
            || self.partitions().iter().any(|partition| !lock(partition.state()).removed.is_empty())
    }
}

impl Space {
    /// Tells the listener what it does not know.
    fn tell(&self) {
        let mut told = lock(&self.told);
        let refusing = self.refusing.load(Ordering::Relaxed);
        if *told == refusing {
            return;
        }
        *told = refusing;
        let free = self.free.load(Ordering::Relaxed);
        let event =
            if refusing { SpaceEvent::Refusing { free, below: self.free_min } } else { SpaceEvent::Accepting { free } };
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener(&event);
        }
    }
}

/// What a batch may take in the WAL, where it may be a group of its own, and no more than that in its fragment.
fn at_most(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES
}

/// The thread's work: looks every now and then, until `stopped` says so.
pub(crate) fn run(engine: &Engine, stopped: &dyn Fn() -> bool) {
    loop {
        engine.space_trigger.wait(LOOK_INTERVAL);
        if stopped() || engine.poisoned().is_some() {
            return;
        }
        engine.look_at_space();
    }
}

/// Makes settings fit a small volume: a WAL of a gigabyte would leave it no room for anything else.
pub(crate) fn fit(options: &mut LogOptions, volume: u64) {
    const SEGMENT_BYTES_MIN: u32 = 16 << 20;
    let wal = &mut options.wal;
    let sixteenth = u32::try_from(volume / 16).unwrap_or(u32::MAX) & !((1 << 20) - 1);
    wal.segment_bytes = wal.segment_bytes.min(sixteenth.max(SEGMENT_BYTES_MIN));
    let segment = u64::from(wal.segment_bytes);
    let wal_bytes_max = (volume / 4).max(4 * segment);
    options.wal_bytes_max = options.wal_bytes_max.min(wal_bytes_max);
    options.checkpoint_bytes = options.checkpoint_bytes.min(options.wal_bytes_max / 2);
    let spares = usize::try_from(options.wal_bytes_max / segment).unwrap_or(usize::MAX);
    wal.spare_segments_max = wal.spare_segments_max.min(spares);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_volume_changes_no_setting_and_a_small_one_shrinks_the_wal() {
        let mut options = LogOptions::default();
        fit(&mut options, 64 << 30);
        let defaults = LogOptions::default();
        assert_eq!(options.wal.segment_bytes, defaults.wal.segment_bytes);
        assert_eq!(options.wal.spare_segments_max, defaults.wal.spare_segments_max);
        assert_eq!((options.checkpoint_bytes, options.wal_bytes_max), (256 << 20, 1 << 30));
        fit(&mut options, 256 << 20);
        assert_eq!((options.wal.segment_bytes, options.wal.spare_segments_max), (16 << 20, 4));
        assert_eq!((options.checkpoint_bytes, options.wal_bytes_max), (32 << 20, 64 << 20));
        assert!(options.mistakes().is_empty() && options.wal.mistakes().is_empty());
    }
}

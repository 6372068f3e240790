//! Segment files before and after their life in the log: prepared ahead, recycled behind the checkpoint.
//!
//! A sync is cheapest, and safest, when it changes nothing but bytes, so a segment is complete before its first entry:
//! every block written once, the header synced, its name durable. A helper thread does this while the segment before
//! fills. A log that catches up with it waits: of blocks that are reserved and not yet written, ext4 has been seen to
//! report a sync that never happened (`docs/adr/0009-written-segments.md`).
//!
//! A file leaves the log in this order: renamed to a spare, the folder synced, and only then overwritten. So no crash
//! shows a segment's name over another life's header. Segments leave oldest first, one folder sync each: what is left
//! never has a gap.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use goulette_env::{DiskFile, Env, OpenMode};

use crate::{
    error::{Doing, Failure},
    segment::{GROUP_ALIGN, Seed, SegmentHeader, new_name, parse_new_name, parse_spare_name, segment_name, spare_name},
};

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;
/// How long after running out of space the helper tries again.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// A segment that is ready for its first group.
pub(crate) struct Prepared {
    pub(crate) segment: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) seed: Seed,
    pub(crate) segment_bytes: u32,
}

/// What the pool tells the log without being asked.
pub(crate) enum News {
    /// Whether there is no space for the next segment.
    Full(bool),
    /// A call failed for another reason than space: the log must stop.
    Failed(Failure),
}

/// Where and how to make segments.
pub(crate) struct PoolConfig {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) log: u128,
    pub(crate) segment_bytes: u32,
    pub(crate) spares_max: usize,
    pub(crate) inline: bool,
    pub(crate) report: Box<dyn Fn(News) + Send + Sync>,
}

/// See the module.
pub(crate) struct Pool {
    config: PoolConfig,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while files change hands, so that inline callers on several threads do not meet.
    working: Mutex<()>,
}

struct State {
    /// Spare files, all of the right length.
    spares: VecDeque<PathBuf>,
    /// Segments that belong to the log.
    segments: BTreeSet<u64>,
    /// Segments below this number may leave.
    keep_from: u64,
    /// The segment that the helper is to prepare.
    wanted: Option<u64>,
    ready: Option<Prepared>,
    full: bool,
    failed: bool,
    closing: bool,
}

/// Why no segment can be had now.
pub(crate) enum TakeError {
    /// No space; ask again later.
    Full,
    Failed(Failure),
    /// The helper has failed, and told so.
    Stopped,
}

impl Pool {
    /// A pool over the files that lie in the folder: `segments` belong to the log, spares are collected.
    pub(crate) fn open(config: PoolConfig, segments: BTreeSet<u64>) -> Result<Self, Failure> {
        let disk = &*config.env.disk;
        let mut spares = VecDeque::new();
        for entry in disk.read_dir(&config.dir).doing("list", &config.dir)? {
            let path = config.dir.join(&entry.name);
            if parse_new_name(&entry.name).is_some() {
                disk.remove_file(&path).doing("remove", &path)?;
            }
            if parse_spare_name(&entry.name).is_none() {
                continue;
            }
            let length = disk.open(&path, OpenMode::Read).and_then(|file| file.len()).doing("open", &path)?;
            if length == config.segment_bytes.into() && spares.len() < config.spares_max {
                spares.push_back(path);
            } else {
                // One too many, or of another length.
                disk.remove_file(&path).doing("remove", &path)?;
            }
        }
        let state = State {
            spares,
            segments,
            keep_from: 0,
            wanted: None,
            ready: None,
            full: false,
            failed: false,
            closing: false,
        };
        Ok(Self { config, state: Mutex::new(state), changed: Condvar::new(), working: Mutex::new(()) })
    }

    /// Starts the helper thread, unless the options want its work inline.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<Option<JoinHandle<()>>> {
        if self.config.inline {
            return Ok(None);
        }
        let pool = Arc::clone(self);
        let helper = std::thread::Builder::new().name("wal-pool".into()).spawn(move || pool.work())?;
        Ok(Some(helper))
    }

    /// Asks for a segment to be ready when [`take`](Self::take) comes for it.
    pub(crate) fn want(&self, segment: u64) {
        self.lock().wanted = Some(segment);
        self.changed.notify_all();
    }

    /// The prepared segment; prepares it here and now when working inline, otherwise waits for the helper, which
    /// always comes to an end: with a segment, for want of space, or with an error.
    pub(crate) fn take(&self, segment: u64) -> Result<Prepared, TakeError> {
        if self.config.inline {
            return self
                .prepare(segment)
                .map_err(|failure| if failure.is_full() { TakeError::Full } else { TakeError::Failed(failure) });
        }
        let mut state = self.lock();
        loop {
            if let Some(prepared) = state.ready.take_if(|prepared| prepared.segment == segment) {
                return Ok(prepared);
            }
            if state.failed || state.closing {
                return Err(TakeError::Stopped);
            }
            if state.full {
                return Err(TakeError::Full);
            }
            state.wanted = Some(segment);
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Allows segments below this number to leave.
    pub(crate) fn keep_from(&self, segment: u64) {
        {
            let mut state = self.lock();
            state.keep_from = state.keep_from.max(segment);
        }
        if self.config.inline {
            if let Err(failure) = self.recycle_all() {
                (self.config.report)(News::Failed(failure));
            }
        } else {
            self.changed.notify_all();
        }
    }

    /// Ends the helper; what it is doing is brought to its end.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock ends the process (release builds abort); in a test the state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The helper's life.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.closing {
                return;
            }
            if state.has_leavers() {
                drop(state);
                let recycled = self.recycle_all();
                state = self.lock();
                if let Err(failure) = recycled {
                    return self.fail(state, failure);
                }
            } else if let Some(segment) = state.wanted.filter(|_| state.ready.is_none()) {
                let was_full = state.full;
                if was_full {
                    state = self.changed.wait_timeout(state, FULL_RETRY).unwrap_or_else(PoisonError::into_inner).0;
                    if state.closing {
                        return;
                    }
                }
                drop(state);
                let prepared = self.prepare(segment);
                state = self.lock();
                match prepared {
                    Ok(prepared) => (state.ready, state.wanted, state.full) = (Some(prepared), None, false),
                    Err(failure) if failure.is_full() => state.full = true,
                    Err(failure) => return self.fail(state, failure),
                }
                let full = state.full;
                drop(state);
                self.changed.notify_all();
                if full != was_full {
                    (self.config.report)(News::Full(full));
                }
                state = self.lock();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn fail(&self, mut state: MutexGuard<'_, State>, failure: Failure) {
        state.failed = true;
        drop(state);
        self.changed.notify_all();
        (self.config.report)(News::Failed(failure));
    }

    /// Makes a segment that is empty, and durably so: bytes, header and name.
    pub(crate) fn prepare(&self, segment: u64) -> Result<Prepared, Failure> {
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let PoolConfig { env, dir, segment_bytes, .. } = &self.config;
        let disk = &*env.disk;
        let spare = self.lock().spares.pop_front();
        let from = spare.clone().unwrap_or_else(|| dir.join(new_name(segment)));
        let mode = if spare.is_some() { OpenMode::Write } else { OpenMode::CreateOrOpen };
        let file = disk.open(&from, mode).doing("open", &from)?;
        let filled = if spare.is_some() { Ok(()) } else { fill(&*file, *segment_bytes).doing("fill", &from) };
        match filled.and_then(|()| self.give_name(segment, &from, &*file)) {
            Ok(seed) => {
                self.lock().segments.insert(segment);
                let path = dir.join(segment_name(segment));
                Ok(Prepared { segment, path, file, seed, segment_bytes: *segment_bytes })
            }
            Err(failure) if failure.is_full() => {
                // Give back what was taken: the checkpoint may need it more. Should it have been a sync that failed,
                // this file is not synced again, and nothing was in it yet.
                drop(file);
                self.discard(&from)?;
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Makes a complete file a segment, and durably so: its header, then its name.
    fn give_name(&self, segment: u64, from: &Path, file: &dyn DiskFile) -> Result<Seed, Failure> {
        let PoolConfig { env, dir, log, segment_bytes, .. } = &self.config;
        let salt = if cfg!(goulette_bug = "no_salt") { 0 } else { env.random.next_u64() };
        let header = SegmentHeader { log: *log, segment, salt, segment_bytes: *segment_bytes };
        let mut block = [0; GROUP_ALIGN as usize];
        let encoded = header.encode();
        block[..encoded.len()].copy_from_slice(&encoded);
        file.write_all_at(&block, 0).doing("write", from)?;
        file.sync_data().doing("sync", from)?;
        // What the cache holds of another life would be in the way: where it keeps many pages as one, a group in the midst
        // of them dirties them all, and each sync looks through all of them.
        file.drop_cache(0, 0).doing("drop the cache of", from)?;
        env.disk.rename(from, &dir.join(segment_name(segment))).doing("rename", from)?;
        sync_names(env, dir)?;
        Ok(header.seed())
    }

    /// Lets all segments go that may.
    fn recycle_all(&self) -> Result<(), Failure> {
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let segment = {
                let mut state = self.lock();
                if !state.has_leavers() {
                    return Ok(());
                }
                state.segments.pop_first().expect("a segment that may leave is one")
            };
            let retired = retire(&self.config.env, &self.config.dir, segment);
            let mut state = self.lock();
            let spare = match retired {
                Err(failure) if failure.is_full() => {
                    // It stays, and leaves with the next ones.
                    state.segments.insert(segment);
                    state.keep_from = state.keep_from.min(segment);
                    return Ok(());
                }
                retired => retired?,
            };
            if state.spares.contains(&spare) {
                // A spare of an earlier opening had the number too: the rename has just replaced its file.
            } else if state.spares.len() < self.config.spares_max {
                state.spares.push_back(spare);
            } else {
                drop(state);
                self.discard(&spare)?;
            }
        }
    }

    /// Removes a file that is of no use. Some file systems need space even for that: then the next opening removes it.
    fn discard(&self, path: &Path) -> Result<(), Failure> {
        match self.config.env.disk.remove_file(path).doing("remove", path) {
            Err(failure) if failure.is_full() => Ok(()),
            removed => removed,
        }
    }
}

impl State {
    fn has_leavers(&self) -> bool {
        self.segments.first().is_some_and(|&first| first < self.keep_from)
    }
}

/// Durably takes a segment's name from the log; returns the file's new path.
pub(crate) fn retire(env: &Env, dir: &Path, segment: u64) -> Result<PathBuf, Failure> {
    let (from, to) = (dir.join(segment_name(segment)), dir.join(spare_name(segment)));
    env.disk.rename(&from, &to).doing("rename", &from)?;
    if cfg!(not(goulette_bug = "segment_recycled_before_its_name_is_gone")) {
        sync_names(env, dir)?;
    }
    Ok(to)
}

/// Makes the folder's names durable.
fn sync_names(env: &Env, dir: &Path) -> Result<(), Failure> {
    // Should it fail for want of space, it is a failed sync all the same: it is not tried again.
    env.disk.sync_dir(dir).map_err(io::Error::other).doing("sync", dir)
}

/// Writes every block once, so that later syncs find nothing but bytes to write.
fn fill(file: &dyn DiskFile, segment_bytes: u32) -> io::Result<()> {
    file.allocate(0, segment_bytes.into())?;
    let zeros = vec![0; FILL_BYTES.min(segment_bytes as usize)];
    for start in (0..segment_bytes).step_by(FILL_BYTES) {
        let bytes = (segment_bytes - start).min(FILL_BYTES as u32);
        file.write_all_at(&zeros[..bytes as usize], start.into())?;
        file.start_writeback(start.into(), bytes.into())?;
    }
    file.sync_data()
}

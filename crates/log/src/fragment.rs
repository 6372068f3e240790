//! One file of a partition's log: batches one behind the other, nothing else.
//!
//! A fragment knows its bytes and its index; which offsets count is the partition's knowledge. Layout:
//! `docs/formats/fragment.md`. Writing is here, reading in `reading`.

mod reading;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use goulette_env::{Disk, DiskFile, OpenMode};
use goulette_records::{Batch, Header};
use goulette_types::{Offset, Timestamp};

use crate::{
    error::FlushError,
    fragment_pool::FragmentPool,
    handles::{Handle, Handles, Mark},
    index::Index,
    lock,
};
pub(crate) use reading::{ScanError, is_damage};

/// Bytes written before the kernel is asked to begin writing them out, so that the checkpoint's sync finds little left.
const WRITEBACK_BYTES: u32 = 4 << 20;

/// A batch and its place.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) batch: Batch,
    /// The fragment's number.
    pub(crate) fragment: u32,
    /// The byte in the fragment.
    pub(crate) position: u32,
    /// When it was appended.
    pub(crate) appended: Timestamp,
    /// It stands at its place already, durably: the WAL has only a reference.
    pub(crate) direct: bool,
}

/// One fragment's file and index. Safe to use from several threads, but only one may append: batches are
/// [written](Self::append) in order behind the valid bytes, or [written ahead](Self::write_ahead) of them, and become valid
/// in order when they are [noted](Self::note).
pub(crate) struct Fragment {
    number: u32,
    base: Offset,
    path: PathBuf,
    handles: Arc<Handles>,
    handle: Arc<Handle>,
    /// There is a file of that name.
    made: Mutex<bool>,
    /// The file's name is durable.
    named: AtomicBool,
    /// Bytes that have a place on the disk, as far as anybody looked.
    reserved: Mutex<u64>,
    /// Valid bytes: those below are what was appended.
    written: AtomicU32,
    /// Of those, how many the kernel was asked to write out.
    pushed: AtomicU32,
    /// Index files that are written but not synced; they stay open until then.
    index_files: Mutex<Vec<Arc<dyn DiskFile>>>,
}

impl Stored {
    /// The byte behind it in its fragment.
    pub(crate) fn end(&self) -> u32 {
        self.position + self.batch.encoded_bytes() as u32
    }
}

/// Writes batches that follow each other to their place.
fn write_run(file: &dyn DiskFile, run: &[Stored]) -> io::Result<()> {
    let Some(first) = run.first() else { return Ok(()) };
    let headers: Vec<_> = run.iter().map(|stored| stored.batch.header_bytes()).collect();
    let mut slices = Vec::with_capacity(2 * run.len());
    for (stored, header) in run.iter().zip(&headers) {
        slices.push(IoSlice::new(header));
        slices.push(IoSlice::new(stored.batch.records()));
    }
    file.write_at(&slices, first.position.into())
}

/// How far a fragment was written when somebody looked.
pub(crate) struct Unsynced {
    bytes: Option<Mark>,
    index_files: usize,
}

impl Unsynced {
    /// Files that a sync concerns.
    pub(crate) fn files(&self) -> usize {
        usize::from(self.bytes.is_some()) + self.index_files
    }
}

impl Fragment {
    /// A new fragment; its file is made by the first append.
    pub(crate) fn new(handles: &Arc<Handles>, dir: &Path, number: u32, base: Offset) -> Self {
        let (made, named) = (Mutex::new(false), AtomicBool::new(false));
        let fragment = Self { made, named, ..Self::existing(handles, dir, number, base, 0, false) };
        *lock(&fragment.handle.index) = Some(Index::new(number, base));
        fragment
    }

    /// A fragment with this many valid and durable bytes.
    pub(crate) fn existing(
        handles: &Arc<Handles>,
        dir: &Path,
        number: u32,
        base: Offset,
        length: u32,
        sealed: bool,
    ) -> Self {
        let handle = Arc::<Handle>::default();
        handle.sealed.store(sealed, Ordering::Release);
        Self {
            number,
            base,
            path: dir.join(file_name(number, base)),
            handles: handles.clone(),
            handle,
            made: Mutex::new(true),
            named: AtomicBool::new(true),
            reserved: Mutex::new(0),
            written: AtomicU32::new(length),
            pushed: AtomicU32::new(length),
            index_files: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// Valid bytes that have been written.
    pub(crate) fn written(&self) -> u32 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Unless there is a file already, begins in a recycled one, if there is one: much is going to be written. Returns
    /// whether it did so now.
    pub(crate) fn begin(&self, disk: &dyn Disk, pool: &FragmentPool) -> Result<bool, FlushError> {
        let mut made = lock(&self.made);
        let begins = !*made && pool.take(disk, &self.path)?;
        if begins {
            *made = true;
            self.named.store(true, Ordering::Release);
        }
        Ok(begins)
    }

    /// Lets the file's cached pages go. They would be in the way of small writes: where many are kept as one, a write in
    /// the midst of them makes all of them dirty.
    pub(crate) fn drop_cached(&self, disk: &dyn Disk) -> io::Result<()> {
        self.write(disk, |file| file.drop_cache(0, 0))
    }

    /// There is a file of the fragment's name, and what it holds is wanted.
    pub(crate) fn note_made(&self) {
        *lock(&self.made) = true;
    }

    /// Whether room was reserved in it: it was expected to be filled quickly.
    pub(crate) fn is_reserved(&self) -> bool {
        *lock(&self.reserved) > 0
    }

    /// Valid bytes.
    pub(crate) fn bytes(&self) -> u32 {
        self.written.load(Ordering::Acquire)
    }

    /// Reads from the file. Until the fragment is sealed it is opened for writing, whoever needs it first.
    fn file(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        let mode = if self.handle.sealed.load(Ordering::Acquire) { OpenMode::Read } else { OpenMode::Write };
        self.handle.file(&self.handles, || disk.open(&self.path, mode))
    }

    /// Changes the file, which is made if it is not there.
    fn write<T>(&self, disk: &dyn Disk, write: impl FnOnce(&dyn DiskFile) -> io::Result<T>) -> io::Result<T> {
        let make = || {
            let mut made = lock(&self.made);
            let file = disk.open(&self.path, OpenMode::CreateOrOpen)?;
            *made = true;
            Ok(file)
        };
        self.handle.write(&self.handles, make, write)
    }

    /// Writes batches behind the valid bytes; they follow each other. Valid only when [noted](Self::note), durable only
    /// after [`sync`](Self::sync).
    pub(crate) fn append(&self, disk: &dyn Disk, run: &[Stored]) -> io::Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let start = self.written.load(Ordering::Acquire);
        assert_eq!(first.position, start, "batches are written in order and without a gap");
        self.write(disk, |file| {
            write_run(file, run)?;
            let end = last.end();
            let pushed = self.pushed.load(Ordering::Relaxed);
            if end - pushed >= WRITEBACK_BYTES {
                file.start_writeback(pushed.into(), (end - pushed).into())?;
                self.pushed.store(end, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Reserves the place of batches that follow each other, somewhere behind the valid bytes, in steps of `step` bytes;
    /// makes the file if need be.
    ///
    /// # Errors
    /// [`FlushError::StorageFull`] leaves everything as it was.
    pub(crate) fn reserve(&self, disk: &dyn Disk, run: &[Stored], step: u32) -> Result<(), FlushError> {
        let end = u64::from(run.last().map_or(0, Stored::end));
        let reserve = |file: &dyn DiskFile| {
            let mut reserved = lock(&self.reserved);
            if *reserved < end {
                *reserved = file.len()?;
            }
            if *reserved < end {
                let goal = end.next_multiple_of(step.max(1).into());
                file.allocate(*reserved, goal - *reserved)?;
                *reserved = goal;
            }
            Ok(())
        };
        self.write(disk, reserve).map_err(|error: io::Error| FlushError::io("reserve room for", &self.path, &error))
    }

    /// Writes batches to their places, which were [reserved](Self::reserve), and makes them durable, name and all. What
    /// lies before them may still be missing.
    ///
    /// # Errors
    /// [`FlushError::StorageFull`] on a file system that cannot reserve: nothing was written that counts.
    pub(crate) fn write_ahead(&self, disk: &dyn Disk, run: &[Stored]) -> Result<(), FlushError> {
        let failed = |error| FlushError::io("write", &self.path, &error);
        self.write(disk, |file| write_run(file, run)).map_err(failed)?;
        if !cfg!(goulette_bug = "reference_before_fragment_sync") {
            self.handle.sync().map_err(|error| FlushError::sync(&self.path, &error))?;
        }
        if !self.named.load(Ordering::Acquire) {
            let dir = self.path.parent().unwrap_or(Path::new(""));
            disk.sync_dir(dir).map_err(|error| FlushError::sync(dir, &error))?;
            self.named.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The batches that follow the valid bytes, and stand at their place, are valid.
    pub(crate) fn note<'a>(&self, position: u32, batches: impl Iterator<Item = &'a Header>) {
        let mut written = self.written.load(Ordering::Acquire);
        assert_eq!(position, written, "batches become valid in order");
        let mut index = lock(&self.handle.index);
        for header in batches {
            if let Some(index) = &mut *index {
                index.note(header, &header.to_bytes());
            }
            written += header.encoded_bytes() as u32;
        }
        drop(index);
        self.note_made();
        self.written.store(written, Ordering::Release);
    }

    /// Ends the fragment: cuts it to its valid bytes and writes its index files. Durable only after [`sync`](Self::sync).
    pub(crate) fn seal(&self, disk: &dyn Disk) -> io::Result<()> {
        self.cut(disk)?;
        let written = self.written.load(Ordering::Acquire);
        let files = self.with_index(disk, |index| {
            // A damaged fragment gets none: whoever reads it sees for himself.
            let whole = index.length() == written;
            whole.then(|| [("index", index.encode_offsets()), ("timeindex", index.encode_times())])
        })?;
        for (extension, bytes) in files.into_iter().flatten() {
            let path = self.path.with_extension(extension);
            let file: Arc<dyn DiskFile> = disk.open(&path, OpenMode::CreateOrOpen)?.into();
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)?;
            lock(&self.index_files).push(file);
        }
        self.handle.sealed.store(true, Ordering::Release);
        Ok(())
    }

    /// Cuts what a former life left behind the valid bytes.
    pub(crate) fn cut(&self, disk: &dyn Disk) -> io::Result<()> {
        let written = u64::from(self.written.load(Ordering::Acquire));
        if self.length(disk)? > written {
            self.write(disk, |file| file.set_len(written))?;
        }
        Ok(())
    }

    /// Fewer bytes are valid from now on. The file keeps the others until [`cut_behind_checkpoint`](Self::cut_behind_checkpoint).
    pub(crate) fn shorten(&self, length: u32) {
        // Whoever looks something up meanwhile loads it anew.
        let mut index = lock(&self.handle.index);
        *index = None;
        self.written.store(length, Ordering::Release);
        self.pushed.fetch_min(length, Ordering::AcqRel);
    }

    /// Nothing is appended any more.
    pub(crate) fn note_sealed(&self) {
        self.handle.sealed.store(true, Ordering::Release);
    }

    /// Cuts the file of a [shortened](Self::shorten) fragment.
    pub(crate) fn cut_behind_checkpoint(&self, disk: &dyn Disk) -> io::Result<()> {
        // The open file may be one for reading only.
        let file = match disk.open(&self.path, OpenMode::Write) {
            // Removed since, or truncated once more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let written = u64::from(self.written.load(Ordering::Acquire));
        if file.len()? > written {
            file.set_len(written)?;
            file.sync_data()?;
        }
        Ok(())
    }

    /// Whether the file has more than the valid bytes.
    pub(crate) fn is_longer(&self, disk: &dyn Disk) -> io::Result<bool> {
        Ok(self.length(disk)? > u64::from(self.written.load(Ordering::Acquire)))
    }

    /// Puts zeros where valid bytes are lost: reading finds them corrupt, and no later opening finds them missing.
    /// Returns whether there were any.
    pub(crate) fn pad(&self, disk: &dyn Disk) -> io::Result<bool> {
        let written = u64::from(self.written.load(Ordering::Acquire));
        let lost = self.length(disk)? < written;
        if lost {
            self.write(disk, |file| file.set_len(written))?;
        }
        Ok(lost)
    }

    /// The file's length; 0 if it is not there.
    fn length(&self, disk: &dyn Disk) -> io::Result<u64> {
        match self.file(disk).and_then(|file| file.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            length => length,
        }
    }

    /// What is not known to be durable; none if all is.
    pub(crate) fn unsynced(&self) -> Option<Unsynced> {
        let bytes = self.handle.unsynced();
        let index_files = lock(&self.index_files).len();
        (bytes.is_some() || index_files > 0).then_some(Unsynced { bytes, index_files })
    }

    /// The file system was synced as a whole after this was noted.
    pub(crate) fn note_synced(&self, unsynced: &Unsynced) {
        if let Some(bytes) = unsynced.bytes {
            self.handle.note_synced(bytes);
        }
        lock(&self.index_files).drain(..unsynced.index_files);
    }

    /// Makes all that was written when the call began durable. Must not be called again after it failed.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.handle.sync()?;
        let index_files = lock(&self.index_files).clone();
        for file in &index_files {
            file.sync_data()?;
        }
        lock(&self.index_files).drain(..index_files.len());
        Ok(())
    }

    /// Removes the files; fine if one is not there. Nobody wants their bytes any more, synced or not. The removal itself is
    /// not made durable: opening removes what comes back.
    pub(crate) fn unlink(&self, disk: &dyn Disk) -> io::Result<()> {
        for extension in ["log", "index", "timeindex"] {
            match disk.remove_file(&self.path.with_extension(extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The name of a fragment's file.
pub(crate) fn file_name(number: u32, base: Offset) -> String {
    format!("{:020}.{number}.log", base.0)
}

/// The number and base offset in a file's name, be it a fragment or one of its indexes; none if it is neither.
pub(crate) fn parse_name(name: &str) -> Option<(u32, Offset)> {
    let (base, rest) = name.split_once('.')?;
    let (number, extension) = rest.split_once('.')?;
    let (number, base) = (number.parse().ok()?, Offset(base.parse().ok()?));
    let is_ours = ["log", "index", "timeindex"].contains(&extension);
    (is_ours && Path::new(&file_name(number, base)).with_extension(extension) == Path::new(name))
        .then_some((number, base))
}

/// Reads a whole file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let length = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

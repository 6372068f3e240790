//! Files of removed fragments, kept to be written again.
//!
//! A sync of blocks that were written before changes nothing but the blocks; the first write into new ones changes the file
//! system's own books too, at several times the price. So a fragment that is removed leaves its file here, and the next one
//! to be filled quickly begins in it. What such a file holds means nothing: a fragment's valid length is what checkpoint and
//! WAL say.
//!
//! A file comes here when no recovery will ask for it and no reader has it open, and its new name is durable before it is
//! handed on; likewise its next one before a byte of it is overwritten. What is here counts as free space: it goes when the
//! disk gets full.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use goulette_env::{Disk, OpenMode};

use crate::{
    error::{FlushError, is_full},
    fragment::Fragment,
    lock,
};

/// The pool's folder in the data directory.
pub(crate) const FOLDER: &str = "recycled";
const EXTENSION: &str = "free";

pub(crate) struct FragmentPool {
    dir: PathBuf,
    bytes_max: u64,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    /// Names that are durable, and lengths.
    ready: Vec<(PathBuf, u64)>,
    bytes: u64,
    /// Names the next one.
    next: u64,
}

impl FragmentPool {
    pub(crate) fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self { dir, bytes_max, files: Mutex::default() }
    }

    /// Bytes of the files that wait to be used.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.files).bytes
    }

    /// Takes in what an earlier life left; what is too much goes.
    pub(crate) fn open(&self, disk: &dyn Disk) -> io::Result<()> {
        if !disk.exists(&self.dir)? {
            if self.bytes_max == 0 {
                return Ok(());
            }
            disk.create_dir_all(&self.dir)?;
            return disk.sync_dir(self.dir.parent().unwrap_or(Path::new("")));
        }
        // The names may be no older than the process that died.
        disk.sync_dir(&self.dir)?;
        let mut files = Files::default();
        for entry in disk.read_dir(&self.dir)? {
            let path = self.dir.join(&entry.name);
            let Some(number) = number_of(&path).filter(|_| !entry.is_dir) else { continue };
            files.next = files.next.max(number.saturating_add(1));
            let bytes = disk.open(&path, OpenMode::Read)?.len()?;
            if files.bytes + bytes > self.bytes_max {
                disk.remove_file(&path)?;
                continue;
            }
            files.bytes += bytes;
            files.ready.push((path, bytes));
        }
        *lock(&self.files) = files;
        Ok(())
    }

    /// Takes the files of fragments of one folder that a durable checkpoint does not know any more. Those for which there
    /// is no room, which are shorter than `bytes_min`, or which a reader still has, are removed: the reader reads on.
    pub(crate) fn recycle(
        &self,
        disk: &dyn Disk,
        folder: &Path,
        fragments: Vec<Arc<Fragment>>,
        bytes_min: u64,
    ) -> Result<(), FlushError> {
        let mut taken = Vec::new();
        for mut fragment in fragments {
            let path = fragment.path().to_owned();
            let bytes = u64::from(fragment.bytes());
            let alone = Arc::get_mut(&mut fragment).is_some();
            let place = (alone && bytes >= bytes_min).then(|| self.place(bytes)).flatten();
            let moved = place.map(|place| disk.rename(&path, &place).map(|()| place));
            match moved {
                Some(Ok(place)) => taken.push((place, bytes)),
                Some(Err(error)) => {
                    lock(&self.files).bytes -= bytes;
                    // No room for it or its name: then it goes, and there is.
                    if !is_full(&error) && error.kind() != io::ErrorKind::NotFound {
                        return Err(FlushError::io("recycle", &path, &error));
                    }
                }
                None => {}
            }
            fragment.unlink(disk).map_err(|error| FlushError::io("remove", &path, &error))?;
        }
        if !taken.is_empty() {
            for dir in [folder, &self.dir] {
                disk.sync_dir(dir).map_err(|error| FlushError::sync(dir, &error))?;
            }
            lock(&self.files).ready.extend(taken);
        }
        Ok(())
    }

    /// A name for a file of so many bytes, if there is room for it; the room is taken.
    fn place(&self, bytes: u64) -> Option<PathBuf> {
        let mut files = lock(&self.files);
        let fits = files.bytes + bytes <= self.bytes_max;
        fits.then(|| {
            files.bytes += bytes;
            files.next += 1;
            self.dir.join(format!("{:020}.{EXTENSION}", files.next - 1))
        })
    }

    /// Gives a file the name `to`, which is new, durably. Returns false if there is no file.
    pub(crate) fn take(&self, disk: &dyn Disk, to: &Path) -> Result<bool, FlushError> {
        let taken = {
            let mut files = lock(&self.files);
            let taken = files.ready.pop();
            files.bytes -= taken.as_ref().map_or(0, |(_, bytes)| *bytes);
            taken
        };
        let Some((path, _)) = taken else { return Ok(false) };
        match disk.rename(&path, to) {
            Ok(()) => {}
            // It is made anew, or not at all.
            Err(error) if is_full(&error) || error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(FlushError::io("rename", &path, &error)),
        }
        if !cfg!(goulette_bug = "recycle_before_directory_sync") {
            for dir in [to.parent().unwrap_or(Path::new("")), &self.dir] {
                disk.sync_dir(dir).map_err(|error| FlushError::sync(dir, &error))?;
            }
        }
        Ok(true)
    }

    /// Gives the space back. Returns whether there was any.
    pub(crate) fn clear(&self, disk: &dyn Disk) -> bool {
        let ready = {
            let mut files = lock(&self.files);
            let ready = std::mem::take(&mut files.ready);
            files.bytes -= ready.iter().map(|(_, bytes)| bytes).sum::<u64>();
            ready
        };
        // What does not go is found by the next opening.
        ready.iter().filter(|(path, _)| disk.remove_file(path).is_ok()).count() > 0
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let is_ours = path.extension().is_some_and(|extension| extension == EXTENSION);
    path.file_stem()?.to_str()?.parse().ok().filter(|_| is_ours)
}

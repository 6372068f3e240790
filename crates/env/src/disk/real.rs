//! The machine's own file system.

#[cfg(target_os = "linux")]
mod linux;

use std::{
    fs,
    io::{self, IoSlice},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::{fs as sys, io::Errno};

use super::{Disk, DiskFile, DiskLock, Entry, FileSystem, OpenMode, VolumeKind};

/// Slices that one `pwritev` takes (`IOV_MAX` on Linux and macOS).
const SLICES_MAX: usize = 1024;

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[allow(clippy::disallowed_methods, reason = "this is the place that opens the real files")]
impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::Write => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::CreateOrOpen => options.write(true).create(true),
        };
        Ok(Box::new(RealFile { file: options.open(path)? }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} in {} is not UTF-8", path.display()))
            })?;
            entries.push(Entry { name, is_dir });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        sync_all(&fs::File::open(folder(path))?)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // The lock belongs to this open file description: a second one, in this process too, does not get it.
        sys::flock(&file, sys::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let about = sys::statvfs(folder(path))?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    fn volume_bytes(&self, path: &Path) -> io::Result<u64> {
        let about = sys::statvfs(folder(path))?;
        Ok(about.f_blocks.saturating_mul(about.f_frsize))
    }

    #[cfg(target_os = "linux")]
    fn volume_kind(&self, path: &Path) -> io::Result<VolumeKind> {
        Ok(match sys::statfs(folder(path))?.f_type {
            linux::TMPFS | linux::RAMFS => VolumeKind::Memory,
            linux::NFS | linux::SMB2 | linux::CIFS | linux::CEPH | linux::NINE_P => VolumeKind::Network,
            _ => VolumeKind::Disk,
        })
    }

    #[cfg(target_os = "linux")]
    fn file_system(&self, dir: &Path) -> io::Result<Box<dyn FileSystem>> {
        linux::WholeFileSystem::open(folder(dir)).map(|it| Box::new(it) as Box<dyn FileSystem>)
    }
}

/// The path of a relative file's parent is empty; the system calls it `.`.
fn folder(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Held until the descriptor is closed.
struct RealLock {
    _file: fs::File,
}

impl DiskLock for RealLock {}

struct RealFile {
    file: fs::File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&self, slices: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        for slices in slices.chunks(SLICES_MAX) {
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            let written = write_some(&self.file, slices, position)?;
            if written < bytes {
                write_rest(&self.file, slices, written, position)?;
            }
            position += bytes as u64;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<()> {
        let end = position + length;
        // Apple's call reserves a whole file from its start and would cut a longer one.
        let range = if cfg!(target_vendor = "apple") { 0..end } else { position..end };
        if cfg!(not(target_vendor = "apple")) || self.len()? < end {
            match sys::fallocate(&self.file, sys::FallocateFlags::empty(), range.start, range.end - range.start) {
                // Some file systems cannot reserve.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.len()? < end { self.set_len(end) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        sync_data(&self.file)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn start_writeback(&self, position: u64, length: u64) -> io::Result<()> {
        // Linux starts the writeback of a range that it is told to forget; the dirty pages stay until written.
        // (`sync_file_range` says it more plainly, but has no safe binding.)
        advise_not_needed(&self.file, position, length)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn start_writeback(&self, _position: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn drop_cache(&self, position: u64, length: u64) -> io::Result<()> {
        advise_not_needed(&self.file, position, length)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn drop_cache(&self, _position: u64, _length: u64) -> io::Result<()> {
        // macOS has no call for it; F_FULLFSYNC, which reports a failed write of any page, has to do.
        Ok(())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn advise_not_needed(file: &fs::File, position: u64, length: u64) -> io::Result<()> {
    Ok(sys::fadvise(file, position, std::num::NonZeroU64::new(length), sys::Advice::DontNeed)?)
}

/// Waits until the device says that the file's bytes are on stable storage.
#[cfg(not(target_vendor = "apple"))]
fn sync_data(file: &fs::File) -> io::Result<()> {
    Ok(sys::fdatasync(file)?)
}

/// Apple's `fsync` stops at the drive's cache; only `F_FULLFSYNC` reaches the platter.
#[cfg(target_vendor = "apple")]
fn sync_data(file: &fs::File) -> io::Result<()> {
    Ok(sys::fcntl_fullfsync(file)?)
}

/// [`sync_data`] with the metadata too, which is what folders have.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn sync_all(file: &fs::File) -> io::Result<()> {
    Ok(sys::fsync(file)?)
}

#[cfg(target_vendor = "apple")]
fn sync_all(file: &fs::File) -> io::Result<()> {
    sync_data(file)
}

fn write_some(file: &fs::File, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev(file, slices, position) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Goes on after a partial write, which is rare: only then are the slices copied, to cut the first ones off.
#[cold]
fn write_rest(file: &fs::File, slices: &[IoSlice<'_>], mut written: usize, mut position: u64) -> io::Result<()> {
    let mut copy: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut rest = &mut copy[..];
    loop {
        position += written as u64;
        IoSlice::advance_slices(&mut rest, written);
        if rest.is_empty() {
            return Ok(());
        }
        written = write_some(file, rest, position)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test of the real disk")]
    fn files_and_folders_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("a/b");
        RealDisk.create_dir_all(&sub).unwrap();
        let file = sub.join("f");
        RealDisk.open(&file, OpenMode::CreateNew).unwrap();
        assert_eq!(fs::metadata(&sub).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_rest_of_a_partial_write_goes_where_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let disk_file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        disk_file.write_all_at(b"abcdefgh", 0).unwrap();
        let slices = [IoSlice::new(b"AB"), IoSlice::new(b"CDE"), IoSlice::new(b"FGH")];
        #[allow(clippy::disallowed_methods, reason = "a test of the real disk")]
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("f")).unwrap();
        // As if `pwritev` had taken three bytes only.
        write_rest(&file, &slices, 3, 0).unwrap();
        let mut buffer = [0; 8];
        disk_file.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"abcDEFGH");
    }
}

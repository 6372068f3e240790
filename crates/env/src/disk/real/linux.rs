//! What Linux tells of its file systems, by their magic numbers.

use std::{fs, io, path::Path};

use rustix::fs::{FsWord, fstatfs, syncfs};

use super::sync_all;
use crate::FileSystem;

pub(super) const TMPFS: FsWord = 0x0102_1994;
pub(super) const RAMFS: FsWord = 0x8584_58f6;
pub(super) const NFS: FsWord = 0x6969;
pub(super) const SMB2: FsWord = 0xfe53_4d42;
pub(super) const CIFS: FsWord = 0xff53_4d42;
pub(super) const CEPH: FsWord = 0x00c3_6400;
pub(super) const NINE_P: FsWord = 0x0102_1997;

/// The file systems of which `syncfs` is known to write and commit everything, and to report every failed write: ext4, XFS,
/// Btrfs, F2FS. (Of FUSE, network file systems and overlays nobody knows.)
const WHOLE: [FsWord; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// Before Linux 5.8 `syncfs` kept failed writes of data to itself.
const RELEASE_MIN: (u32, u32) = (5, 8);

/// Holds a descriptor from the start: the kernel reports to it every write that failed since it was opened.
pub(super) struct WholeFileSystem {
    dir: fs::File,
}

impl WholeFileSystem {
    #[allow(clippy::disallowed_methods, reason = "below the one place that opens the real files")]
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let dir = fs::File::open(dir)?;
        let release = rustix::system::uname();
        let is_known = WHOLE.contains(&fstatfs(&dir)?.f_type);
        if !is_known || parse_release(&release.release().to_string_lossy()) < Some(RELEASE_MIN) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self { dir })
    }
}

impl FileSystem for WholeFileSystem {
    fn sync_all(&self) -> io::Result<()> {
        syncfs(&self.dir)?;
        // Not every file system flushes the drive's cache where there was nothing to commit; an fsync always does.
        sync_all(&self.dir)
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, RealDisk, VolumeKind};

    #[test]
    fn a_kernels_release_is_read() {
        assert_eq!(parse_release("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_release("5.8"), Some((5, 8)));
        assert!(parse_release("5.4.0-150-generic") < Some(RELEASE_MIN));
        assert!(parse_release("odd") < Some(RELEASE_MIN));
    }

    #[test]
    fn memory_is_told_from_a_disk_and_is_not_synced_as_a_whole() {
        let memory = Path::new("/dev/shm");
        if !RealDisk.exists(memory).unwrap() {
            return;
        }
        assert_eq!(RealDisk.volume_kind(memory).unwrap(), VolumeKind::Memory);
        assert_eq!(RealDisk.volume_kind(Path::new("/")).unwrap(), VolumeKind::Disk);
        assert!(RealDisk.file_system(memory).is_err());
    }

    #[test]
    fn a_file_system_that_is_known_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        if let Ok(file_system) = RealDisk.file_system(dir.path()) {
            file_system.sync_all().unwrap();
        }
    }
}

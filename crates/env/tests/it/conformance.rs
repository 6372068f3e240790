//! What holds for the real disk and for the simulated one alike.

use std::{
    io::{ErrorKind, IoSlice},
    path::Path,
};

use goulette_env::{Disk, OpenMode, RealDisk};

/// Runs each fact against each disk, in an empty folder.
macro_rules! facts {
    ($($fact:ident)*) => {
        mod real {
            $(#[test]
            fn $fact() {
                let dir = tempfile::tempdir().unwrap();
                super::$fact(&super::RealDisk, dir.path());
            })*
        }

        mod sim {
            $(#[test]
            fn $fact() {
                let disk = goulette_env::sim::SimDisk::from_seed(1);
                let dir = std::path::Path::new("/base");
                goulette_env::Disk::create_dir_all(&disk, dir).unwrap();
                super::$fact(&disk, dir);
            })*
        }
    };
}

facts! {
    what_was_written_is_read
    many_slices_are_written_one_behind_the_other
    a_gap_reads_as_zeros
    reads_at_and_behind_the_end_give_nothing
    lengths_are_cut_and_grown
    allocation_grows_but_never_cuts
    opening_modes_differ
    names_are_listed_in_order
    renaming_replaces
    a_renamed_folder_keeps_its_files
    removal_needs_the_right_kind
    a_lock_is_held_once
    an_open_file_outlives_its_name
    syncs_and_hints_are_accepted
    a_file_for_reading_refuses_writes
    free_bytes_are_known
}

fn read(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    disk.open(path, OpenMode::CreateOrOpen).unwrap().write_all_at(bytes, 0).unwrap();
}

fn what_was_written_is_read(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(&[IoSlice::new(b"hello, "), IoSlice::new(b""), IoSlice::new(b"world")], 0).unwrap();
    file.write_all_at(b"W", 7).unwrap();
    assert_eq!(read(disk, &dir.join("f")), b"hello, World");
    let mut short = [0; 20];
    assert_eq!(file.read_at(&mut short, 7).unwrap(), 5);
    assert_eq!(file.read_exact_at(&mut short, 0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

fn many_slices_are_written_one_behind_the_other(disk: &dyn Disk, dir: &Path) {
    // More than one system call takes.
    let pieces: Vec<Vec<u8>> = (0..3_000_usize).map(|number| vec![number as u8; number % 7]).collect();
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    file.write_at(&slices, 3).unwrap();
    assert_eq!(read(disk, &dir.join("f"))[3..], pieces.concat());
}

fn a_gap_reads_as_zeros(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    file.write_all_at(b"x", 1_000).unwrap();
    let mut expected = vec![0; 1_001];
    expected[1_000] = b'x';
    assert_eq!(read(disk, &dir.join("f")), expected);
}

fn reads_at_and_behind_the_end_give_nothing(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    file.write_all_at(b"abc", 0).unwrap();
    let mut buffer = [0; 4];
    assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

fn lengths_are_cut_and_grown(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    file.write_all_at(b"abcdef", 0).unwrap();
    file.set_len(2).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(file.len().unwrap(), 4);
    assert_eq!(read(disk, &dir.join("f")), b"ab\0\0");
}

fn allocation_grows_but_never_cuts(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    file.write_all_at(b"abcdef", 0).unwrap();
    file.allocate(0, 3).unwrap();
    assert_eq!(read(disk, &dir.join("f")), b"abcdef");
    file.allocate(4, 4).unwrap();
    assert_eq!(read(disk, &dir.join("f")), b"abcdef\0\0");
}

fn opening_modes_differ(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("f");
    let kind = |mode| disk.open(&path, mode).err().map(|error| error.kind());
    assert!(!disk.exists(&path).unwrap());
    assert_eq!(kind(OpenMode::Read), Some(ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::Write), Some(ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::CreateNew), None);
    assert!(disk.exists(&path).unwrap());
    assert_eq!(kind(OpenMode::CreateNew), Some(ErrorKind::AlreadyExists));
    write(disk, &path, b"kept");
    for mode in [OpenMode::Read, OpenMode::Write, OpenMode::CreateOrOpen] {
        assert_eq!(kind(mode), None);
    }
    assert_eq!(read(disk, &path), b"kept");
    assert_eq!(disk.open(&dir.join("none/f"), OpenMode::CreateNew).err().unwrap().kind(), ErrorKind::NotFound);
}

fn names_are_listed_in_order(disk: &dyn Disk, dir: &Path) {
    for name in ["b", "a", "c"] {
        write(disk, &dir.join(name), b"");
    }
    disk.create_dir_all(&dir.join("aa/deep")).unwrap();
    disk.create_dir_all(&dir.join("aa/deep")).unwrap();
    let names: Vec<_> = disk.read_dir(dir).unwrap().into_iter().map(|entry| (entry.name, entry.is_dir)).collect();
    let expected = [("a", false), ("aa", true), ("b", false), ("c", false)];
    assert_eq!(names, expected.map(|(name, is_dir)| (name.to_owned(), is_dir)));
    assert_eq!(disk.read_dir(&dir.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.read_dir(&dir.join("a")).unwrap_err().kind(), ErrorKind::NotADirectory);
}

fn renaming_replaces(disk: &dyn Disk, dir: &Path) {
    write(disk, &dir.join("old"), b"old");
    write(disk, &dir.join("new"), b"new");
    disk.rename(&dir.join("new"), &dir.join("old")).unwrap();
    assert_eq!(read(disk, &dir.join("old")), b"new");
    assert!(!disk.exists(&dir.join("new")).unwrap());
    let missing = disk.rename(&dir.join("new"), &dir.join("other"));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_renamed_folder_keeps_its_files(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("a/b")).unwrap();
    write(disk, &dir.join("a/b/f"), b"x");
    disk.rename(&dir.join("a"), &dir.join("z")).unwrap();
    assert_eq!(read(disk, &dir.join("z/b/f")), b"x");
    assert!(!disk.exists(&dir.join("a")).unwrap());
}

fn removal_needs_the_right_kind(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("d")).unwrap();
    write(disk, &dir.join("d/f"), b"");
    disk.remove_file(&dir.join("d")).unwrap_err();
    assert_eq!(disk.remove_dir(&dir.join("d")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    disk.remove_dir(&dir.join("d/f")).unwrap_err();
    disk.remove_file(&dir.join("d/f")).unwrap();
    assert_eq!(disk.remove_file(&dir.join("d/f")).unwrap_err().kind(), ErrorKind::NotFound);
    disk.remove_dir(&dir.join("d")).unwrap();
    assert!(!disk.exists(&dir.join("d")).unwrap());
}

fn a_lock_is_held_once(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("LOCK");
    let held = disk.lock(&path).unwrap();
    assert_eq!(disk.lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(held);
    drop(disk.lock(&path).unwrap());
}

fn an_open_file_outlives_its_name(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("f");
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    disk.rename(&path, &dir.join("g")).unwrap();
    file.write_all_at(b"two", 3).unwrap();
    assert_eq!(read(disk, &dir.join("g")), b"onetwo");
    disk.remove_file(&dir.join("g")).unwrap();
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"onetwo");
}

fn syncs_and_hints_are_accepted(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[7; 10_000], 0).unwrap();
    file.start_writeback(0, 4_096).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(dir).unwrap();
    file.drop_cache(0, 0).unwrap();
    file.drop_cache(4_096, 4_096).unwrap();
    assert_eq!(read(disk, &dir.join("f")), [7; 10_000]);
    assert_eq!(disk.sync_dir(&dir.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    // A recovery syncs what it only reads.
    disk.open(&dir.join("f"), OpenMode::Read).unwrap().sync_data().unwrap();
}

fn a_file_for_reading_refuses_writes(disk: &dyn Disk, dir: &Path) {
    write(disk, &dir.join("f"), b"abc");
    let file = disk.open(&dir.join("f"), OpenMode::Read).unwrap();
    file.write_all_at(b"x", 0).unwrap_err();
    assert_eq!(read(disk, &dir.join("f")), b"abc");
}

fn free_bytes_are_known(disk: &dyn Disk, dir: &Path) {
    assert!(disk.free_bytes(dir).unwrap() > 0);
}

//! What the simulated disk loses, and what it may not lose.

use std::path::Path;

use goulette_env::{
    Disk, DiskFile, OpenMode,
    sim::{Faults, SimDisk, Unsynced},
};

const DIR: &str = "/d";

fn disk() -> SimDisk {
    let disk = SimDisk::from_seed(11);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(DIR).join(name)
}

fn create(disk: &SimDisk, name: &str, bytes: &[u8]) -> Box<dyn DiskFile> {
    let file = disk.open(&path(name), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn bytes(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    disk.files().remove(&path(name))
}

/// A disk with a durable file `f` of two sectors of `a`.
fn disk_with_file() -> (SimDisk, Box<dyn DiskFile>) {
    let disk = disk();
    let file = create(&disk, "f", &[b'a'; 1024]);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    (disk, file)
}

#[test]
fn synced_bytes_under_a_synced_name_survive_every_crash() {
    let (disk, _file) = disk_with_file();
    for unsynced in [Unsynced::None, Unsynced::All, Unsynced::Torn, Unsynced::Random] {
        assert_eq!(bytes(&disk.crash(unsynced), "f"), Some(vec![b'a'; 1024]));
    }
}

#[test]
fn synced_bytes_under_an_unsynced_name_are_lost() {
    let disk = disk();
    create(&disk, "f", b"abc").sync_data().unwrap();
    assert_eq!(bytes(&disk.crash(Unsynced::None), "f"), None);
    assert_eq!(bytes(&disk.crash(Unsynced::All), "f"), Some(b"abc".to_vec()));
}

#[test]
fn what_lies_in_a_lost_folder_is_lost() {
    let disk = SimDisk::from_seed(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    create(&disk, "f", b"abc").sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(disk.crash(Unsynced::None).files().is_empty());
}

#[test]
fn unsynced_sectors_survive_each_on_its_own() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[b'b'; 1024], 0).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let found = bytes(&disk.crash(Unsynced::Random), "f").unwrap();
        for sector in found.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
        }
        seen.insert([found[0], found[512]]);
    }
    assert_eq!(seen, [*b"aa", *b"ab", *b"ba", *b"bb"].into());
}

#[test]
fn a_torn_write_keeps_its_first_sectors_only() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[b'b'; 1024], 0).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let found = bytes(&disk.crash(Unsynced::Torn), "f").unwrap();
        seen.insert([found[0], found[512]]);
    }
    assert_eq!(seen, [*b"aa", *b"ba", *b"bb"].into());
}

#[test]
fn a_prefix_of_the_changes_survives_in_order() {
    let (disk, file) = disk_with_file();
    file.write_all_at(b"1", 0).unwrap();
    disk.rename(&path("f"), &path("g")).unwrap();
    file.write_all_at(b"2", 1).unwrap();
    assert_eq!(disk.unsynced(), 3);
    let first = |count| {
        let files = disk.crash(Unsynced::Prefix(count)).files();
        files.into_iter().map(|(path, bytes)| (path, bytes[..2].to_vec())).next().unwrap()
    };
    assert_eq!(first(0), (path("f"), b"aa".to_vec()));
    assert_eq!(first(1), (path("f"), b"1a".to_vec()));
    assert_eq!(first(2), (path("g"), b"1a".to_vec()));
    assert_eq!(first(3), (path("g"), b"12".to_vec()));
}

#[test]
fn a_rename_between_folders_is_durable_when_both_are_synced() {
    let other = Path::new("/e");
    for synced in [vec![other], vec![Path::new(DIR)], vec![other, Path::new(DIR)]] {
        let (disk, _file) = disk_with_file();
        disk.create_dir_all(other).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.rename(&path("f"), &other.join("f")).unwrap();
        for folder in &synced {
            disk.sync_dir(folder).unwrap();
        }
        let files = disk.crash(Unsynced::None).files();
        let expected = if synced.len() == 2 { other.join("f") } else { path("f") };
        assert_eq!(files.into_keys().collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn after_a_killed_process_bytes_are_readable_and_still_not_durable() {
    let (disk, file) = disk_with_file();
    file.write_all_at(b"x", 0).unwrap();
    let disk = disk.restart();
    file.write_all_at(b"y", 0).unwrap_err();
    assert_eq!(bytes(&disk, "f").unwrap()[0], b'x');
    assert_eq!(bytes(&disk.crash(Unsynced::None), "f").unwrap()[0], b'a');
    let disk = disk.restart();
    disk.open(&path("f"), OpenMode::Read).unwrap().sync_data().unwrap();
    assert_eq!(bytes(&disk.crash(Unsynced::None), "f").unwrap()[0], b'x');
}

#[test]
fn after_a_failed_sync_the_cache_lies_until_it_is_dropped() {
    let (disk, file) = disk_with_file();
    disk.set_faults(Faults { fail_sync_at: Some(disk.syncs() + 1), ..Faults::default() });
    // Of so many sectors some are lost.
    file.write_all_at(&[b'b'; 32 << 10], 0).unwrap();
    file.sync_data().unwrap_err();
    let disk = disk.restart();
    let file = disk.open(&path("f"), OpenMode::Read).unwrap();
    file.sync_data().unwrap();
    assert_eq!(bytes(&disk, "f"), Some(vec![b'b'; 32 << 10]), "the second sync succeeds and proves nothing");
    file.drop_cache(0, 0).unwrap();
    let truth = bytes(&disk, "f").unwrap();
    assert!(truth.iter().any(|byte| *byte != b'b'));
    // Lost behind the last surviving sector, the length is too.
    let after = bytes(&disk.crash(Unsynced::All), "f").unwrap();
    assert_eq!(after, truth[..after.len()]);
}

#[test]
fn a_stopped_machine_does_nothing_any_more() {
    let (disk, file) = disk_with_file();
    disk.set_faults(Faults { stop_at: Some(disk.operations() + 2), ..Faults::default() });
    file.write_all_at(b"1", 0).unwrap();
    file.sync_data().unwrap_err();
    file.read_at(&mut [0], 0).unwrap_err();
    disk.read_dir(Path::new(DIR)).unwrap_err();
    assert!(disk.is_stopped());
    assert_eq!(bytes(&disk.crash(Unsynced::None), "f").unwrap()[0], b'a', "the sync did not happen");
    assert_eq!(bytes(&disk.crash(Unsynced::All), "f").unwrap()[0], b'1', "and may be asked for another outcome");
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let (disk, file) = disk_with_file();
    disk.set_faults(Faults { capacity: Some(2_000), ..Faults::default() });
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 976);
    let full = file.write_all_at(&[0; 1000], 1024).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(0, 4096).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    file.write_all_at(&[0; 1000], 0).unwrap();
    disk.set_faults(Faults::default());
    file.write_all_at(&[0; 1000], 1024).unwrap();
}

#[test]
fn the_same_seed_loses_the_same() {
    let run = |seed| {
        let disk = SimDisk::from_seed(seed);
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        for name in ["a", "b", "c"] {
            create(&disk, name, &[1; 8 << 10]);
        }
        [disk.crash(Unsynced::Random).files(), disk.crash(Unsynced::Torn).files()]
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn every_subset_of_what_is_at_stake_can_be_had() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[b'b'; 1024], 0).unwrap();
    disk.open(&path("g"), OpenMode::CreateNew).unwrap();
    assert_eq!(disk.unsynced_sectors(), 3);
    let outcomes: std::collections::BTreeSet<_> = (0..8)
        .map(|subset| {
            let crashed = disk.crash(Unsynced::Subset(subset));
            let f = bytes(&crashed, "f").unwrap();
            (f[0] == b'b', f[512] == b'b', bytes(&crashed, "g").is_some())
        })
        .collect();
    assert_eq!(outcomes.len(), 8);
    let first = bytes(&disk.crash(Unsynced::Subset(1)), "f").unwrap();
    assert_eq!((first[0], first[512]), (b'b', b'a'));
}

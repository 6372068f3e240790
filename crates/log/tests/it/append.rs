//! What an append, a read and a restart promise, one promise per test.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use goulette_env::{
    Disk,
    sim::{Faults, SimDisk, Unsynced},
};
use goulette_log::{AppendError, Appended, ChangeError, Identity, Log, LogOptions, OpenError, ReadError};
use goulette_types::{ErrorKind, LeaderEpoch, Offset, Timestamp};

use crate::support::*;

fn appended(base_offset: u64) -> Appended {
    Appended { base_offset: Some(Offset(base_offset)), duplicate: false }
}

fn duplicate(base_offset: u64) -> Appended {
    Appended { base_offset: Some(Offset(base_offset)), duplicate: true }
}

#[test]
fn batches_get_dense_offsets_and_read_back_from_anywhere() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let mut next = 0;
    for count in [1, 3, 2, 40, 1, 1] {
        let values: Vec<_> = (next..next + count).map(|value| format!("value {value}")).collect();
        assert_eq!(append(&partition, batch(&values)).unwrap(), appended(next));
        next += count;
        // Some in memory, some in fragments, several of them.
        if next % 2 == 0 {
            log.flush().unwrap();
        }
    }
    let all: Vec<_> = (0..next).map(|value| format!("value {value}")).collect();
    let check = |partition: &goulette_log::Partition| {
        assert_eq!(values(partition), all);
        for from in 0..next {
            let read = partition.read(Offset(from), Offset::MAX, 1).unwrap();
            assert_eq!(read.len(), 1);
            assert!(read[0].base_offset() <= Offset(from) && Offset(from) < read[0].next_offset());
        }
        assert!(partition.read(Offset(next), Offset::MAX, 1).unwrap().is_empty());
        assert!(partition.read(Offset(0), Offset(0), 1).unwrap().is_empty());
        assert!(matches!(partition.read(Offset(next + 1), Offset::MAX, 1), Err(ReadError::PastEnd { .. })));
    };
    check(&partition);
    log.close().unwrap();
    let (log, report) = open(disk.restart().env(), small());
    assert_eq!(report.entries, 0, "a clean close leaves nothing to replay");
    check(&log.partition(id(1, 0)).unwrap());
}

#[test]
fn cold_reads_find_every_offset_without_the_tail_cache() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { tail_cache_bytes: 0, roll: roll(200 << 10), ..small() };
    let (log, _) = open(disk.env(), LogOptions { ..options.clone() });
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    for value in 0..300 {
        append(&partition, batch_at(value * 10, &[format!("{value} {}", "x".repeat((value as usize * 37) % 5_000))]))
            .unwrap();
    }
    log.flush().unwrap();
    assert_eq!(partition.read_cached(Offset(0), Offset::MAX, 1), None);
    for round in 0..2 {
        let partition = log.partition(id(1, 0)).unwrap();
        for from in (0..300).step_by(7) {
            for bytes_max in [1, 5_000, 100_000] {
                let read = partition.read(Offset(from), Offset(299), bytes_max).unwrap();
                assert_eq!(read[0].base_offset(), Offset(from));
                let bytes: usize = read.iter().map(|batch| batch.encoded_bytes()).sum();
                assert!(read.len() == 1 || bytes <= bytes_max as usize);
                assert!(read.windows(2).all(|two| two[0].next_offset() == two[1].base_offset()));
                assert!(read.last().unwrap().next_offset() <= Offset(299));
            }
        }
        for (time, found) in
            [(-5, Some(0)), (0, Some(0)), (1, Some(1)), (1_001, Some(101)), (2_990, Some(299)), (2_991, None)]
        {
            let expected = found.map(|value| (Offset(value), Timestamp(value as i64 * 10)));
            assert_eq!(partition.offset_at(Timestamp(time)).unwrap(), expected, "round {round} time {time}");
        }
        log.checkpoint().unwrap();
    }
}

#[test]
fn a_time_is_found_in_memory_and_behind_it() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch_at(100, &["a", "b"])).unwrap();
    log.flush().unwrap();
    append(&partition, batch_at(50, &["early"])).unwrap();
    append(&partition, batch_at(200, &["c", "d"])).unwrap();
    let at = |time| partition.offset_at(Timestamp(time)).unwrap().map(|(offset, time)| (offset.0, time.0));
    assert_eq!(at(0), Some((0, 100)));
    assert_eq!(at(101), Some((1, 101)));
    assert_eq!(at(102), Some((3, 200)));
    assert_eq!(at(201), Some((4, 201)));
    assert_eq!(at(202), None);
}

#[test]
fn a_retry_is_answered_with_the_first_offset_and_stored_once() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    assert_eq!(append(&partition, batch_of(9, 0, 0, &["a", "b"])).unwrap(), appended(0));
    assert_eq!(append(&partition, batch_of(9, 0, 2, &["c"])).unwrap(), appended(2));
    assert_eq!(append(&partition, batch_of(9, 0, 0, &["a", "b"])).unwrap(), duplicate(0));
    let refused = |batch| append(&partition, batch).unwrap_err().kind();
    assert_eq!(refused(batch_of(9, 0, 4, &["e"])), ErrorKind::OutOfOrder);
    assert_eq!(refused(batch_of(9, 0, 2, &["c", "d"])), ErrorKind::Invalid);
    assert_eq!(refused(batch_of(8, 0, 1, &["x"])), ErrorKind::OutOfOrder);
    assert_eq!(append(&partition, batch_of(9, 1, 0, &["d"])).unwrap(), appended(3));
    assert_eq!(refused(batch_of(9, 0, 3, &["d"])), ErrorKind::Fenced);
    // By checkpoint, and by replay.
    for checkpoint in [true, false] {
        if checkpoint {
            log.checkpoint().unwrap();
        }
        let (log, _) = Log::open(disk.crash(Unsynced::None).env(), Path::new(DIR), small()).unwrap();
        let partition = log.partition(id(1, 0)).unwrap();
        assert_eq!(append(&partition, batch_of(9, 1, 0, &["d"])).unwrap(), duplicate(3));
        assert_eq!(append(&partition, batch_of(9, 1, 1, &["e"])).unwrap(), appended(4));
        assert_eq!(values(&partition), ["a", "b", "c", "d", "e"]);
    }
}

#[test]
fn an_older_leader_epoch_is_fenced() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let send = |epoch, value| send(&partition, LeaderEpoch(epoch), batch(&[value])).recv().unwrap();
    assert_eq!(send(3, "a").unwrap(), appended(0));
    assert_eq!(send(5, "b").unwrap(), appended(1));
    assert!(matches!(send(4, "c"), Err(AppendError::Fenced { .. })));
    assert_eq!(partition.last_epoch(), LeaderEpoch(5));
    log.close().unwrap();
    let (log, _) = open(disk.restart().env(), small());
    assert_eq!(log.partition(id(1, 0)).unwrap().epochs().len(), 2);
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ["a", "b"]);
}

#[test]
fn the_listener_hears_of_each_rise_and_answers_come_when_the_batch_can_be_read() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let heard = ends.clone();
    partition.set_listener(Arc::new(move |end| heard.lock().unwrap().push(end)));
    let (tell, read) = std::sync::mpsc::channel();
    let reader = partition.clone();
    let done = Box::new(move |_| tell.send(reader.read_cached(Offset(0), Offset::MAX, 100)).unwrap());
    partition.append(EPOCH, batch(&["a"]), done);
    assert_eq!(read.recv_timeout(Duration::from_secs(20)).unwrap().unwrap().len(), 1);
    append(&partition, batch(&["b"])).unwrap();
    log.close().unwrap();
    assert_eq!(*ends.lock().unwrap(), [Offset(1), Offset(2)]);
}

#[test]
fn positions_are_kept_by_checkpoint_and_replay() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    commit_position(&partition, "readers", 7).unwrap();
    log.checkpoint().unwrap();
    commit_position(&partition, "others", 3).unwrap();
    commit_position(&partition, "readers", 5).unwrap();
    let (log, _) = open(disk.crash(Unsynced::None).env(), small());
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(partition.position(&group("readers")), Some(Offset(5)));
    assert_eq!(partition.position(&group("others")), Some(Offset(3)));
    assert_eq!(partition.position(&group("strangers")), None);
}

#[test]
fn a_partition_keeps_the_positions_of_so_many_groups_and_says_so() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), LogOptions { groups_max: 2, ..small() });
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    commit_position(&partition, "a", 1).unwrap();
    commit_position(&partition, "b", 2).unwrap();
    let refused = commit_position(&partition, "c", 3).unwrap_err();
    assert!(matches!(refused, AppendError::TooManyGroups { groups: 2, .. }), "{refused}");
    commit_position(&partition, "a", 4).unwrap();
    assert_eq!(partition.positions().len(), 2);
}

#[test]
fn a_deleted_topic_is_gone_with_its_files_and_its_id_stays_used() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let other = log.create_partition(id(2, 0), &topic("u")).unwrap();
    append(&partition, batch(&["a"])).unwrap();
    append(&other, batch(&["b"])).unwrap();
    log.checkpoint().unwrap();
    append(&partition, batch(&["c"])).unwrap();
    log.delete_topic(id(1, 0).topic).unwrap();
    log.delete_topic(id(1, 0).topic).unwrap();
    assert!(log.partition(id(1, 0)).is_none());
    assert!(matches!(append(&partition, batch(&["d"])), Err(AppendError::Deleted(_))));
    assert!(matches!(partition.read(Offset(0), Offset::MAX, 1), Err(ReadError::Deleted(_))));
    assert!(matches!(log.create_partition(id(1, 0), &topic("t")), Err(ChangeError::Deleted(_))));
    let has_files = |disk: &SimDisk| disk.files().keys().any(|path| path.to_string_lossy().contains("/t."));
    assert!(has_files(&disk), "files go only behind a checkpoint");
    let disk = disk.crash(Unsynced::None);
    let (log, _) = open(disk.env(), small());
    assert!(log.partition(id(1, 0)).is_none());
    assert_eq!(values(&log.partition(id(2, 0)).unwrap()), ["b"]);
    assert!(has_files(&disk));
    log.checkpoint().unwrap();
    assert!(!has_files(&disk));
}

#[test]
fn a_full_budget_is_busy_and_changes_nothing() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { unflushed_bytes_max: 300, ..small() };
    let (log, _) = open(disk.env(), options);
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch_of(9, 0, 0, &["x".repeat(200)])).unwrap();
    assert!(matches!(append(&partition, batch_of(9, 0, 1, &["b"])), Err(AppendError::Busy)));
    log.flush().unwrap();
    assert_eq!(append(&partition, batch_of(9, 0, 1, &["b"])).unwrap(), appended(1));
}

#[test]
fn a_failed_sync_poisons_everything() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch(&["a"])).unwrap();
    let heard = Arc::new(Mutex::new(0));
    let count = heard.clone();
    log.on_poison(Box::new(move |_| *count.lock().unwrap() += 1));
    disk.set_faults(Faults { fail_sync_at: Some(disk.syncs() + 1), ..Default::default() });
    assert!(log.checkpoint().is_err());
    assert!(log.poisoned().is_some());
    assert_eq!(append(&partition, batch(&["b"])).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(log.checkpoint().is_err());
    assert!(log.close().is_err());
    assert_eq!(*heard.lock().unwrap(), 1);
    let (log, report) = open(disk.restart().env(), small());
    assert_eq!(report.lost, None);
    assert_eq!(values(&log.partition(id(1, 0)).unwrap()), ["a"]);
}

#[test]
fn a_directory_is_locked_and_belongs_to_one_broker() {
    let disk = SimDisk::from_seed(1);
    let (env, dir) = (disk.env(), Path::new(DIR));
    let broker = "broker1".parse().unwrap();
    let identity = Identity::open(&env, dir, &broker).unwrap();
    assert_eq!(Identity::open(&env, dir, &broker).unwrap(), identity);
    let other = Identity::open(&env, dir, &"broker2".parse().unwrap()).unwrap_err();
    assert!(matches!(other, OpenError::OtherBroker { .. }), "{other}");
    let (log, _) = open(env.clone(), small());
    assert_eq!(log.identity(), Some(identity.clone()));
    assert!(matches!(Log::open(env.clone(), dir, small()), Err(OpenError::Locked { .. })));
    assert!(matches!(Identity::open(&env, dir, &broker), Err(OpenError::Locked { .. })));
    let cluster = goulette_types::ClusterId(5);
    log.join_cluster(cluster).unwrap();
    log.join_cluster(cluster).unwrap();
    assert_eq!(log.join_cluster(goulette_types::ClusterId(6)).unwrap_err().kind(), ErrorKind::Conflict);
    log.close().unwrap();
    let again = Identity::open(&env, dir, &broker).unwrap();
    assert_eq!((again.storage, again.cluster), (identity.storage, Some(cluster)));
}

#[test]
fn a_missing_checkpoint_is_a_loss_and_renews_the_storage_id() {
    let disk = SimDisk::from_seed(1);
    let (env, dir) = (disk.env(), Path::new(DIR));
    let identity = Identity::open(&env, dir, &"b".parse().unwrap()).unwrap();
    let (log, _) = open(env.clone(), small());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    append(&partition, batch(&["a"])).unwrap();
    log.close().unwrap();
    env.disk.remove_file(&dir.join("checkpoint")).unwrap();
    let (log, report) = open(env.clone(), small());
    assert!(report.lost.is_some());
    assert_ne!(log.identity().unwrap().storage, identity.storage);
    drop(log);
    let (_, report) = open(env, small());
    assert_eq!(report.lost, None, "a loss is reported once");
}

#[test]
fn what_nobody_knows_is_set_aside_and_never_deleted() {
    let disk = SimDisk::from_seed(1);
    let env = disk.env();
    let (log, _) = open(env.clone(), small());
    log.create_partition(id(1, 0), &topic("t")).unwrap();
    log.close().unwrap();
    let stranger = Path::new(DIR).join("topics/stranger.00000000000000000000000000000009/0");
    env.disk.create_dir_all(&stranger).unwrap();
    let file = env.disk.open(&stranger.join("00000000000000000000.0.log"), goulette_env::OpenMode::CreateNew).unwrap();
    file.write_all_at(b"precious", 0).unwrap();
    env.disk.create_dir_all(&Path::new(DIR).join("topics/empty.00000000000000000000000000000008/3")).unwrap();
    let (_, report) = open(env.clone(), small());
    assert_eq!(report.set_aside.len(), 1);
    assert_eq!(report.lost, None);
    assert!(disk.files().values().any(|bytes| bytes == b"precious"));
    let topics = env.disk.read_dir(&Path::new(DIR).join("topics")).unwrap();
    assert_eq!(topics.len(), 1);
}

#[test]
fn a_corrupt_batch_is_reported_with_the_way_around_it() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { tail_cache_bytes: 0, roll: roll(1 << 20), ..small() };
    let (log, _) = open(disk.env(), options);
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    for value in 0..20 {
        append(&partition, batch(&[format!("{value} {}", "x".repeat(10_000))])).unwrap();
    }
    log.flush().unwrap();
    let path =
        disk.files().into_keys().find(|path| path.extension().is_some_and(|extension| extension == "log")).unwrap();
    let file = disk.env().disk.open(&path, goulette_env::OpenMode::Write).unwrap();
    // In the records of the batch at offset 5, and in the leader epoch, which no CRC covers, of that at offset 11.
    let bytes = file.len().unwrap() / 20;
    file.write_all_at(b"rot", 5 * bytes + 5_000).unwrap();
    file.write_all_at(&[7], 11 * bytes + 15).unwrap();
    let read = |from| partition.read(Offset(from), Offset::MAX, 1 << 20);
    assert_eq!(read(0).unwrap().len(), 5);
    match read(5) {
        Err(ReadError::Corrupt { from, next: Some(next), .. }) => {
            assert_eq!(from, Offset(5));
            assert!(next > from && next <= Offset(7), "{next}");
            assert_eq!(read(next.0).unwrap()[0].base_offset(), next);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(read(11), Err(ReadError::Corrupt { from: Offset(11), .. })));
    assert_eq!(read(12).unwrap().len(), 8);
}

#[test]
fn a_lost_or_spoilt_index_is_built_anew() {
    let disk = SimDisk::from_seed(1);
    let options = LogOptions { tail_cache_bytes: 0, ..small() };
    let (log, _) = open(disk.env(), options.clone());
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let all: Vec<_> = (0..60).map(|value| format!("value {value} {}", "x".repeat(200))).collect();
    for (count, value) in all.iter().enumerate() {
        append(&partition, batch_at(count as i64, &[value])).unwrap();
    }
    log.close().unwrap();
    let env = disk.env();
    let mut spoilt = 0;
    for path in disk.files().keys().filter(|path| path.to_string_lossy().ends_with("index")) {
        if spoilt % 3 == 0 {
            env.disk.remove_file(path).unwrap();
        } else {
            env.disk.open(path, goulette_env::OpenMode::Write).unwrap().write_all_at(b"rubbish", 20).unwrap();
        }
        spoilt += 1;
    }
    assert!(spoilt >= 6, "{spoilt}");
    let (log, _) = open(env, options);
    let partition = log.partition(id(1, 0)).unwrap();
    assert_eq!(values(&partition), all);
    assert_eq!(partition.offset_at(Timestamp(33)).unwrap(), Some((Offset(33), Timestamp(33))));
}

#[test]
fn a_partition_rolls_at_limits_of_its_own_until_they_are_taken_back() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), LogOptions { roll: roll(1 << 20), ..small() });
    let partition = log.create_partition(id(1, 0), &topic("t")).unwrap();
    let fragments = || {
        log.flush().unwrap();
        let names = disk.read_dir(&Path::new(DIR).join(format!("topics/t.{}/0", id(1, 0).topic))).unwrap();
        names.iter().filter(|entry| entry.name.ends_with(".log")).count()
    };
    let append_some = || {
        for _ in 0..4 {
            append(&partition, batch(&["x".repeat(600)])).unwrap();
        }
    };
    append_some();
    assert_eq!(fragments(), 1);
    partition.set_roll(Some(roll(1 << 10)));
    append_some();
    assert_eq!(fragments(), 5);
    partition.set_roll(None);
    append_some();
    assert_eq!(fragments(), 5, "the last one has room again");
}

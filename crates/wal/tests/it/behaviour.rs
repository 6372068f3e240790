//! What a caller sees of a log that is open.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use goulette_env::{
    Disk, Env, OpenMode, Random,
    sim::{Faults, SimClock, SimDisk, SimRandom, Unsynced},
};
use goulette_types::ErrorKind;
use goulette_wal::{
    AppendError, Committed, Entry, Payload, RecoverError, Sink, SyncPolicy, Wal, WalError, WalOptions, WalPosition,
};

use crate::world::{DEADLINE, DIR, Event, Events, Model, Session, small};

fn entry(tag: u64, bytes: usize) -> Entry<u64> {
    Entry { kind: 1, payload: Payload::from(Bytes::from(vec![tag as u8; bytes])), tag }
}

fn open(disk: &SimDisk, options: WalOptions) -> Session {
    Model::default().open(disk, options).unwrap()
}

impl Session {
    fn next(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    fn committed(&self) -> (u64, WalPosition, WalPosition) {
        match self.next() {
            Event::Committed { tag, position, end } => (tag, position, end),
            Event::Failed(tags, error) => panic!("{tags:?}: {error}"),
        }
    }

    fn failed(&self) -> (Vec<u64>, WalError) {
        match self.next() {
            Event::Failed(tags, error) => (tags, error),
            Event::Committed { tag, .. } => panic!("{tag} was committed"),
        }
    }
}

/// A sink that stands still until it is let go on.
struct Gate {
    entered: mpsc::Sender<usize>,
    go_on: mpsc::Receiver<()>,
}

impl Sink<u64> for Gate {
    fn committed(&mut self, entries: &mut Vec<Committed<u64>>) {
        let _ = self.entered.send(entries.len());
        let _ = self.go_on.recv_timeout(DEADLINE);
    }

    fn failed(&mut self, _tags: Vec<u64>, _error: &WalError) {}
}

fn open_gated(options: WalOptions) -> (Wal<u64>, mpsc::Receiver<usize>, mpsc::Sender<()>) {
    let (entered, groups) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let env = SimDisk::from_seed(1).env();
    let recovery = Wal::<u64>::recover(&env, Path::new(DIR), options, None, &mut |_| Ok(())).unwrap();
    (Wal::open(recovery, Box::new(Gate { entered, go_on })).unwrap(), groups, release)
}

#[test]
fn what_gathers_while_a_group_is_written_is_one_group() {
    let (wal, groups, release) = open_gated(small());
    wal.append(entry(0, 10)).unwrap();
    assert_eq!(groups.recv_timeout(DEADLINE), Ok(1));
    for tag in 1..=50 {
        wal.append(entry(tag, 10)).unwrap();
    }
    release.send(()).unwrap();
    assert_eq!(groups.recv_timeout(DEADLINE), Ok(50));
    release.send(()).unwrap();
    let stats = wal.stats();
    assert_eq!((stats.groups, stats.entries, stats.syncs, stats.bytes), (2, 51, 2, 51 * 40));
    wal.close().unwrap();
}

#[test]
fn a_full_queue_gives_the_entry_back() {
    let (wal, groups, release) = open_gated(WalOptions { queue_bytes_max: 1_000, queue_entries_max: 3, ..small() });
    // Larger than the queue: alone, it is taken all the same.
    wal.append(entry(0, 2_000)).unwrap();
    assert_eq!(groups.recv_timeout(DEADLINE), Ok(1));
    for tag in 1..=3 {
        wal.append(entry(tag, 100)).unwrap();
    }
    let refused = wal.append(entry(4, 1)).unwrap_err();
    assert!(matches!(refused, AppendError::Busy(_)) && refused.kind() == ErrorKind::Busy);
    assert_eq!(refused.into_inner().tag, 4);
    assert_eq!((wal.stats().queue_entries, wal.stats().queue_bytes), (3, 3 * 128));
    release.send(()).unwrap();
    assert_eq!(groups.recv_timeout(DEADLINE), Ok(3));
    wal.append(entry(5, 900)).unwrap();
    let refused = wal.append_all(vec![entry(6, 10), entry(7, 90)]).unwrap_err();
    assert!(matches!(refused, AppendError::Busy(entries) if entries.len() == 2));
    drop(release);
    wal.close().unwrap();
}

#[test]
fn an_entry_longer_than_a_segment_is_refused_and_the_longest_one_fits() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    let longest = small().payload_bytes_max() as usize;
    let refused = session.wal.append(entry(1, longest + 1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
    session.wal.append(entry(2, longest)).unwrap();
    session.wal.append(entry(3, longest)).unwrap();
    let (first, second) = (session.committed(), session.committed());
    assert_eq!((first.0, second.0), (2, 3));
    assert_eq!(first.1.segment + 1, second.1.segment);
    session.wal.close().unwrap();
}

#[test]
fn groups_begin_on_blocks_of_their_own() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, WalOptions { segment_bytes: 64 << 10, ..small() });
    let opened = session.wal.end();
    session.wal.append_all(vec![entry(1, 10), entry(2, 11)]).unwrap();
    let (first, second) = (session.committed(), session.committed());
    // Entries 8 apart, groups 4096; the first of them begins where the log ended.
    assert_eq!((first.1, first.2.offset - first.1.offset), (opened, 40));
    assert_eq!((second.1, second.2.offset), (first.2, opened.offset + 4096));
    session.wal.append(entry(3, 4_000)).unwrap();
    assert_eq!(session.committed().1, second.2);
    session.wal.append(entry(4, 4_090)).unwrap();
    assert_eq!(session.committed().2.offset, opened.offset + 4 * 4096);
    session.wal.close().unwrap();
}

#[test]
fn a_failed_sync_poisons_and_nothing_is_tried_again() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    session.wal.append(entry(1, 10)).unwrap();
    session.committed();
    disk.set_faults(Faults { fail_sync_at: Some(disk.syncs() + 1), ..Faults::default() });
    session.wal.append(entry(2, 10)).unwrap();
    let (tags, error) = session.failed();
    assert_eq!((tags, error.kind()), (vec![2], ErrorKind::OutcomeUnknown));
    let operations = disk.operations();
    let refused = session.wal.append(entry(3, 10)).unwrap_err();
    assert!(matches!(refused, AppendError::Poisoned(_)));
    let reason = session.wal.poisoned().unwrap();
    assert!(reason.starts_with("could not sync /wal/00000000000000000001.wal: "), "{reason}");
    session.wal.close().unwrap_err();
    assert_eq!(disk.operations(), operations, "nothing was done any more");
}

#[test]
fn a_failed_write_poisons() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    disk.set_faults(Faults { fail_write_at: Some(disk.writes() + 1), ..Faults::default() });
    session.wal.append_all(vec![entry(1, 10), entry(2, 10)]).unwrap();
    assert_eq!(session.failed().0, [1, 2]);
    assert!(session.wal.poisoned().is_some());
}

#[test]
fn a_log_may_be_dropped_by_its_own_sink() {
    struct Last(mpsc::Receiver<Wal<u64>>, mpsc::Sender<()>);
    impl Sink<u64> for Last {
        fn committed(&mut self, _entries: &mut Vec<Committed<u64>>) {
            drop(self.0.recv_timeout(DEADLINE).unwrap());
            self.1.send(()).unwrap();
        }

        fn failed(&mut self, _tags: Vec<u64>, _error: &WalError) {}
    }
    let (hand_over, wal) = mpsc::channel();
    let (dropped, done) = mpsc::channel();
    let env = SimDisk::from_seed(1).env();
    let recovery = Wal::<u64>::recover(&env, Path::new(DIR), small(), None, &mut |_| Ok(())).unwrap();
    let wal_handle = Wal::open(recovery, Box::new(Last(wal, dropped))).unwrap();
    wal_handle.append(entry(1, 10)).unwrap();
    hand_over.send(wal_handle).unwrap();
    done.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn poison_from_outside_stops_the_log() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    session.wal.poison("a fragment's sync failed");
    session.wal.poison("the second reason does not count");
    assert!(matches!(session.wal.append(entry(1, 10)), Err(AppendError::Poisoned(_))));
    let error = session.wal.close().unwrap_err();
    assert_eq!(error.to_string(), "the write-ahead log is poisoned: a fragment's sync failed");
}

#[test]
fn a_helper_that_fails_poisons_the_log() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, WalOptions { prepare_inline: false, ..small() });
    disk.set_faults(Faults { stop_at: Some(0), ..Faults::default() });
    let mut tag = 0;
    while session.wal.append(entry(tag, 3_000)).is_ok() {
        tag += 1;
    }
    assert!(matches!(session.next(), Event::Committed { .. } | Event::Failed(..)));
    session.wal.close().unwrap_err();
}

#[test]
fn without_space_appends_wait_or_are_refused_and_go_on_when_there_is_some() {
    for prepare_inline in [true, false] {
        let disk = SimDisk::from_seed(1);
        let session = open(&disk, WalOptions { prepare_inline, ..small() });
        let free = if prepare_inline { 16 << 10 } else { 40 << 10 };
        disk.set_faults(Faults { capacity: Some(free), ..Faults::default() });
        let mut sent = 0;
        let refused = loop {
            match session.wal.append(entry(sent, 3_000)) {
                Ok(()) => sent += 1,
                Err(AppendError::Busy(_)) => panic!("not before it is full"),
                Err(refused) => break refused,
            }
            std::thread::yield_now();
        };
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(session.wal.stats().full && session.wal.poisoned().is_none());
        disk.set_faults(Faults::default());
        for tag in 0..sent {
            assert_eq!(session.committed().0, tag);
        }
        // Healed; the flag goes down a moment after the last entry was written.
        let mut tries = 0;
        while session.wal.append(entry(sent, 10)).is_err() {
            tries += 1;
            assert!(tries < 1_000_000, "never heals");
            std::thread::yield_now();
        }
        assert_eq!(session.committed().0, sent);
        session.wal.close().unwrap();
    }
}

#[test]
fn closing_while_there_is_no_space_comes_to_an_end() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    for tag in 0..20 {
        let _ = session.wal.append(entry(tag, 3_000));
    }
    let error = session.wal.close().unwrap_err();
    assert!(matches!(error, WalError::ClosedWhileFull));
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn closing_stores_what_waits() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    let mut model = Model::default();
    for tag in 0..30 {
        model.sent.push(model.payload(tag));
        session.wal.append(crate::world::entry(&model, tag)).unwrap();
    }
    session.wal.close().unwrap();
    model.acknowledged = 30;
    model.recover(&disk.crash(Unsynced::None), small()).unwrap();
}

#[test]
fn recycled_segments_are_written_again_and_spares_are_bounded() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    for tag in 0..200 {
        session.wal.append(entry(tag, 3_000)).unwrap();
        let (_, position, _) = session.committed();
        if tag % 3 == 2 {
            session.wal.recycle_before(position);
        }
    }
    let created = disk.log().iter().filter(|operation| operation.kind == "create").count();
    assert!(created <= 8, "{created} files for {} segments", session.wal.end().segment);
    assert!(disk.files().len() <= 8, "{:?}", disk.files().keys());
    session.wal.close().unwrap();
}

#[test]
fn a_segment_is_written_in_full_before_it_gets_its_name_even_if_the_log_waits_for_it() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, WalOptions { segment_bytes: 8 << 20, prepare_inline: false, ..small() });
    // As fast as it goes: the log is ahead of its pool.
    for tag in 0..40 {
        session.wal.append(entry(tag, 1 << 20)).unwrap();
    }
    for _ in 0..40 {
        session.committed();
    }
    let last = session.wal.end().segment;
    session.wal.close().unwrap();
    for segment in 1..=last {
        let new = Path::new(DIR).join(format!("{segment:020}.new"));
        let log = disk.log();
        // The groups come behind the rename, through the same handle.
        let kinds = log.iter().filter(|operation| operation.path == new).map(|operation| operation.kind).take(14);
        let mut expected = vec!["create", "allocate"];
        expected.extend(["write"; 8]);
        expected.extend(["sync", "write", "sync", "rename"]);
        assert_eq!(kinds.collect::<Vec<_>>(), expected, "segment {segment}");
    }
}

#[test]
fn a_file_that_a_crash_left_half_written_is_not_used() {
    let disk = SimDisk::from_seed(1);
    open(&disk, small()).wal.close().unwrap();
    let left = Path::new(DIR).join(format!("{:020}.new", 2));
    disk.open(&left, OpenMode::CreateNew).unwrap().allocate(0, 16 << 10).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    let session = open(&disk.crash(Unsynced::All), small());
    session.wal.append(entry(1, 10)).unwrap();
    session.committed();
    session.wal.close().unwrap();
}

#[test]
fn a_segment_that_was_prepared_and_never_used_is_a_spare_only_once() {
    let options = || WalOptions { spare_segments_max: 4, ..small() };
    let disk = SimDisk::from_seed(1);
    let mut model = Model::default();
    let session = model.open(&disk, options()).unwrap();
    // Segments 1 to 4 become spares, and 5 is full.
    let full = WalPosition { segment: 5, offset: 16 << 10 };
    while session.wal.end() != full {
        let position = session.group(&mut model, 1).unwrap();
        model.from = Some((position, model.sent.len() - 1));
    }
    session.wal.recycle_before(full);
    let spares = |disk: &SimDisk| {
        disk.files().into_keys().filter(|path| path.extension().is_some_and(|name| name == "spare")).count()
    };
    assert_eq!(spares(&disk), 4);
    // The first write makes segment 6 of one of them; the second one would begin it.
    disk.set_faults(Faults { fail_write_at: Some(disk.writes() + 2), ..Faults::default() });
    session.group(&mut model, 1).unwrap_err();
    drop(session);

    // The unused segment is a spare under its number, while another one takes the number in the log. Then that leaves.
    let disk = disk.restart();
    assert!(disk.files().contains_key(Path::new("/wal/00000000000000000006.wal")));
    let session = model.open(&disk, options()).unwrap();
    for _ in 0..100 {
        let position = session.group(&mut model, 1).unwrap();
        session.wal.recycle_before(position);
        assert!(spares(&disk) <= 4);
    }
    session.wal.close().unwrap();
}

#[test]
fn a_new_segment_is_whole_before_its_first_entry() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    let length = disk.files().into_values().map(|bytes| bytes.len()).max();
    assert_eq!(length, Some(16 << 10));
    let before = disk.operations() as usize;
    session.wal.append(entry(1, 10)).unwrap();
    session.committed();
    let kinds: Vec<_> = disk.log()[before..].iter().map(|operation| operation.kind).collect();
    assert_eq!(kinds, ["write", "sync"], "one write and one sync for a group");
    session.wal.close().unwrap();
}

#[test]
fn never_syncs_only_at_the_end_and_an_interval_when_it_is_over() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, WalOptions { sync: SyncPolicy::Never, ..small() });
    let before = disk.syncs();
    for tag in 0..2 {
        session.wal.append(entry(tag, 10)).unwrap();
        session.committed();
    }
    assert_eq!(disk.syncs(), before);
    session.wal.close().unwrap();
    assert_eq!(disk.syncs(), before + 1);

    let disk = SimDisk::from_seed(2);
    let (sender, events) = mpsc::channel();
    let clock = Arc::new(SimClock::new(0));
    let env = Env { clock: clock.clone(), ..disk.env() };
    let options = WalOptions { sync: SyncPolicy::Interval(Duration::from_millis(20)), ..small() };
    let recovery = Wal::<u64>::recover(&env, Path::new(DIR), options, None, &mut |_| Ok(())).unwrap();
    let session = Session { wal: Wal::open(recovery, Box::new(Events(sender))).unwrap(), events };
    session.wal.append(entry(1, 10)).unwrap();
    session.committed();
    assert_eq!(session.wal.stats().syncs, 0);
    clock.advance(Duration::from_millis(20));
    session.wal.append(entry(2, 10)).unwrap();
    session.committed();
    assert_eq!(session.wal.stats().syncs, 1);
    session.wal.append(entry(3, 10)).unwrap();
    session.committed();
    clock.advance(Duration::from_millis(20));
    // Nobody appends any more: the thread wakes by itself.
    let mut tries = 0;
    while session.wal.stats().syncs < 2 {
        tries += 1;
        assert!(tries < 100_000_000, "never synced");
        std::thread::yield_now();
    }
    session.wal.close().unwrap();
}

#[test]
fn a_segment_is_synced_before_the_next_one_is_begun_under_every_policy() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, WalOptions { sync: SyncPolicy::Never, ..small() });
    let mut last = None;
    for tag in 0..9 {
        session.wal.append(entry(tag, 3_000)).unwrap();
        last = Some(session.committed().1);
    }
    let mut found = std::collections::BTreeSet::new();
    let visit = &mut |entry: goulette_wal::RecoveredEntry| {
        found.insert((entry.position.segment, entry.payload[0]));
        Ok(())
    };
    let recovery =
        Wal::<u64>::recover(&disk.crash(Unsynced::None).env(), Path::new(DIR), small(), None, visit).unwrap();
    assert_eq!(recovery.lost, None);
    // The segment that was being filled may be gone, none before it.
    let whole = last.unwrap().segment - 1;
    assert_eq!(
        found.into_iter().map(|(_, tag)| u64::from(tag)).collect::<Vec<_>>(),
        (0..whole * 3 - 1).collect::<Vec<_>>()
    );
}

#[test]
fn the_oldest_waiting_entry_has_an_age() {
    let (entered, groups) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let clock = Arc::new(SimClock::new(0));
    let env = Env { clock: clock.clone(), ..SimDisk::from_seed(1).env() };
    let recovery = Wal::<u64>::recover(&env, Path::new(DIR), small(), None, &mut |_| Ok(())).unwrap();
    let wal = Wal::open(recovery, Box::new(Gate { entered, go_on })).unwrap();
    wal.append(entry(1, 10)).unwrap();
    groups.recv_timeout(DEADLINE).unwrap();
    assert_eq!(wal.stats().oldest_unsynced, None);
    wal.append(entry(2, 10)).unwrap();
    clock.advance(Duration::from_secs(3));
    wal.append(entry(3, 10)).unwrap();
    clock.advance(Duration::from_secs(2));
    assert_eq!(wal.stats().oldest_unsynced, Some(Duration::from_secs(5)));
    drop(release);
    wal.close().unwrap();
}

#[test]
fn the_budget_counts_from_a_position_to_the_end() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    let start = session.wal.end();
    assert_eq!(session.wal.bytes_since(start), 0);
    for tag in 0..6 {
        session.wal.append(entry(tag, 4_000)).unwrap();
        session.committed();
    }
    let end = session.wal.end();
    let expected = (end.segment - start.segment) * (16 << 10) + u64::from(end.offset) - u64::from(start.offset);
    assert_eq!(session.wal.bytes_since(start), expected);
    assert_eq!(session.wal.bytes_since(WalPosition { segment: 99, offset: 0 }), 0);
    session.wal.close().unwrap();
}

#[test]
fn wrong_options_are_reported_together() {
    let options = WalOptions {
        segment_bytes: 5_000,
        queue_entries_max: 0,
        sync: SyncPolicy::Interval(Duration::ZERO),
        ..WalOptions::default()
    };
    let env = SimDisk::from_seed(1).env();
    let result = Wal::<u64>::recover(&env, Path::new(DIR), options, None, &mut |_| Ok(()));
    assert!(matches!(result.err(), Some(RecoverError::Options(mistakes)) if mistakes.len() == 3));
}

#[test]
fn a_visitor_can_refuse() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, small());
    session.wal.append(entry(1, 10)).unwrap();
    drop(session);
    let result = Wal::<u64>::recover(&disk.env(), Path::new(DIR), small(), None, &mut |_| Err("no".into()));
    assert!(matches!(result.err(), Some(RecoverError::Visit { .. })));
}

#[test]
fn many_threads_append_and_every_entry_comes_back_in_the_order_of_completion() {
    let disk = SimDisk::from_seed(1);
    let session = open(&disk, WalOptions { prepare_inline: false, segment_bytes: 64 << 10, ..small() });
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let wal = &session.wal;
            scope.spawn(move || {
                let random = SimRandom::from_seed(thread);
                for number in 0..200 {
                    let length = random.next_u64() % 2_000;
                    wal.append(entry(thread << 32 | number, length as usize)).unwrap();
                }
            });
        }
    });
    let order: Vec<u64> = (0..800).map(|_| session.committed().0).collect();
    session.wal.close().unwrap();
    for thread in 0..4 {
        let numbers: Vec<u64> = order.iter().filter(|tag| **tag >> 32 == thread).map(|tag| tag & 0xffff).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    }
    let mut found = Vec::new();
    let visit = &mut |entry: goulette_wal::RecoveredEntry| {
        found.push(entry.payload.first().copied());
        Ok(())
    };
    Wal::<u64>::recover(&disk.crash(Unsynced::None).env(), Path::new(DIR), small(), None, visit).unwrap();
    assert_eq!(found.len(), 800);
}

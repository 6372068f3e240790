//! A follower's log: the leader's batches as they are, whatever happens to the follower meanwhile.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_log::{AppendError, Log, LogOptions, Partition, Retention};
use goulette_records::Batch;
use goulette_types::{LeaderEpoch, Offset};

use crate::support::*;

/// Batches of two records each, as a leader of `epoch` gave them out.
fn of_leader(epoch: u32, from: u64, count: u64) -> Vec<Batch> {
    let batch = |number| {
        let offset = from + 2 * number;
        let values = [format!("{epoch} {offset} {}", "x".repeat((offset as usize * 37) % 400)), "b".to_owned()];
        let mut batch = batch_of(7, 0, offset as u32, &values);
        batch.assign(Offset(offset), LeaderEpoch(epoch));
        batch
    };
    (0..count).map(batch).collect()
}

/// The machine is off.
struct Stopped;

/// A follower, and what its log may hold.
struct Follower {
    log: Log,
    partition: Arc<Partition>,
    ends: mpsc::Receiver<Offset>,
    /// Start, and batches: as last told durable.
    known: (Offset, Vec<Batch>),
    /// What is under way: the log may hold any number of the batches behind the known ones, or, if something else is
    /// ordered, this.
    sent: Vec<Batch>,
    ordered: Option<(Offset, Vec<Batch>)>,
}

impl Follower {
    fn create(log: Log) -> Option<Self> {
        let partition = log.create_partition(id(1, 0), &topic("t")).ok()?;
        Some(Self::of(log, partition, (Offset(0), Vec::new())))
    }

    fn of(log: Log, partition: Arc<Partition>, known: (Offset, Vec<Batch>)) -> Self {
        let (tell, ends) = mpsc::channel();
        partition.set_listener(Arc::new(move |end| tell.send(end).unwrap_or_default()));
        Self { log, partition, ends, known, sent: Vec::new(), ordered: None }
    }

    /// Appends, and waits until all is durable.
    fn follow(&mut self, batches: Vec<Batch>) -> Result<(), Stopped> {
        let last = batches.last().unwrap().next_offset();
        for batch in batches {
            self.sent.push(batch.clone());
            self.partition.append_replica(batch).map_err(|_| Stopped)?;
        }
        assert_eq!(self.partition.next(), last);
        while self.partition.end() < last {
            match self.ends.recv_timeout(Duration::from_millis(20)) {
                Ok(end) => assert!(end <= last),
                Err(_) if self.log.poisoned().is_some() => return Err(Stopped),
                Err(_) => {}
            }
        }
        self.known.1.append(&mut self.sent);
        Ok(())
    }

    fn order<T, E>(
        &mut self,
        then: (Offset, Vec<Batch>),
        act: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, Stopped> {
        self.ordered = Some(then);
        let outcome = act(self).map_err(|_| Stopped)?;
        self.known = self.ordered.take().unwrap();
        Ok(outcome)
    }

    fn truncate(&mut self, to: u64, epoch: u32) -> Result<(), Stopped> {
        let kept = self.known.1.iter().filter(|batch| batch.next_offset() <= Offset(to)).cloned().collect();
        let start = self.known.0;
        self.order((start, kept), |follower| follower.partition.truncate(Offset(to), LeaderEpoch(epoch))).map(drop)
    }

    fn script(&mut self) -> Result<(), Stopped> {
        self.follow(of_leader(1, 0, 9))?;
        self.log.checkpoint().map_err(|_| Stopped)?;
        self.follow(of_leader(1, 18, 4))?;
        self.truncate(20, 3)?;
        self.follow(of_leader(3, 20, 9))?;
        self.log.flush().map_err(|_| Stopped)?;
        self.order((Offset(40), Vec::new()), |follower| follower.partition.restart(Offset(40), LeaderEpoch(4)))?;
        self.follow(of_leader(4, 40, 6))?;
        self.log.checkpoint().map_err(|_| Stopped)?;
        self.follow(of_leader(4, 52, 3))
    }

    fn check(&self) {
        let held = read_all(&self.partition);
        let (start, known) = &self.known;
        let matches = |start: Offset, batches: &[Batch]| self.partition.start() == start && held == batches;
        let mut may_be: Vec<(Offset, Vec<Batch>)> = (0..=self.sent.len())
            .map(|more| (*start, known.iter().chain(&self.sent[..more]).cloned().collect()))
            .collect();
        may_be.extend(self.ordered.clone());
        assert!(may_be.iter().any(|(start, batches)| matches(*start, batches)), "{} batches", held.len());
        let epoch = held.last().and_then(Batch::leader_epoch).unwrap_or_default();
        assert_eq!(self.partition.last_epoch(), epoch);
    }
}

fn read_all(partition: &Partition) -> Vec<Batch> {
    let (mut all, mut from) = (Vec::new(), partition.start());
    loop {
        let batches = partition.read(from, Offset::MAX, 3_000).unwrap();
        let Some(last) = batches.last() else { return all };
        from = last.next_offset();
        all.extend(batches);
    }
}

#[test]
fn a_follower_that_is_stopped_at_any_disk_operation_holds_a_part_of_what_the_leader_sent() {
    for direct_bytes in [1, 700, usize::MAX] {
        let options = LogOptions { direct_bytes, ..small() };
        let mut stops = 0;
        for stop_at in 1.. {
            let disk = SimDisk::from_seed(stop_at);
            let (log, _) = open(disk.env(), options.clone());
            disk.set_faults(Faults { stop_at: Some(disk.operations() + stop_at), ..Faults::default() });
            let Some(mut follower) = Follower::create(log) else { continue };
            let done = follower.script().is_ok();
            follower.check_after(&disk, &options);
            if done {
                break;
            }
            stops += 1;
        }
        assert!(stops > 60, "{stops}");
    }
}

impl Follower {
    fn check_after(self, disk: &SimDisk, options: &LogOptions) {
        let Follower { log, partition, known, sent, ordered, .. } = self;
        drop((log, partition));
        for unsynced in [Unsynced::None, Unsynced::All, Unsynced::Torn, Unsynced::Random] {
            let (log, report) = open(disk.crash(unsynced).env(), options.clone());
            assert_eq!(report.lost, None);
            let partition = log.partition(id(1, 0)).unwrap();
            let mut again = Follower::of(log, partition, known.clone());
            (again.sent, again.ordered) = (sent.clone(), ordered.clone());
            again.check();
            // Its next life goes on.
            let end = again.partition.end();
            again.known = (again.partition.start(), read_all(&again.partition));
            (again.sent, again.ordered) = (Vec::new(), None);
            assert!(again.follow(of_leader(9, end.0, 2)).is_ok());
            again.check();
        }
    }
}

#[test]
fn what_does_not_follow_is_refused_and_producers_are_known_when_the_follower_leads() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let mut follower = Follower::create(log).unwrap();
    assert!(follower.follow(of_leader(2, 0, 3)).is_ok());
    let refused = |batches: Vec<Batch>| follower.partition.append_replica(batches[0].clone()).unwrap_err();
    assert!(matches!(refused(of_leader(2, 8, 1)), AppendError::OutOfPlace { given: Offset(8), next: Offset(6) }));
    assert!(matches!(refused(of_leader(2, 4, 1)), AppendError::OutOfPlace { .. }));
    assert!(matches!(refused(of_leader(1, 6, 1)), AppendError::Fenced { .. }));
    assert_eq!(follower.partition.next(), Offset(6));

    let retry = send(&follower.partition, LeaderEpoch(3), of_leader(2, 4, 1)[0].clone()).recv().unwrap().unwrap();
    assert_eq!((retry.base_offset, retry.duplicate), (Some(Offset(4)), true));
    let next = send(&follower.partition, LeaderEpoch(3), of_leader(2, 6, 1)[0].clone()).recv().unwrap().unwrap();
    assert_eq!((next.base_offset, next.duplicate), (Some(Offset(6)), false));
}

#[test]
fn the_start_follows_the_leaders_and_what_is_not_committed_is_kept() {
    let disk = SimDisk::from_seed(1);
    let (log, _) = open(disk.env(), small());
    let mut follower = Follower::create(log).unwrap();
    assert!(follower.follow(of_leader(1, 0, 40)).is_ok());
    follower.log.flush().unwrap();
    let partition = &follower.partition;
    // Whole fragments only, so not beyond what was asked for.
    let start = partition.advance_start(Offset(30)).unwrap();
    assert!(Offset(0) < start && start <= Offset(30), "{start}");
    assert_eq!(partition.advance_start(Offset(3)).unwrap(), start);
    partition.set_committed(Offset(50));
    assert_eq!(partition.noted_committed(), Offset(50));
    partition.set_retention(Retention { age: None, bytes: Some(0) });
    follower.log.retain().unwrap();
    let kept = partition.start();
    assert!(start < kept && kept <= Offset(50), "{kept}");
    partition.set_committed(Offset(80));
    follower.log.retain().unwrap();
    assert!(partition.start() > kept);
    follower.log.checkpoint().unwrap();
    drop(follower);
    let (log, _) = open(disk.crash(Unsynced::None).env(), small());
    assert_eq!(log.partition(id(1, 0)).unwrap().noted_committed(), Offset(80));
}

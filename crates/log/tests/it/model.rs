//! What a partition must hold after whatever happened: told from what was answered alone.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path};

use goulette_env::sim::SimDisk;
use goulette_log::{ChangeError, Log, LogOptions, REMEMBERED_BATCHES, RecoveryReport, Retention, RetentionEvent};
use goulette_types::{Offset, PartitionId, Timestamp};

use crate::support::*;

/// Whether something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    No,
    Maybe,
    Yes,
}

impl Known {
    fn of<T>(outcome: &Result<T, ChangeError>) -> Known {
        match outcome {
            Ok(_) => Known::Yes,
            Err(_) => Known::Maybe,
        }
    }
}

/// What one partition must hold.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    created: Known,
    deleted: Known,
    /// One batch of one or two records each.
    pub(crate) sent: Vec<Vec<String>>,
    pub(crate) acknowledged: usize,
    /// Where it may have been cut since: to so many batches.
    cut: Option<usize>,
    /// How often it was cut: batches that take the place of others are others.
    cuts: usize,
    /// A group's positions, oldest first: the last acknowledged one, then those sent behind it.
    positions: Vec<Option<u64>>,
    /// Where it starts: the last start that was told, and how far it may have moved since.
    starts: RangeInclusive<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) partitions: BTreeMap<PartitionId, Expected>,
    /// With which the log is opened each time.
    pub(crate) options: LogOptions,
}

impl Default for Model {
    fn default() -> Self {
        Self { partitions: BTreeMap::new(), options: small() }
    }
}

/// Runs the script's steps until one fails.
pub(crate) struct Run<'a> {
    pub(crate) log: &'a Log,
    pub(crate) model: &'a mut Model,
}

/// The machine is off.
pub(crate) struct Stopped;

pub(crate) const A: u128 = 1;
pub(crate) const B: u128 = 2;
pub(crate) const DOOMED: u128 = 3;

impl Run<'_> {
    pub(crate) fn create(&mut self, of: u128) -> Result<(), Stopped> {
        let id = id(of, 0);
        let outcome = self.log.create_partition(id, &topic(&format!("topic{of}")));
        let (created, deleted) = (Known::of(&outcome), Known::No);
        let new = Expected {
            created,
            deleted,
            sent: Vec::new(),
            acknowledged: 0,
            cut: None,
            cuts: 0,
            positions: vec![None],
            starts: 0..=0,
        };
        self.model.partitions.insert(id, new);
        outcome.map(drop).map_err(|_| Stopped)
    }

    /// Sends so many batches at once, then waits for all of them.
    pub(crate) fn append(&mut self, of: u128, count: usize) -> Result<(), Stopped> {
        let partition = self.log.partition(id(of, 0)).unwrap();
        let expected = self.model.partitions.get_mut(&id(of, 0)).unwrap();
        let first = expected.sent.len();
        let waiting: Vec<_> = (first..first + count)
            .map(|number| {
                let values = values_of(of, number + 1_000 * expected.cuts);
                let batch = batch_of(of as u64, 0, offset_of(number).0 as u32, &values);
                expected.sent.push(values);
                send(&partition, EPOCH, batch)
            })
            .collect();
        for (number, outcome) in (first..).zip(waiting) {
            match outcome.recv_timeout(std::time::Duration::from_secs(20)).expect("each append is answered") {
                Ok(appended) => {
                    assert_eq!(appended.base_offset, Some(offset_of(number)));
                    assert_eq!(expected.acknowledged, number, "answers come in order");
                    expected.acknowledged += 1;
                }
                Err(_) => return Err(Stopped),
            }
        }
        Ok(())
    }

    /// Takes back all but so many batches.
    pub(crate) fn truncate(&mut self, of: u128, batches: usize) -> Result<(), Stopped> {
        let partition = self.log.partition(id(of, 0)).unwrap();
        let expected = self.model.partitions.get_mut(&id(of, 0)).unwrap();
        expected.cut = Some(batches);
        // Also by an offset within the batch that is the first one to go.
        let within = if batches % 2 == 1 { 1 } else { 0 };
        match partition.truncate(offset_of(batches).plus(within), EPOCH) {
            Ok(end) => {
                assert_eq!((end, partition.end()), (offset_of(batches), offset_of(batches)));
                expected.be_cut();
                Ok(())
            }
            Err(_) => Err(Stopped),
        }
    }

    pub(crate) fn position(&mut self, of: u128, offset: u64) -> Result<(), Stopped> {
        let partition = self.log.partition(id(of, 0)).unwrap();
        let expected = self.model.partitions.get_mut(&id(of, 0)).unwrap();
        expected.positions.push(Some(offset));
        commit_position(&partition, "readers", offset).map_err(|_| Stopped)?;
        expected.positions = vec![Some(offset)];
        Ok(())
    }

    pub(crate) fn delete(&mut self, of: u128) -> Result<(), Stopped> {
        let outcome = self.log.delete_topic(id(of, 0).topic);
        self.model.partitions.get_mut(&id(of, 0)).unwrap().deleted = Known::of(&outcome);
        outcome.map_err(|_| Stopped)
    }

    /// Removes the oldest fragments while those behind them have so many bytes.
    pub(crate) fn retain(&mut self, of: u128, bytes: u64) -> Result<(), Stopped> {
        let partition = self.log.partition(id(of, 0)).unwrap();
        let expected = self.model.partitions.get_mut(&id(of, 0)).unwrap();
        partition.set_retention(Retention { age: None, bytes: Some(bytes) });
        let start = *expected.starts.start();
        expected.starts = start..=offset_of(expected.acknowledged).0;
        let outcome = self.log.retain();
        partition.set_retention(Retention::FOREVER);
        for event in outcome.map_err(|_| Stopped)? {
            let RetentionEvent::Removed { partition, .. } = event else { panic!("{event:?}") };
            assert_eq!(partition, id(of, 0));
        }
        let moved = partition.start().0;
        assert!(expected.starts.contains(&moved));
        expected.starts = moved..=moved;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Stopped> {
        self.log.flush().map_err(|_| Stopped)
    }

    pub(crate) fn checkpoint(&mut self) -> Result<(), Stopped> {
        self.log.checkpoint().map_err(|_| Stopped)
    }

    /// Two partitions lose their oldest fragments: some that a checkpoint knows, some that it does not, some of a partition
    /// that is deleted then.
    pub(crate) fn remove(&mut self) -> Result<(), Stopped> {
        self.create(A)?;
        self.create(B)?;
        self.append(A, 12)?;
        self.flush()?;
        self.retain(A, 2_000)?;
        self.append(A, 9)?;
        self.checkpoint()?;
        self.append(B, 12)?;
        self.flush()?;
        self.retain(B, 0)?;
        self.append(B, 3)?;
        self.position(A, 2)?;
        self.retain(A, 0)?;
        self.append(A, 6)?;
        self.checkpoint()?;
        self.append(A, 9)?;
        self.flush()?;
        self.retain(A, 0)?;
        self.append(B, 9)
    }

    /// Goes on where [`remove`](Self::remove) was cut off.
    pub(crate) fn remove_more(&mut self) -> Result<(), Stopped> {
        self.append(A, 9)?;
        self.flush()?;
        self.retain(A, 0)?;
        self.checkpoint()?;
        self.retain(B, 0)?;
        self.delete(B)?;
        self.append(A, 2)?;
        self.checkpoint()?;
        self.append(A, 9)?;
        self.flush()?;
        self.retain(A, 1_000)
    }

    /// Both ways into fragments, rolls, cuts, removals, recycling, a deletion and checkpoints, in turn and of each other.
    pub(crate) fn everything(&mut self) -> Result<(), Stopped> {
        self.create(A)?;
        self.create(B)?;
        self.append(A, 6)?;
        self.truncate(A, 4)?;
        self.append(A, 3)?;
        self.flush()?;
        self.append(B, 7)?;
        self.checkpoint()?;
        self.append(A, 4)?;
        self.truncate(A, 9)?;
        self.truncate(A, 8)?;
        self.append(A, 5)?;
        self.retain(A, 1_500)?;
        self.truncate(B, 2)?;
        self.create(DOOMED)?;
        self.append(DOOMED, 5)?;
        self.checkpoint()?;
        self.append(B, 9)?;
        self.truncate(DOOMED, 1)?;
        self.append(DOOMED, 2)?;
        self.delete(DOOMED)?;
        self.flush()?;
        self.retain(B, 1_500)?;
        self.checkpoint()?;
        self.position(B, 3)?;
        self.append(A, 3)?;
        self.append(B, 4)?;
        self.truncate(B, 13)?;
        self.checkpoint()?;
        self.append(B, 3)
    }

    /// Goes on where [`everything`](Self::everything) was cut off.
    pub(crate) fn everything_else(&mut self) -> Result<(), Stopped> {
        self.append(B, 2)?;
        self.truncate(A, 14)?;
        self.append(A, 3)?;
        self.flush()?;
        self.retain(A, 0)?;
        self.checkpoint()?;
        self.append(A, 3)?;
        self.truncate(A, 16)?;
        self.append(A, 1)
    }

    /// Two partitions, one of which shares its life with a third that is deleted; rolls, flushes, checkpoints.
    pub(crate) fn script(&mut self) -> Result<(), Stopped> {
        self.create(A)?;
        self.append(A, 1)?;
        self.create(B)?;
        self.append(A, 3)?;
        self.append(B, 2)?;
        self.flush()?;
        self.position(A, 2)?;
        self.append(A, 4)?;
        self.create(DOOMED)?;
        self.append(DOOMED, 3)?;
        self.checkpoint()?;
        self.append(DOOMED, 2)?;
        self.append(B, 3)?;
        self.flush()?;
        self.delete(DOOMED)?;
        self.append(A, 6)?;
        self.position(A, 7)?;
        self.checkpoint()?;
        self.position(B, 3)?;
        self.append(A, 5)?;
        self.append(B, 5)?;
        self.flush()?;
        self.append(A, 2)?;
        Ok(())
    }
}

/// Batch `number` has two records if it is odd: so offsets and batches are not the same.
pub(crate) fn values_of(of: u128, number: usize) -> Vec<String> {
    let padding = "x".repeat((number * 61) % 500);
    (0..1 + number % 2).map(|record| format!("{of} {number} {record} {padding}")).collect()
}

pub(crate) fn offset_of(number: usize) -> Offset {
    Offset((number + number / 2) as u64)
}

pub(crate) fn numbered(of: u128, number: usize) -> goulette_records::Batch {
    batch_of(of as u64, 0, offset_of(number).0 as u32, &values_of(of, number))
}

/// What happens between an opening and the end of the process.
pub(crate) type Life = fn(&mut Run<'_>) -> Result<(), Stopped>;

/// Runs one life after the other on a disk that stops at some operation; only the last one ends orderly. Returns whether
/// all went through.
pub(crate) fn run(disk: &SimDisk, model: &mut Model, lives: &[Life]) -> bool {
    lives.iter().enumerate().all(|(number, life)| {
        let Ok((log, _)) = Log::open(disk.env(), Path::new(DIR), model.options.clone()) else { return false };
        let went = life(&mut Run { log: &log, model });
        went.is_ok() && (number + 1 < lives.len() || log.close().is_ok())
    })
}

impl Expected {
    fn be_cut(&mut self) {
        if let Some(batches) = self.cut.take() {
            self.sent.truncate(batches);
            self.acknowledged = batches;
            self.cuts += 1;
        }
    }
}

impl Model {
    /// Opens what a crash left and looks whether it is as it must be. Returns none if the machine went off again.
    pub(crate) fn check(&mut self, disk: &SimDisk) -> Option<(Log, RecoveryReport)> {
        let (log, report) = match Log::open(disk.env(), Path::new(DIR), self.options.clone()) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(disk.is_stopped(), "{error}");
                return None;
            }
        };
        assert_eq!(report.lost, None);
        assert!(report.set_aside.is_empty(), "{:?}", report.set_aside);
        for (id, expected) in &mut self.partitions {
            let partition = log.partition(*id);
            let Some(partition) = partition else {
                assert!(expected.created != Known::Yes || expected.deleted != Known::No, "{id} is missing");
                continue;
            };
            assert_ne!(expected.deleted, Known::Yes, "{id} has risen again");
            let start = partition.start().0;
            assert!(expected.starts.contains(&start), "{id} starts at {start}, not within {:?}", expected.starts);
            let batches = (0..=expected.sent.len()).find(|&count| offset_of(count) == partition.end());
            let batches = batches.expect("whole batches only");
            if expected.cut == Some(batches) {
                expected.be_cut();
            }
            expected.cut = None;
            assert!(batches >= expected.acknowledged, "{id}: {batches} of {} are left", expected.acknowledged);
            assert_eq!(values(&partition), expected.sent[..batches].concat()[start as usize..]);
            assert_eq!(partition.offset_at(Timestamp(0)).unwrap().map_or(start, |(offset, _)| offset.0), start);
            let position = partition.position(&group("readers")).map(|offset| offset.0);
            assert!(expected.positions.contains(&position), "{id}: {position:?} of {:?}", expected.positions);
            // What a reader has seen now stays.
            expected.acknowledged = batches;
            expected.positions = vec![position];
            expected.starts = start..=start;
        }
        Some((log, report))
    }

    /// The producers go on as if nothing had happened: they send again what was not answered, and what was.
    pub(crate) fn go_on(&mut self, log: &Log) {
        for (id, expected) in &mut self.partitions {
            let Some(partition) = log.partition(*id) else { continue };
            // First a batch that is new: from then on the last ones sent are the last ones remembered.
            for number in (expected.acknowledged..expected.sent.len() + 2).chain(0..expected.acknowledged) {
                if number == expected.sent.len() {
                    expected.sent.push(values_of(id.topic.0, number + 1_000 * expected.cuts));
                }
                let sequence = offset_of(number).0 as u32;
                let batch = batch_of(id.topic.0 as u64, 0, sequence, &expected.sent[number]);
                let outcome = append(&partition, batch).unwrap();
                assert_eq!(outcome.duplicate, number < expected.acknowledged);
                // A cut takes back what is remembered, too: then it is less.
                let remembered = number + REMEMBERED_BATCHES >= expected.sent.len();
                let answers = [Some(offset_of(number)), None];
                let answers = if expected.cuts == 0 { &answers[usize::from(!remembered)..][..1] } else { &answers[..] };
                assert!(answers.contains(&outcome.base_offset), "{number}: {outcome:?}");
            }
            expected.acknowledged = expected.sent.len();
        }
    }

    /// Looks whether a log that was closed has left any file of what was removed.
    pub(crate) fn check_files(&self, disk: &SimDisk) {
        for path in disk.files().keys() {
            let text = path.to_string_lossy();
            for (id, expected) in self.partitions.iter().filter(|(id, _)| text.contains(&format!("{}/", id.topic))) {
                let name = path.file_name().unwrap().to_string_lossy();
                let base: u64 = name[..20].parse().unwrap();
                assert!(base >= *expected.starts.start(), "{id}: {text} is left, below {:?}", expected.starts);
            }
        }
    }
}

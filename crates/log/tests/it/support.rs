//! What the tests share: batches, appends that wait, and what a partition holds.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use goulette_env::{Disk, DiskFile, DiskLock, Entry, Env, OpenMode, sim::SimDisk};
use goulette_log::{AppendError, Appended, Log, LogOptions, Partition, RecoveryReport, Roll, SpaceOptions, WalOptions};
use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{
    GroupName, LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Timestamp, TopicId,
    TopicName,
};

pub(crate) const EPOCH: LeaderEpoch = LeaderEpoch(1);
pub(crate) const DIR: &str = "/data";

/// No threads but the WAL's own, small files, so that a short script crosses every border.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        wal: WalOptions { segment_bytes: 16 << 10, prepare_inline: true, ..WalOptions::default() },
        roll: roll(2 << 10),
        space: SpaceOptions { free_bytes_min: Some(0), ballast_bytes: Some(0) },
        // So that scripts take both ways to sync.
        syncs_max: 2,
        fragment_handles_max: 3,
        background: false,
        ..LogOptions::default()
    }
}

/// Fragments of so many bytes, however old.
pub(crate) fn roll(bytes: u32) -> Roll {
    Roll { bytes, age: Duration::from_secs(7 * 24 * 3600) }
}

pub(crate) fn open(env: Env, options: LogOptions) -> (Log, RecoveryReport) {
    Log::open(env, Path::new(DIR), options).unwrap()
}

pub(crate) fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

pub(crate) fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

pub(crate) fn id(topic: u128, index: u32) -> PartitionId {
    PartitionId { topic: TopicId(topic), index: PartitionIndex(index) }
}

/// A batch of records with these values, at times from `time` on.
pub(crate) fn batch_at(time: i64, values: &[impl AsRef<[u8]>]) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    for (delta, value) in values.iter().enumerate() {
        builder.push(None, Some(value.as_ref()), &[], Timestamp(time + delta as i64)).unwrap();
    }
    builder.build()
}

pub(crate) fn batch(values: &[impl AsRef<[u8]>]) -> Batch {
    batch_at(1_000, values)
}

pub(crate) fn batch_of(producer: u64, epoch: u16, sequence: u32, values: &[impl AsRef<[u8]>]) -> Batch {
    let mut batch = batch(values);
    batch.set_producer(ProducerId(producer), ProducerEpoch(epoch), sequence);
    batch
}

pub(crate) type Outcome = Result<Appended, AppendError>;

/// Appends without waiting.
pub(crate) fn send(partition: &Arc<Partition>, epoch: LeaderEpoch, batch: Batch) -> mpsc::Receiver<Outcome> {
    let (tell, outcome) = mpsc::channel();
    partition.append(epoch, batch, Box::new(move |result| tell.send(result).unwrap_or_default()));
    outcome
}

/// Appends and waits.
pub(crate) fn append(partition: &Arc<Partition>, batch: Batch) -> Outcome {
    send(partition, EPOCH, batch).recv_timeout(Duration::from_secs(20)).expect("each append is answered")
}

pub(crate) fn commit_position(partition: &Arc<Partition>, name: &str, offset: u64) -> Result<(), AppendError> {
    let (tell, outcome) = mpsc::channel();
    let done = Box::new(move |result| tell.send(result).unwrap_or_default());
    partition.commit_position(&group(name), Offset(offset), done);
    outcome.recv_timeout(Duration::from_secs(20)).expect("each commit is answered")
}

/// All values of a partition, in order, with every offset and batch looked at.
pub(crate) fn values(partition: &Partition) -> Vec<String> {
    let mut values = Vec::new();
    let mut from = partition.start();
    loop {
        let batches = partition.read(from, Offset::MAX, 700).unwrap();
        let Some(last) = batches.last() else { break };
        for batch in &batches {
            for record in batch.decode(&Limits::WIDEST).unwrap() {
                assert_eq!(record.offset, from);
                from = from.plus(1);
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
        assert_eq!(from, last.next_offset());
    }
    assert_eq!(from, partition.end());
    values
}

/// Does something once, in the middle of somebody else's work: when a fragment is opened.
#[derive(Clone, Default)]
pub(crate) struct Hook(Arc<Mutex<Option<(&'static str, Act)>>>);

type Act = Box<dyn FnOnce() + Send>;

impl Hook {
    pub(crate) fn env(&self, disk: &SimDisk) -> Env {
        let env = disk.env();
        Env { disk: Arc::new(HookedDisk { disk: env.disk.clone(), hook: self.clone() }), ..env }
    }

    /// When a fragment whose path contains `part` is opened next.
    pub(crate) fn set(&self, part: &'static str, act: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some((part, Box::new(act)));
    }
}

struct HookedDisk {
    disk: Arc<dyn Disk>,
    hook: Hook,
}

impl Disk for HookedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let text = path.to_string_lossy();
        let act = self.hook.0.lock().unwrap().take_if(|(part, _)| text.contains(*part) && text.ends_with(".log"));
        if let Some((_, act)) = act {
            act();
        }
        self.disk.open(path, mode)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.disk.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }

    fn volume_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.volume_bytes(path)
    }
}

//! Looking at a data directory without opening it: for people who want to know what is there, and whether it is sound.
//!
//! An [`Inspection`] goes by what checkpoint and WAL say, as recovery does, but changes nothing: no file is written, cut
//! or renamed. (The WAL is synced before it is read, as recovery does it too.) It holds the directory's lock, so no
//! broker changes anything meanwhile either. What it cannot read is a [`Damage`], never an error: the rest is looked at
//! all the same.

mod dump;
mod facts;
mod replay;
mod verify;
mod walk;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use goulette_env::{DiskLock, Env, OpenMode};
use goulette_types::{BrokerId, Offset, PartitionId, Timestamp, TopicName};
use goulette_wal::{RecoverError, Wal, WalOptions, segment_name};

use crate::{
    checkpoint::{Checkpoint, FragmentState, PartitionState},
    checkpoint_file,
    epochs::Epochs,
    fragment::{file_name, read_file},
    identity::{Identity, LOCK},
};

pub use dump::{Dumped, Selection};
pub use facts::{Contents, Damage, InspectError, PartitionFacts, WalFacts};
use replay::Replay;
pub use verify::Verified;

/// What lies in a data directory.
pub struct Inspection {
    env: Env,
    dir: PathBuf,
    _lock: Option<Box<dyn DiskLock>>,
    broker: Option<BrokerId>,
    checkpoint: Option<Timestamp>,
    partitions: BTreeMap<PartitionId, Found>,
    wal: WalFacts,
    damages: Vec<Damage>,
}

/// A partition as checkpoint and WAL describe it.
struct Found {
    topic: TopicName,
    dir: PathBuf,
    start: Offset,
    /// Where the checkpoint's fragments end and the WAL's batches begin.
    flushed: Offset,
    end: Offset,
    fragments: Vec<FragmentState>,
    epochs: Epochs,
    /// Fragments with lower numbers are known to the checkpoint, or gone.
    fragment_next: u32,
    wal_batches: u64,
    wal_bytes: u64,
}

impl Inspection {
    /// Reads checkpoint and WAL of a directory on which no broker runs.
    ///
    /// # Errors
    /// See [`InspectError`]. Damage is none: [`verify`](Self::verify) tells it.
    pub fn open(env: &Env, dir: &Path) -> Result<Inspection, InspectError> {
        let exists = |name: &str| {
            let path = dir.join(name);
            env.disk.exists(&path).map_err(|source| InspectError::Io { doing: "find", path, source })
        };
        if !exists(checkpoint_file::FILE)? && !exists(WAL)? {
            return Err(InspectError::NoData { dir: dir.into() });
        }
        // Without the file nobody can hold the lock, and making it would be a change.
        let lock = if exists(LOCK)? { Some(lock(env, dir)?) } else { None };
        let mut inspection = Inspection {
            env: env.clone(),
            dir: dir.into(),
            _lock: lock,
            broker: None,
            checkpoint: None,
            partitions: BTreeMap::new(),
            wal: WalFacts::default(),
            damages: Vec::new(),
        };
        match Identity::read(env, dir) {
            Ok(identity) => inspection.broker = identity.map(|identity| identity.broker),
            Err(error) => inspection.damage(dir.join(crate::identity::FILE), 0, error),
        }
        let checkpoint = inspection.read_checkpoint();
        inspection.read_wal(checkpoint.as_ref());
        Ok(inspection)
    }

    /// What the directory holds.
    pub fn contents(&self) -> Contents {
        let facts = |(&id, found): (&PartitionId, &Found)| PartitionFacts {
            id,
            topic: found.topic.clone(),
            start: found.start,
            end: found.end,
            fragments: found.fragments.len(),
            fragment_bytes: found.fragments.iter().map(|fragment| u64::from(fragment.length)).sum(),
            wal_batches: found.wal_batches,
            wal_bytes: found.wal_bytes,
        };
        Contents {
            broker: self.broker.clone(),
            checkpoint: self.checkpoint,
            partitions: self.partitions.iter().map(facts).collect(),
            wal: self.wal.clone(),
            damages: self.damages.len(),
        }
    }

    fn damage(&mut self, file: PathBuf, position: u64, reason: impl ToString) {
        self.damages.push(Damage { file, position, reason: reason.to_string() });
    }

    /// None if it is damaged: then nobody can tell which bytes of the fragments count.
    fn read_checkpoint(&mut self) -> Option<Checkpoint> {
        let path = self.dir.join(checkpoint_file::FILE);
        let read = read_file(&*self.env.disk, &path).map_err(|error| format!("cannot be read: {error}"));
        let checkpoint = match read.and_then(|file| Checkpoint::decode(&file).map_err(|error| error.to_string())) {
            Ok(checkpoint) => checkpoint,
            Err(reason) => {
                self.damage(path, 0, format!("{reason}; without it the fragments cannot be judged"));
                return None;
            }
        };
        self.checkpoint = Some(checkpoint.taken);
        for state in &checkpoint.partitions {
            match Epochs::from_entries(state.epochs.clone()) {
                Some(epochs) => {
                    let found = Found::new(&self.dir, state, epochs);
                    self.partitions.insert(state.id, found);
                }
                None => self.damage(path.clone(), 0, format!("the epochs of partition {} are not in order", state.id)),
            }
        }
        Some(checkpoint)
    }

    fn read_wal(&mut self, checkpoint: Option<&Checkpoint>) {
        let wal_dir = self.wal_dir();
        if let Err(error) = self.count_wal_files() {
            self.damage(wal_dir.clone(), 0, format!("cannot be listed: {error}"));
        }
        let from = checkpoint.and_then(|checkpoint| checkpoint.position);
        self.wal.from = from;
        let mut replay = Replay {
            known: checkpoint.is_some(),
            deleted: checkpoint.iter().flat_map(|it| &it.deleted).map(|topic| topic.id).collect(),
            orphans: BTreeMap::new(),
        };
        let env = self.env.clone();
        let options = WalOptions { log: checkpoint.and_then(|checkpoint| checkpoint.wal), ..WalOptions::default() };
        let recovered = Wal::<()>::recover(&env, &wal_dir, options, from, &mut |entry| {
            self.wal.tail_entries += 1;
            self.wal.tail_bytes += entry.payload.len() as u64;
            if let Err(reason) = replay.apply(self, &entry) {
                self.damage(wal_dir.join(segment_name(entry.position.segment)), entry.position.offset.into(), reason);
            }
            Ok(())
        });
        match recovered {
            Ok(recovery) => {
                self.wal.end = Some(recovery.end).filter(|end| end.segment > 0);
                self.wal.torn = recovery.torn.is_some();
                if let Some(lost) = recovery.lost {
                    self.damage(lost.file, lost.offset.into(), "acknowledged entries from here on cannot be read");
                }
            }
            Err(error) => {
                let (file, position) = place(&error, &wal_dir);
                self.damage(file, position, chain(&error));
            }
        }
        for (topic, position) in replay.orphans {
            if !replay.deleted.contains(&topic) {
                let file = wal_dir.join(segment_name(position.segment));
                self.damage(
                    file,
                    position.offset.into(),
                    format!("is an entry of topic {topic}, which nobody created"),
                );
            }
        }
    }

    fn count_wal_files(&mut self) -> io::Result<()> {
        let dir = self.wal_dir();
        if !self.env.disk.exists(&dir)? {
            return Ok(());
        }
        for entry in self.env.disk.read_dir(&dir)? {
            self.wal.segments += u64::from(entry.name.ends_with(".wal"));
            self.wal.spares += u64::from(entry.name.ends_with(".spare"));
            self.wal.bytes += self.env.disk.open(&dir.join(&entry.name), OpenMode::Read)?.len()?;
        }
        Ok(())
    }

    fn wal_dir(&self) -> PathBuf {
        self.dir.join(WAL)
    }
}

const WAL: &str = "wal";

fn lock(env: &Env, dir: &Path) -> Result<Box<dyn DiskLock>, InspectError> {
    let path = dir.join(LOCK);
    env.disk.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => {
            let broker = Identity::read(env, dir).ok().flatten().map(|identity| identity.broker);
            InspectError::Locked { dir: dir.into(), broker }
        }
        _ => InspectError::Io { doing: "lock", path, source },
    })
}

/// The file that an error of the WAL is about, and where in it.
fn place(error: &RecoverError, wal_dir: &Path) -> (PathBuf, u64) {
    match error {
        RecoverError::Position { file, from } => (file.clone(), from.offset.into()),
        RecoverError::Io { file, .. }
        | RecoverError::Version { file, .. }
        | RecoverError::Renamed { file, .. }
        | RecoverError::OtherLog { file, .. }
        | RecoverError::Missing { file } => (file.clone(), 0),
        RecoverError::Visit { position, .. } => (wal_dir.join(segment_name(position.segment)), position.offset.into()),
        RecoverError::Options(_) => (wal_dir.to_owned(), 0),
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

impl Found {
    fn new(dir: &Path, state: &PartitionState, epochs: Epochs) -> Self {
        Self {
            topic: state.topic.clone(),
            dir: dir
                .join("topics")
                .join(format!("{}.{}", state.topic, state.id.topic))
                .join(state.id.index.to_string()),
            start: state.start,
            flushed: state.next,
            end: state.next,
            fragments: state.fragments.clone(),
            epochs,
            fragment_next: state.fragment_next,
            wal_batches: 0,
            wal_bytes: 0,
        }
    }

    fn path(&self, fragment: &FragmentState) -> PathBuf {
        self.dir.join(file_name(fragment.number, fragment.base))
    }

    /// The first offset behind a fragment.
    fn end_of(&self, index: usize) -> Offset {
        self.fragments.get(index + 1).map_or(self.flushed, |next| next.base)
    }
}

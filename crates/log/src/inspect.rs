//! Looking at a data directory without opening it: for people who want to know what is there, and whether it is sound.
//!
//! An [`Inspection`] goes by what checkpoint and WAL say, as recovery does, but changes nothing: no file is written, cut
//! or renamed. (The WAL is synced before it is read, as recovery does it too.) It holds the directory's lock, so no
//! broker changes anything meanwhile either. What it cannot read is a [`Damage`], never an error: the rest is looked at
//! all the same.

mod dump;
mod verify;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use goulette_env::{DiskLock, Env, OpenMode};
use goulette_records::{Batch, Header, Limits};
use goulette_types::{BrokerId, ErrorKind, Offset, PartitionId, Timestamp, TopicId, TopicName};
use goulette_wal::{RecoverError, RecoveredEntry, Wal, WalOptions, WalPosition, segment_name};

use crate::{
    checkpoint::{Checkpoint, FragmentState, PartitionState},
    checkpoint_file,
    codec::Reader,
    entry::{Head, Kind},
    epochs::Epochs,
    fragment::{file_name, read_file},
    identity::{Identity, LOCK},
    reference::Reference,
};

pub use dump::{Dumped, Selection};
pub use verify::Verified;

/// Bytes that are not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// From which byte on.
    pub position: u64,
    /// What is wrong.
    pub reason: String,
}

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

/// What a directory holds, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whose it is; none if `broker.json` does not tell.
    pub broker: Option<BrokerId>,
    /// When the checkpoint was taken; none if it cannot be read.
    pub checkpoint: Option<Timestamp>,
    /// By id.
    pub partitions: Vec<PartitionFacts>,
    /// The WAL.
    pub wal: WalFacts,
    /// Damages in the identity, the checkpoint and the WAL: what they would have told is missing here. The fragments
    /// were not looked at.
    pub damages: usize,
}

/// One partition in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// Its id.
    pub id: PartitionId,
    /// Its topic's name.
    pub topic: TopicName,
    /// First kept offset.
    pub start: Offset,
    /// First unwritten offset, the WAL's tail included.
    pub end: Offset,
    /// Fragments that the checkpoint knows.
    pub fragments: usize,
    /// Valid bytes in them.
    pub fragment_bytes: u64,
    /// Batches that only the WAL is sure to have.
    pub wal_batches: u64,
    /// Their bytes.
    pub wal_bytes: u64,
}

/// The WAL in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalFacts {
    /// Segments of the log.
    pub segments: u64,
    /// Files kept to become segments again.
    pub spares: u64,
    /// Bytes of all files in its folder.
    pub bytes: u64,
    /// From where a start would replay; none if there is no WAL.
    pub from: Option<WalPosition>,
    /// The end of what can be read; none if there is no WAL.
    pub end: Option<WalPosition>,
    /// Entries between the two.
    pub tail_entries: u64,
    /// Bytes of their payloads.
    pub tail_bytes: u64,
    /// Whether a group at the end was being written when the process died: it was never acknowledged.
    pub torn: bool,
}

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It holds neither a checkpoint nor a WAL.
    #[error("{} is not the data directory of a broker: it has neither a checkpoint nor a wal folder", dir.display())]
    NoData {
        /// The directory.
        dir: PathBuf,
    },
    /// A broker runs on it.
    #[error("data directory {} is in use by {}: stop it first", dir.display(), name(broker.as_ref()))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Whose it is, as far as `broker.json` tells.
        broker: Option<BrokerId>,
    },
    /// The disk failed, or does not let us in.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn name(broker: Option<&BrokerId>) -> String {
    broker.map_or("a running broker".into(), |broker| format!("the running broker {broker}"))
}

impl InspectError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            InspectError::NoData { .. } => ErrorKind::NotFound,
            InspectError::Locked { .. } => ErrorKind::Conflict,
            InspectError::Io { .. } => ErrorKind::Internal,
        }
    }
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

/// What entries say, as recovery would apply them.
struct Replay {
    /// Whether there is a checkpoint to apply them to.
    known: bool,
    deleted: BTreeSet<TopicId>,
    /// Topics that nobody knows, and the first entry that names each: sound if they were deleted.
    orphans: BTreeMap<TopicId, WalPosition>,
}

impl Replay {
    fn apply(&mut self, inspection: &mut Inspection, entry: &RecoveredEntry) -> Result<(), String> {
        let (kind, head, rest) = parse(entry)?;
        let id = head.partition;
        match kind {
            Kind::Append => match inspection.partitions.get_mut(&id) {
                Some(found) if found.is_known(&head) => {}
                Some(found) => found.append(&head, rest)?,
                None if self.known => _ = self.orphans.entry(id.topic).or_insert(entry.position),
                None => {}
            },
            Kind::Reference => {
                let headers = Reference::decode(&head, &rest)?.headers;
                match inspection.partitions.get_mut(&id) {
                    Some(found) if found.is_known(&head) => {}
                    Some(found) => found.refer(&headers)?,
                    None if self.known => _ = self.orphans.entry(id.topic).or_insert(entry.position),
                    None => {}
                }
            }
            Kind::Truncate => {
                if let Some(found) = inspection.partitions.get_mut(&id) {
                    let fragment_next = Reader::new(&rest).u32().map_err(|_| "names no fragment")?;
                    found.truncate(&head, fragment_next);
                }
            }
            Kind::Restart => {
                if let Some(found) = inspection.partitions.get_mut(&id) {
                    let fragment_next = Reader::new(&rest).u32().map_err(|_| "names no fragment")?;
                    found.restart(head.offset, fragment_next);
                }
            }
            Kind::CreatePartition => {
                let topic: TopicName = text(&rest).parse().map_err(|error| format!("has no name: {error}"))?;
                if !self.deleted.contains(&id.topic) && !inspection.partitions.contains_key(&id) {
                    let found = Found::created(&inspection.dir, id, topic);
                    inspection.partitions.insert(id, found);
                }
            }
            Kind::DeleteTopic => {
                inspection.partitions.retain(|partition, _| partition.topic != id.topic);
                self.deleted.insert(id.topic);
            }
            // The fragments themselves go only behind a checkpoint that does not list them any more.
            Kind::RemoveFragments => {
                if let Some(found) = inspection.partitions.get_mut(&id) {
                    found.start = found.start.max(head.offset);
                }
            }
            // What other kinds change is not looked at here.
            _ => {}
        }
        Ok(())
    }
}

/// An entry's parts.
fn parse(entry: &RecoveredEntry) -> Result<(Kind, Head, Bytes), String> {
    let kind = Kind::from_code(entry.kind).ok_or_else(|| format!("is an entry of the unknown kind {}", entry.kind))?;
    let head = Head::read(&mut Reader::new(&entry.payload)).map_err(|_| "is an entry without a head")?;
    Ok((kind, head, entry.payload.slice(Head::BYTES..)))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl Found {
    fn created(dir: &Path, id: PartitionId, topic: TopicName) -> Self {
        let state = PartitionState {
            id,
            topic,
            start: Offset::ZERO,
            next: Offset::ZERO,
            committed: Offset::ZERO,
            fragment_next: 0,
            fragments: Vec::new(),
            epochs: Vec::new(),
            producers: Vec::new(),
            positions: Vec::new(),
        };
        Self::new(dir, &state, Epochs::default())
    }

    /// Batches that stand in a fragment, behind what the checkpoint knows of it.
    fn refer(&mut self, headers: &[Header]) -> Result<(), String> {
        for header in headers.iter().filter(|header| header.next_offset() > self.end).collect::<Vec<_>>() {
            let epoch = header.leader_epoch.ok_or("names a batch without an epoch")?;
            if self.epochs.last().is_some_and(|last| epoch < last) {
                return Err(format!("is of epoch {epoch}, older than the one before"));
            }
            let lacks = header.base_offset > self.end;
            let lacks = lacks.then(|| format!("follows a gap: offsets from {} on are missing", self.end));
            self.epochs.note(epoch, header.base_offset);
            self.end = header.next_offset();
            lacks.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Whether the checkpoint is from a moment after the entry, as far as its fragment goes.
    fn is_known(&self, head: &Head) -> bool {
        let is_active = self.fragments.last().is_some_and(|last| !last.sealed && last.number == head.fragment);
        head.fragment < self.fragment_next && !is_active
    }

    /// What the entry takes back is taken back, unless the checkpoint knows of it.
    fn truncate(&mut self, head: &Head, fragment_next: u32) {
        if fragment_next <= self.fragment_next {
            return;
        }
        self.fragments.retain(|fragment| fragment.base < head.offset);
        if let Some(last) = self.fragments.last_mut().filter(|last| last.number == head.fragment) {
            last.length = last.length.min(u32::try_from(head.position).unwrap_or(u32::MAX));
        }
        self.epochs = Epochs::from_entries(self.epochs.before(head.offset)).unwrap_or_default();
        self.flushed = self.flushed.min(head.offset);
        self.end = self.end.min(head.offset);
        self.fragment_next = fragment_next;
    }

    /// Everything goes, and the partition starts elsewhere, unless the checkpoint knows of it.
    fn restart(&mut self, start: Offset, fragment_next: u32) {
        if fragment_next <= self.fragment_next {
            return;
        }
        self.fragments.clear();
        self.epochs = Epochs::default();
        (self.start, self.flushed, self.end) = (start, start, start);
        self.fragment_next = fragment_next;
    }

    fn append(&mut self, head: &Head, batch: Bytes) -> Result<(), String> {
        // The checkpoint's state is from a moment after its position.
        if head.offset < self.end {
            return Ok(());
        }
        let batch = Batch::from_bytes(batch, &Limits::WIDEST).map_err(|error| error.to_string())?;
        if batch.base_offset() != head.offset || batch.leader_epoch() != Some(head.epoch) {
            return Err("names another place than its batch".into());
        }
        if self.epochs.last().is_some_and(|last| head.epoch < last) {
            return Err(format!("is of epoch {}, older than the one before", head.epoch));
        }
        let lacks =
            (head.offset > self.end).then(|| format!("follows a gap: offsets from {} on are missing", self.end));
        self.epochs.note(head.epoch, head.offset);
        self.end = batch.next_offset();
        self.wal_batches += 1;
        self.wal_bytes += batch.encoded_bytes() as u64;
        lacks.map_or(Ok(()), Err)
    }
}

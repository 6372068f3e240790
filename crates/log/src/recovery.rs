//! Opening a data directory: the checkpoint, then the WAL behind it, entry by entry.
//!
//! What counts is what checkpoint and WAL say, never what happens to lie in a fragment. Replay puts each batch where its
//! entry says and takes the same steps as a live append, so that doing it again after a crash gives the same.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use goulette_env::{Disk, Env, OpenMode};
use goulette_records::{Batch, Header, Limits};
use goulette_types::{Offset, PartitionId, Timestamp, TopicId, TopicName};
use goulette_wal::{RecoverError, RecoveredEntry, Recovery, VisitError, Wal, WalOptions, WalPosition};

use crate::{
    append::Active,
    applier::Tag,
    checkpoint::{Checkpoint, CheckpointError, DeletedTopic},
    checkpoint_file::{self, CheckpointFile},
    codec::Reader,
    engine::{Engine, boot_id},
    entry::{Head, Kind},
    error::{FlushError, OpenError},
    fragment::{self, Stored, read_file},
    lock,
    partition::{Partition, State},
    reference::Reference,
    retention::Removal,
    truncate::Cut,
};

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// WAL entries replayed.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A group at the WAL's end was dropped: it had never been acknowledged.
    pub torn: bool,
    /// Acknowledged records may be gone, and why. The directory has a new storage id then.
    pub lost: Option<String>,
    /// Files that no checkpoint and no WAL entry knows, under their new names. Nothing of them was deleted.
    pub set_aside: Vec<PathBuf>,
}

/// Batches gathered in memory during replay before they are written.
const REPLAY_BYTES: usize = 64 << 20;

/// Reads the checkpoint and replays the WAL into the engine, which must be empty. Afterwards everything replayed is in
/// its fragment, though not synced, or in memory; the WAL still holds it.
pub(crate) fn recover(engine: &Arc<Engine>) -> Result<(Recovery, RecoveryReport), OpenError> {
    let mut report = RecoveryReport::default();
    let checkpoint = read_checkpoint(engine, &mut report)?;
    let (position, wal) = (checkpoint.position, checkpoint.wal);
    engine.set_checkpointed(position);
    restore(engine, checkpoint, &mut report)?;
    let mut replay = Replay {
        engine,
        wal,
        report: &mut report,
        orphans: BTreeSet::new(),
        touched: HashSet::new(),
        trusted: HashSet::new(),
        referenced: HashMap::new(),
        refused: None,
    };
    let recovery = replay_wal(&mut replay, position)?;
    let touched = replay.finish()?;
    report.torn = recovery.torn.is_some();
    if let Some(corruption) = &recovery.lost {
        let at = format!("{} is corrupt at byte {}", corruption.file.display(), corruption.offset);
        report.lost.get_or_insert(at);
    }
    // Where nothing is to be mended the flusher carries the rest, while the log serves already.
    if report.lost.is_some() || !engine.options.background {
        touched.iter().try_for_each(|partition| carry(engine, partition))?;
    }
    touched.iter().for_each(|partition| partition.announce(engine));
    engine.set_wal_log(recovery.log());
    if recovery.end.segment > 0 {
        engine.set_applied(recovery.end, report.bytes);
    }
    Ok((recovery, report))
}

fn read_checkpoint(engine: &Engine, report: &mut RecoveryReport) -> Result<Checkpoint, OpenError> {
    let path = engine.dir.join(checkpoint_file::FILE);
    let file = match read_trusted(&*engine.env.disk, &path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return first_checkpoint(engine, report),
        Err(source) => return Err(OpenError::Io { doing: "read", path, source }),
    };
    let checkpoint = Checkpoint::decode(&file).map_err(|error| match error {
        CheckpointError::Newer { found } => {
            OpenError::Newer { path, found: found.into(), known: checkpoint_file::VERSION.into() }
        }
        CheckpointError::Damaged { .. } => OpenError::Damaged { path, reason: error.to_string() },
    })?;
    if let Some(boot) = &checkpoint.relaxed
        && (boot.is_empty() || *boot != boot_id(&*engine.env.disk))
    {
        report.lost = Some("the machine went down under a sync policy that acknowledges before it syncs".into());
    }
    Ok(checkpoint)
}

/// Reads a file as the disk has it, whatever the page cache shows.
fn read_trusted(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    file.sync_data()?;
    file.drop_cache(0, 0)?;
    read_file(disk, path)
}

/// A new directory gets its checkpoint before its WAL: so a WAL without one has lost it.
fn first_checkpoint(engine: &Engine, report: &mut RecoveryReport) -> Result<Checkpoint, OpenError> {
    let mut checkpoint = Checkpoint { taken: engine.wall(), relaxed: engine.relaxed(), ..Checkpoint::default() };
    let (disk, topics, wal) = (&*engine.env.disk, engine.topics_dir(), engine.wal_dir());
    disk.create_dir_all(&topics).map_err(|source| OpenError::Io { doing: "make", path: topics, source })?;
    let has_wal = disk.exists(&wal).and_then(|exists| Ok(exists && !disk.read_dir(&wal)?.is_empty()));
    if has_wal.map_err(|source| OpenError::Io { doing: "list", path: wal, source })? {
        report.lost = Some("the checkpoint is missing".into());
    } else {
        // So that the WAL gets the id by which the checkpoint knows it, whatever happens between the two.
        checkpoint.wal = Some(engine.env.random.next_id());
        let Env { disk, random, .. } = &engine.env;
        let written = CheckpointFile::default().write(&**disk, &**random, &engine.dir, &checkpoint, true);
        written.map_err(|error| not_writable(engine, &error))?;
    }
    Ok(checkpoint)
}

fn not_writable(engine: &Engine, error: &FlushError) -> OpenError {
    OpenError::NotWritable { dir: engine.dir.clone(), source: io::Error::other(error.to_string()) }
}

/// Adds the checkpoint's partitions, and looks whether each one's last fragment still has its bytes. Older fragments
/// were whole when they were sealed; reading checks them.
fn restore(engine: &Arc<Engine>, checkpoint: Checkpoint, report: &mut RecoveryReport) -> Result<(), OpenError> {
    let topics = engine.topics_dir();
    let exists = engine.env.disk.exists(&topics);
    if !exists.map_err(|source| OpenError::Io { doing: "find", path: topics.clone(), source })? {
        let count = checkpoint.partitions.len();
        if count > 0 {
            let reason = format!("it is gone, and {count} partitions with it: put it back, or give an empty -data");
            return Err(OpenError::Damaged { path: topics, reason });
        }
        engine.env.disk.create_dir_all(&topics).map_err(|source| OpenError::Io {
            doing: "make",
            path: topics,
            source,
        })?;
    }
    *lock(&engine.deleted) = checkpoint.deleted;
    for state in checkpoint.partitions {
        let id = state.id;
        let last = state.fragments.last().copied();
        let Some(partition) = Partition::restore(engine.clone(), state) else {
            let reason = format!("the epochs of partition {id} are not in order");
            return Err(OpenError::Damaged { path: engine.dir.join(checkpoint_file::FILE), reason });
        };
        if let Some(last) = last {
            let path = partition.dir().join(fragment::file_name(last.number, last.base));
            let length = match engine.env.disk.open(&path, OpenMode::Read).and_then(|file| file.len()) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(source) => return Err(OpenError::Io { doing: "open", path, source }),
            };
            if length == 0 {
                // Perhaps its folder is gone too: whatever comes next is written there.
                let made = partition.make_dir();
                made.map_err(|source| OpenError::Io { doing: "make", path: partition.dir().into(), source })?;
            }
            if length < u64::from(last.length) {
                let lost = format!("{} has {length} bytes instead of {}", path.display(), last.length);
                report.lost.get_or_insert(lost);
            }
        }
        engine.add(Arc::new(partition));
    }
    Ok(())
}

/// Replays the WAL from the checkpoint's position. A WAL that ends before it has lost what was acknowledged: it is set
/// aside as a whole, and the partitions stay as the checkpoint has them.
fn replay_wal(replay: &mut Replay<'_>, position: Option<WalPosition>) -> Result<Recovery, OpenError> {
    let engine = replay.engine;
    let wal_dir = engine.wal_dir();
    let recover = |replay: &mut Replay<'_>, position| {
        let options = WalOptions { log: replay.wal, ..engine.options.wal.clone() };
        Wal::<Tag>::recover(&engine.env, &wal_dir, options, position, &mut |entry| replay.visit(entry))
    };
    // The name says which checkpoint's WAL it was: whoever dies before the next checkpoint finds it so, and goes on.
    let lost = |at: WalPosition| {
        engine.dir.join(format!("wal.lost.{:032x}.{}.{}", replay.wal.unwrap_or_default(), at.segment, at.offset))
    };
    let lost = position.map(lost);
    let recovered = match (recover(replay, position), &lost) {
        (Err(RecoverError::Position { .. }), Some(aside)) => {
            let renamed = engine.env.disk.rename(&wal_dir, aside).and_then(|()| engine.env.disk.sync_dir(&engine.dir));
            renamed.map_err(|source| OpenError::Io { doing: "set aside", path: wal_dir.clone(), source })?;
            replay.begin_anew(aside);
            recover(replay, None)
        }
        (Err(RecoverError::Missing { .. }), Some(aside)) if is_set_aside(engine, aside)? => {
            replay.begin_anew(aside);
            recover(replay, None)
        }
        (recovered, _) => recovered,
    };
    match (recovered, replay.refused.take()) {
        (_, Some(error)) => Err(error),
        (recovered, None) => recovered.map_err(OpenError::Wal),
    }
}

/// Whether an earlier opening has set the WAL aside under this name, and begun no other one.
fn is_set_aside(engine: &Engine, aside: &Path) -> Result<bool, OpenError> {
    let (disk, wal_dir) = (&*engine.env.disk, engine.wal_dir());
    let found = disk
        .exists(aside)
        .and_then(|exists| Ok(exists && (!disk.exists(&wal_dir)? || disk.read_dir(&wal_dir)?.is_empty())));
    found.map_err(|source| OpenError::Io { doing: "find", path: aside.into(), source })
}

struct Replay<'a> {
    engine: &'a Arc<Engine>,
    /// The id of the WAL that the checkpoint speaks of.
    wal: Option<u128>,
    report: &'a mut RecoveryReport,
    /// Topics that entries name and nobody knows: sound if a later entry says that they were deleted.
    orphans: BTreeSet<TopicId>,
    /// Partitions with batches in memory.
    touched: HashSet<PartitionId>,
    /// Fragments with references whose page cache has been dropped.
    trusted: HashSet<(PartitionId, u32)>,
    /// How far references say that a fragment has bytes.
    referenced: HashMap<(PartitionId, u32), u32>,
    /// Why the last visit failed.
    refused: Option<OpenError>,
}

impl Replay<'_> {
    /// The WAL ends before the checkpoint and was set aside: the partitions stay as the checkpoint has them.
    fn begin_anew(&mut self, aside: &Path) {
        self.lose("the WAL ends before the checkpoint".into());
        self.report.set_aside.push(aside.into());
        self.wal = None;
    }

    fn visit(&mut self, entry: RecoveredEntry) -> Result<(), VisitError> {
        self.report.entries += 1;
        self.report.bytes += entry.payload.len() as u64;
        self.apply(&entry).map_err(|error| {
            let refusal = error.to_string().into();
            self.refused = Some(error);
            refusal
        })
    }

    fn apply(&mut self, entry: &RecoveredEntry) -> Result<(), OpenError> {
        let refuse = |reason| OpenError::Replay { reason: format!("the entry at {} {reason}", entry.position) };
        let Some(kind) = Kind::from_code(entry.kind) else {
            return Err(refuse(format!("is of the unknown kind {}: start a newer program", entry.kind)));
        };
        let mut reader = Reader::new(&entry.payload);
        let Ok(head) = Head::read(&mut reader) else { return Err(refuse("has no head".into())) };
        let rest = entry.payload.slice(Head::BYTES..);
        let text = std::str::from_utf8(&rest).unwrap_or_default();
        let bad_name = |error: goulette_types::NameError| refuse(format!("has no name: {error}"));
        match kind {
            Kind::Append => self.append(&head, rest).map_err(refuse_or(&refuse)),
            Kind::Reference => self.refer(&head, &rest).map_err(refuse_or(&refuse)),
            Kind::CreatePartition => self.create(head.partition, text.parse().map_err(bad_name)?),
            Kind::DeleteTopic => self.delete(head.partition.topic, text.parse().map_err(bad_name)?),
            Kind::RemoveFragments => {
                let base = reader.u64().map(Offset).map_err(|_| refuse("names no fragment".into()))?;
                self.remove(head.partition, &Removal { fragment: head.fragment, base, start: head.offset })
            }
            Kind::Truncate => {
                let fragment_next = reader.u32().map_err(|_| refuse("names no fragment".into()))?;
                let position = u32::try_from(head.position).map_err(|_| refuse("lies beyond 4 GiB".into()))?;
                self.truncate(
                    head.partition,
                    &Cut { end: head.offset, fragment: head.fragment, position, fragment_next },
                )
            }
            Kind::Restart => {
                let fragment_next = reader.u32().map_err(|_| refuse("names no fragment".into()))?;
                self.restart(head.partition, head.offset, fragment_next)
            }
            Kind::GroupPosition => {
                match self.engine.partition(head.partition) {
                    Some(partition) => partition.set_position(text.parse().map_err(bad_name)?, head.offset),
                    None => _ = self.orphans.insert(head.partition.topic),
                }
                Ok(())
            }
        }
    }

    fn append(&mut self, head: &Head, batch: Bytes) -> Result<(), Refusal> {
        let Some(partition) = self.engine.partition(head.partition) else {
            self.orphans.insert(head.partition.topic);
            return Ok(());
        };
        let mut state = lock(partition.state());
        if head.offset < state.next {
            // The checkpoint's state is from a moment after its position.
            return Ok(());
        }
        if is_known(&state, head) {
            return Ok(());
        }
        if head.offset > state.next {
            let lost = format!("partition {} lacks the offsets from {} to {}", head.partition, state.next, head.offset);
            drop(state);
            self.lose(lost);
            return Ok(());
        }
        let batch = Batch::from_bytes(batch, &Limits::WIDEST).map_err(|error| Refusal::Entry(error.to_string()))?;
        if batch.base_offset() != head.offset || batch.leader_epoch() != Some(head.epoch) {
            return Err(Refusal::Entry("names another place than its batch".into()));
        }
        if let Some(last) = state.epochs.last().filter(|&last| head.epoch < last) {
            return Err(Refusal::Entry(format!("is of epoch {}, and epoch {last} is in the checkpoint", head.epoch)));
        }
        let active = place(&state, head, head.position)?;
        let position = active.length;
        state.note_appended(batch.header(), active, head.appended, partition.dir());
        self.engine.charge(batch.encoded_bytes());
        state.commit(Stored { batch, fragment: head.fragment, position, appended: head.appended, direct: false });
        drop(state);
        self.touched.insert(partition.id());
        if self.engine.unflushed() >= REPLAY_BYTES.min(self.engine.options.unflushed_bytes_max) {
            self.flush().map_err(Refusal::Open)?;
        }
        Ok(())
    }

    /// Batches that were durable in their fragment before the entry was written: takes note of them, and reads none.
    fn refer(&mut self, head: &Head, rest: &Bytes) -> Result<(), Refusal> {
        let Some(partition) = self.engine.partition(head.partition) else {
            self.orphans.insert(head.partition.topic);
            return Ok(());
        };
        let Reference { fragment_base, headers } = Reference::decode(head, rest).map_err(Refusal::Entry)?;
        // What lies before it in the fragment is to be there first.
        let not_writable = |error: FlushError| Refusal::Open(not_writable(self.engine, &error));
        let full = match partition.flush() {
            Err(FlushError::StorageFull { .. }) => true,
            flushed => flushed.map_err(not_writable).map(|()| false)?,
        };
        let mut state = lock(partition.state());
        // A checkpoint may know the first of them.
        let known = headers.partition_point(|header| header.base_offset < state.next);
        let (known, headers) = headers.split_at(known);
        let Some(first) = headers.first() else { return Ok(()) };
        if is_known(&state, head) {
            return Ok(());
        }
        if first.base_offset > state.next {
            let gap = format!("from {} to {}", state.next, first.base_offset);
            drop(state);
            self.lose(format!("partition {} lacks the offsets {gap}", head.partition));
            return Ok(());
        }
        let known_bytes: usize = known.iter().map(Header::encoded_bytes).sum();
        let begun = place(&state, head, head.position + known_bytes as u64)?;
        if begun.base != fragment_base {
            return Err(Refusal::Entry(format!("does not follow in fragment {}", head.fragment)));
        }
        let mut active = begun;
        for header in headers {
            if state.epochs.last() > header.leader_epoch {
                return Err(Refusal::Entry("is of an epoch older than the one before".into()));
            }
            state.note_appended(header, active, head.appended, partition.dir());
            active = state.active.expect("a batch was just noted in it");
        }
        drop(state);
        self.distrust(&partition, active).map_err(Refusal::Open)?;
        if full {
            self.touched.insert(partition.id());
            return self.take_into_memory(&partition, begun, headers, head.appended).map_err(Refusal::Open);
        }
        self.referenced.insert((partition.id(), active.number), active.length);
        let fragment = partition.fragment_for(active.number).map_err(not_writable)?;
        fragment.note(begun.length, headers.iter());
        let mut state = lock(partition.state());
        state.note_written(fragment, headers.iter().map(|header| (header, head.appended)));
        state.end = state.next;
        state.changed = true;
        // They are not in memory, and what is has no gap.
        state.tail.clear();
        for producer in headers.iter().filter_map(Header::producer) {
            let end = state.end;
            state.producers.settle(producer.id, end);
        }
        Ok(())
    }

    /// What lies before the batches has to stay in memory, as the disk is full: then so have they.
    fn take_into_memory(
        &mut self,
        partition: &Partition,
        begun: Active,
        headers: &[Header],
        appended: Timestamp,
    ) -> Result<(), OpenError> {
        let path = partition.dir().join(fragment::file_name(begun.number, begun.base));
        let failed = |source| OpenError::Io { doing: "read", path: path.clone(), source };
        let file = self.engine.env.disk.open(&path, OpenMode::Read).map_err(failed)?;
        lock(partition.state()).fragment(begun.number).expect("a batch was noted in it").note_made();
        let mut position = begun.length;
        for header in headers {
            let mut bytes = vec![0; header.encoded_bytes()];
            file.read_exact_at(&mut bytes, position.into()).map_err(failed)?;
            let batch = Batch::from_bytes(bytes.into(), &Limits::WIDEST);
            let batch = batch.map_err(|error| OpenError::Damaged { path: path.clone(), reason: error.to_string() })?;
            self.engine.charge(batch.encoded_bytes());
            lock(partition.state()).commit(Stored { batch, fragment: begun.number, position, appended, direct: true });
            position += header.encoded_bytes() as u32;
        }
        Ok(())
    }

    /// Before references to a fragment are believed: what the page cache shows of it may never have reached the disk.
    ///
    /// Batches that the WAL holds need no such look: replay writes every byte behind the checkpoint's length anew.
    fn distrust(&mut self, partition: &Partition, active: Active) -> Result<(), OpenError> {
        if !self.trusted.insert((partition.id(), active.number)) {
            return Ok(());
        }
        let disk = &*self.engine.env.disk;
        let path = partition.dir().join(fragment::file_name(active.number, active.base));
        let dropped = match disk.open(&path, OpenMode::Write) {
            Ok(file) => file.sync_data().and_then(|()| file.drop_cache(0, 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        dropped.map_err(|source| OpenError::Io { doing: "sync", path, source })
    }

    fn create(&mut self, id: PartitionId, topic: TopicName) -> Result<(), OpenError> {
        let deleted = lock(&self.engine.deleted).iter().any(|deleted| deleted.id == id.topic);
        if deleted || self.engine.partition(id).is_some() {
            return Ok(());
        }
        let partition = Partition::new(self.engine.clone(), id, topic);
        // The folder was durable before the entry was written.
        let exists = self.engine.env.disk.exists(partition.dir());
        let made = exists.and_then(|exists| if exists { Ok(()) } else { partition.make_dir() });
        made.map_err(|source| OpenError::Io { doing: "make", path: partition.dir().into(), source })?;
        self.engine.add(Arc::new(partition));
        Ok(())
    }

    fn delete(&mut self, id: TopicId, name: TopicName) -> Result<(), OpenError> {
        for partition in self.engine.remove_topic(DeletedTopic { id, name }) {
            carry(self.engine, &partition)?;
        }
        Ok(())
    }

    /// The appends before the entry are replayed like all others, and what they wrote is removed: files go only behind a
    /// checkpoint beyond the entry, so until then everything that replay needs is there.
    fn remove(&mut self, id: PartitionId, removal: &Removal) -> Result<(), OpenError> {
        let Some(partition) = self.engine.partition(id) else {
            self.orphans.insert(id.topic);
            return Ok(());
        };
        // When it was ordered, the fragment that is kept was there.
        partition.flush().map_err(|error| not_writable(self.engine, &error))?;
        if lock(partition.state()).remove_fragments(removal).is_none() {
            self.lose(format!("partition {id} has no fragment that begins at its start, {}", removal.start));
        }
        Ok(())
    }

    /// As with removals: what the entry takes back was replayed like all else, unless the checkpoint knows the entry.
    fn truncate(&mut self, id: PartitionId, cut: &Cut) -> Result<(), OpenError> {
        let Some(partition) = self.engine.partition(id) else {
            self.orphans.insert(id.topic);
            return Ok(());
        };
        // What is kept must be in its fragment, full disk or not: a fragment before others has no memory to wait in.
        partition.flush().map_err(|error| not_writable(self.engine, &error))?;
        let mut state = lock(partition.state());
        let ends_before = state.end < cut.end && state.fragment_floor < cut.fragment_next;
        if !ends_before {
            state.truncate(cut);
        }
        drop(state);
        if ends_before {
            self.lose(format!("partition {id} ends before {}, where it was truncated", cut.end));
        }
        Ok(())
    }

    /// As with truncations: what was appended before is replayed, and goes.
    fn restart(&mut self, id: PartitionId, start: Offset, fragment_next: u32) -> Result<(), OpenError> {
        let Some(partition) = self.engine.partition(id) else {
            self.orphans.insert(id.topic);
            return Ok(());
        };
        partition.flush().map_err(|error| not_writable(self.engine, &error))?;
        lock(partition.state()).restart(start, fragment_next);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        for id in self.touched.drain() {
            if let Some(partition) = self.engine.partition(id) {
                carry(self.engine, &partition)?;
            }
        }
        Ok(())
    }

    /// Looks whether the files are as long as references say. Before anything else is written to them.
    fn check_referenced(&mut self) -> Result<(), OpenError> {
        for ((id, number), length) in std::mem::take(&mut self.referenced) {
            let Some(partition) = self.engine.partition(id) else { continue };
            let state = lock(partition.state());
            let Some(kept) = state.fragments.iter().find(|kept| kept.state.number == number) else { continue };
            let path = kept.fragment.path();
            let found = match self.engine.env.disk.open(path, OpenMode::Read).and_then(|file| file.len()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                found => found.map_err(|source| OpenError::Io { doing: "open", path: path.into(), source })?,
            };
            let lost = format!("{} has {found} bytes instead of {length}", path.display());
            drop(state);
            if found < length.into() {
                self.lose(lost);
            }
        }
        Ok(())
    }

    fn lose(&mut self, reason: String) {
        self.report.lost.get_or_insert(reason);
    }

    /// Returns the partitions that have batches in memory still.
    fn finish(mut self) -> Result<Vec<Arc<Partition>>, OpenError> {
        self.check_referenced()?;
        let deleted: BTreeSet<_> = lock(&self.engine.deleted).iter().map(|topic| topic.id).collect();
        if let Some(topic) = self.orphans.difference(&deleted).next() {
            let lost = format!("the WAL has entries of topic {topic}, which nobody created");
            self.lose(lost);
        }
        Ok(self.touched.iter().filter_map(|&id| self.engine.partition(id)).collect())
    }
}

/// Writes what was replayed of a partition to its fragments. On a full disk it stays in memory: that is no more than what
/// had never reached a fragment before, as what had has its place.
fn carry(engine: &Engine, partition: &Arc<Partition>) -> Result<(), OpenError> {
    match partition.flush() {
        Ok(()) | Err(FlushError::StorageFull { .. }) => Ok(()),
        Err(error) => Err(not_writable(engine, &error)),
    }
}

/// Whether the state is from a moment after the entry, as far as its fragment goes: it names one that was begun before, and
/// is not the active one. What the state has not of it was truncated since.
fn is_known(state: &State, head: &Head) -> bool {
    let is_active = state.active.is_some_and(|active| active.number == head.fragment);
    head.fragment < state.fragment_floor && !is_active
}

/// The fragment that an entry names, if its batch at `position` follows there.
fn place(state: &State, head: &Head, position: u64) -> Result<Active, Refusal> {
    let position = u32::try_from(position).map_err(|_| Refusal::Entry("lies beyond 4 GiB".into()))?;
    match state.active {
        Some(active) if (active.number, active.length) == (head.fragment, position) => Ok(active),
        _ if head.fragment >= state.fragment_next && position == 0 => {
            Ok(Active { number: head.fragment, base: head.offset, length: 0, first_append: head.appended })
        }
        _ => Err(Refusal::Entry(format!("does not follow in fragment {}", head.fragment))),
    }
}

/// Why an entry's batch cannot be replayed.
enum Refusal {
    /// The entry is at fault.
    Entry(String),
    Open(OpenError),
}

fn refuse_or(refuse: &impl Fn(String) -> OpenError) -> impl Fn(Refusal) -> OpenError + '_ {
    move |refusal| match refusal {
        Refusal::Entry(reason) => refuse(reason),
        Refusal::Open(error) => error,
    }
}

//! The WAL's entries, applied one by one to the partitions that the checkpoint named.
//!
//! Replay puts each batch where its entry says and takes the same steps as a live append, so that doing it again after a
//! crash gives the same.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use goulette_env::OpenMode;
use goulette_records::{Batch, Header, Limits};
use goulette_types::{Offset, PartitionId, Timestamp, TopicId, TopicName};
use goulette_wal::{RecoveredEntry, VisitError};

use crate::{
    append::Active,
    checkpoint::DeletedTopic,
    codec::Reader,
    engine::Engine,
    entry::{Head, Kind},
    error::{FlushError, OpenError},
    fragment::{self, Stored},
    lock,
    partition::{Partition, State},
    recovery::{RecoveryReport, not_writable},
    reference::Reference,
    retention::Removal,
    truncate::Cut,
};

/// Batches gathered in memory during replay before they are written.
const REPLAY_BYTES: usize = 64 << 20;

/// What the entries are applied to, and what they showed.
pub(crate) struct Replay<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    /// The id of the WAL that the checkpoint speaks of.
    pub(crate) wal: Option<u128>,
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
    pub(crate) refused: Option<OpenError>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(engine: &'a Arc<Engine>, wal: Option<u128>, report: &'a mut RecoveryReport) -> Self {
        Self {
            engine,
            wal,
            report,
            orphans: BTreeSet::new(),
            touched: HashSet::new(),
            trusted: HashSet::new(),
            referenced: HashMap::new(),
            refused: None,
        }
    }

    /// The WAL ends before the checkpoint and was set aside: the partitions stay as the checkpoint has them.
    pub(crate) fn begin_anew(&mut self, aside: &Path) {
        self.lose("the WAL ends before the checkpoint".into());
        self.report.set_aside.push(aside.into());
        self.wal = None;
    }

    pub(crate) fn visit(&mut self, entry: RecoveredEntry) -> Result<(), VisitError> {
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
                if let Some(partition) = self.known(head.partition) {
                    partition.set_position(text.parse().map_err(bad_name)?, head.offset);
                }
                Ok(())
            }
        }
    }

    /// A partition that an entry names; if nobody knows it, its topic is to be found deleted later.
    fn known(&mut self, id: PartitionId) -> Option<Arc<Partition>> {
        let partition = self.engine.partition(id);
        if partition.is_none() {
            self.orphans.insert(id.topic);
        }
        partition
    }

    fn append(&mut self, head: &Head, batch: Bytes) -> Result<(), Refusal> {
        let Some(partition) = self.known(head.partition) else { return Ok(()) };
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
        let Some(partition) = self.known(head.partition) else { return Ok(()) };
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
        let Some(partition) = self.known(id) else { return Ok(()) };
        // When it was ordered, the fragment that is kept was there.
        partition.flush().map_err(|error| not_writable(self.engine, &error))?;
        if lock(partition.state()).remove_fragments(removal).is_none() {
            self.lose(format!("partition {id} has no fragment that begins at its start, {}", removal.start));
        }
        Ok(())
    }

    /// As with removals: what the entry takes back was replayed like all else, unless the checkpoint knows the entry.
    fn truncate(&mut self, id: PartitionId, cut: &Cut) -> Result<(), OpenError> {
        let Some(partition) = self.known(id) else { return Ok(()) };
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
        let Some(partition) = self.known(id) else { return Ok(()) };
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
    pub(crate) fn finish(mut self) -> Result<Vec<Arc<Partition>>, OpenError> {
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
pub(crate) fn carry(engine: &Engine, partition: &Arc<Partition>) -> Result<(), OpenError> {
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

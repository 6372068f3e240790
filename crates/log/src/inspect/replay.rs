//! What the WAL's entries say of a directory that is looked at: the tail behind the checkpoint, applied as recovery would.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use bytes::Bytes;
use goulette_records::{Batch, Header, Limits};
use goulette_types::{Offset, PartitionId, TopicId, TopicName};
use goulette_wal::{RecoveredEntry, WalPosition};

use super::{Found, Inspection};
use crate::{
    checkpoint::PartitionState,
    codec::Reader,
    entry::{Head, Kind},
    epochs::Epochs,
    reference::Reference,
};

/// What entries say, as recovery would apply them.
pub(super) struct Replay {
    /// Whether there is a checkpoint to apply them to.
    pub(super) known: bool,
    pub(super) deleted: BTreeSet<TopicId>,
    /// Topics that nobody knows, and the first entry that names each: sound if they were deleted.
    pub(super) orphans: BTreeMap<TopicId, WalPosition>,
}

impl Replay {
    pub(super) fn apply(&mut self, inspection: &mut Inspection, entry: &RecoveredEntry) -> Result<(), String> {
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
pub(super) fn parse(entry: &RecoveredEntry) -> Result<(Kind, Head, Bytes), String> {
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

//! Group commit: what is pending becomes one write and, by policy, one sync.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use goulette_env::DiskFile;

use crate::{
    entry::{ENTRY_ALIGN, ENTRY_HEADER_BYTES, Entry, EntryHeader, FLAG_LAST, FLAG_LINK, stored_bytes},
    error::{Doing, Failure},
    pool::{Pool, Prepared, TakeError},
    position::WalPosition,
    segment::{FIRST_ENTRY, GROUP_ALIGN, LINK_BYTES, Link, Seed},
};

/// Pieces up to this length are copied beside the headers: cheaper than a slice of their own.
const COPY_BYTES_MAX: usize = 512;
static ZEROS: [u8; GROUP_ALIGN as usize] = [0; GROUP_ALIGN as usize];

/// What waits: an entry, or several that share one. The sink may take it out and put it back; see
/// [`Sink::gather`](crate::Sink::gather).
#[derive(Debug)]
pub struct Pending<T> {
    pub(crate) entry: Entry<T>,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
    /// When it was appended, on the log's clock; the oldest, if there are several.
    pub(crate) since: Duration,
    /// The room that it takes in the queue.
    pub(crate) room: Room,
}

/// Entries that were taken, and their stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

impl Room {
    fn plus(self, more: Room) -> Room {
        Room { entries: self.entries + more.entries, bytes: self.bytes + more.bytes }
    }
}

impl<T> Pending<T> {
    /// The entry.
    pub fn entry(&self) -> &Entry<T> {
        &self.entry
    }

    /// Takes it out for good; for an entry that will never be written.
    pub fn into_tag(self) -> T {
        self.entry.tag
    }

    /// Since when it waits, on the log's clock.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// One entry in place of several, which keeps their room in the queue until it is committed. `into` makes it of their
    /// tags; its payload must fit into a segment, and its CRC is computed here.
    ///
    /// # Panics
    /// If there are none to merge, or the payload has 4 GiB or more.
    pub fn merge(others: Vec<Pending<T>>, into: impl FnOnce(Vec<T>) -> Entry<T>) -> Self {
        let since = others.iter().map(|other| other.since).min().expect("one entry at least is merged");
        let room = others.iter().fold(Room::default(), |sum, other| sum.plus(other.room));
        let entry = into(others.into_iter().map(Pending::into_tag).collect());
        let payload_bytes = u32::try_from(entry.payload.len()).expect("the payload fits into a segment");
        let payload_crc = entry.payload.crc();
        Self { entry, payload_bytes, payload_crc, since, room }
    }
}

/// Where an entry was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// The entry's tag.
    pub tag: T,
    /// Where it begins.
    pub position: WalPosition,
    /// Where the next one begins.
    pub end: WalPosition,
}

/// Why a group was not written. The queue is as it was.
pub(crate) enum GroupError {
    /// No space; nothing that was written of the group counts, and it may be tried again.
    Full,
    /// The log must stop.
    Failed(Failure),
    /// The pool stopped, and has said why.
    Stopped,
}

/// What a group was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    /// The stored bytes of its entries.
    pub(crate) bytes: u64,
    /// The room that they took in the queue.
    pub(crate) room: Room,
}

/// Writes groups, one behind the other, from segment to segment. Belongs to the log's thread.
pub(crate) struct Committer {
    pool: Arc<Pool>,
    current: Segment,
    /// The number of the next group.
    group: u64,
    group_bytes_max: u32,
    /// Headers and short pieces of the group that is being written; kept, like the slices, for the next one.
    arena: Vec<u8>,
    /// Lengths of the arena at which a piece of a payload comes between.
    cuts: Vec<usize>,
    slices: Vec<IoSlice<'static>>,
}

/// The segment that is being filled.
struct Segment {
    segment: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    seed: Seed,
    bytes: u32,
    /// Where the next group begins.
    end: u32,
    /// What the first group has to say of the segment before.
    link: Option<Link>,
    /// Whether something was written behind the last sync.
    unsynced: bool,
}

impl Segment {
    fn new(prepared: Prepared, link: Link) -> Self {
        let Prepared { segment, path, file, seed, segment_bytes } = prepared;
        Self { segment, path, file, seed, bytes: segment_bytes, end: FIRST_ENTRY, link: Some(link), unsynced: false }
    }

    fn position(&self, offset: u32) -> WalPosition {
        WalPosition { segment: self.segment, offset }
    }
}

impl Committer {
    /// Goes on in a fresh segment, and makes durable where the segment before ends: from now on its torn tail is
    /// behind every group to come.
    pub(crate) fn start(
        pool: Arc<Pool>,
        prepared: Prepared,
        link: Link,
        group: u64,
        group_bytes_max: u32,
    ) -> Result<Self, Failure> {
        let current = Segment::new(prepared, link);
        pool.want(current.segment + 1);
        let (arena, cuts, slices) = (Vec::new(), Vec::new(), Vec::new());
        let mut committer = Self { pool, current, group, group_bytes_max, arena, cuts, slices };
        committer.write::<()>(&VecDeque::new(), 0)?;
        committer.sync()?;
        Ok(committer)
    }

    /// The log's end.
    pub(crate) fn end(&self) -> WalPosition {
        self.current.position(self.current.end)
    }

    pub(crate) fn unsynced(&self) -> bool {
        self.current.unsynced
    }

    /// Writes one group off the front of the queue and says where its entries are.
    pub(crate) fn write_group<T>(
        &mut self,
        queue: &mut VecDeque<Pending<T>>,
        committed: &mut Vec<Committed<T>>,
    ) -> Result<Written, GroupError> {
        let mut written = Written::default();
        let Some(first) = queue.front() else { return Ok(written) };
        if self.room() < stored_bytes(first.payload_bytes.into()) {
            self.roll()?;
        }
        let room = self.room();
        let limit = room.min(self.group_bytes_max.into());
        let mut bytes = 0;
        let count = queue
            .iter()
            .take_while(|queued| {
                let more = stored_bytes(queued.payload_bytes.into());
                let fits = bytes == 0 || bytes + more <= limit;
                bytes += if fits { more } else { 0 };
                fits
            })
            .count();
        let mut start = self.current.end + if self.current.link.is_some() { LINK_BYTES } else { 0 };
        self.write(queue, count)
            .map_err(|failure| if failure.is_full() { GroupError::Full } else { GroupError::Failed(failure) })?;
        for (index, queued) in queue.drain(..count).enumerate() {
            let mut end = start + stored_bytes(queued.payload_bytes.into()) as u32;
            if index + 1 == count {
                end = self.current.end;
            }
            let (position, end) = (self.current.position(start), self.current.position(end));
            start = end.offset;
            written.room = written.room.plus(queued.room);
            committed.push(Committed { tag: queued.entry.tag, position, end });
        }
        written.bytes = bytes;
        Ok(written)
    }

    /// Makes durable what was written. After an error nothing may be written any more.
    pub(crate) fn sync(&mut self) -> Result<(), Failure> {
        let mut synced = self.current.file.sync_data();
        if cfg!(goulette_bug = "sync_retried") && synced.is_err() {
            synced = self.current.file.sync_data();
        }
        synced.doing("sync", &self.current.path)?;
        self.current.unsynced = false;
        Ok(())
    }

    /// Bytes of entries that the current segment still takes.
    fn room(&self) -> u64 {
        let link = if self.current.link.is_some() { LINK_BYTES } else { 0 };
        u64::from(self.current.bytes.saturating_sub(self.current.end + link))
    }

    /// Goes on to the next segment.
    fn roll(&mut self) -> Result<(), GroupError> {
        // The next segment's link vouches for this one's end, and a descriptor with unsynced bytes is never closed.
        if self.current.unsynced {
            self.sync().map_err(GroupError::Failed)?;
        }
        let prepared = self.pool.take(self.current.segment + 1).map_err(|error| match error {
            TakeError::Full => GroupError::Full,
            TakeError::Failed(failure) => GroupError::Failed(failure),
            TakeError::Stopped => GroupError::Stopped,
        })?;
        let link = Link { segment: self.current.segment, end: self.current.end };
        self.current = Segment::new(prepared, link);
        self.pool.want(self.current.segment + 1);
        Ok(())
    }

    /// Writes the first `count` entries as one group, behind the link if the segment still needs it.
    fn write<T>(&mut self, queue: &VecDeque<Pending<T>>, count: usize) -> Result<(), Failure> {
        let Self { current, arena, cuts, group, .. } = self;
        arena.clear();
        cuts.clear();
        let mut offset = current.end;
        if let Some(link) = &current.link {
            let payload = link.encode();
            let header = EntryHeader {
                payload_crc: crc32c::crc32c(&payload),
                payload_bytes: payload.len() as u32,
                kind: 0,
                flags: FLAG_LINK | if count == 0 { FLAG_LAST } else { 0 },
                group: *group,
            };
            arena.extend_from_slice(&header.encode(current.seed, offset));
            arena.extend_from_slice(&payload);
            offset += LINK_BYTES;
        }
        for (index, queued) in queue.iter().take(count).enumerate() {
            let header = EntryHeader {
                payload_crc: queued.payload_crc,
                payload_bytes: queued.payload_bytes,
                kind: queued.entry.kind,
                flags: if index + 1 == count { FLAG_LAST } else { 0 },
                group: *group,
            };
            arena.extend_from_slice(&header.encode(current.seed, offset));
            arena.extend_from_slice(queued.entry.payload.head());
            for part in queued.entry.payload.parts() {
                if part.len() <= COPY_BYTES_MAX {
                    arena.extend_from_slice(part);
                } else {
                    cuts.push(arena.len());
                }
            }
            let bytes = ENTRY_HEADER_BYTES + queued.payload_bytes as usize;
            arena.extend_from_slice(&ZEROS[..bytes.next_multiple_of(ENTRY_ALIGN) - bytes]);
            offset += stored_bytes(queued.payload_bytes.into()) as u32;
        }
        // Whole blocks: a write of a part of one would first have to read the rest of it.
        let end = offset.next_multiple_of(GROUP_ALIGN);
        arena.extend_from_slice(&ZEROS[..(end - offset) as usize]);

        let mut slices: Vec<IoSlice<'_>> = std::mem::take(&mut self.slices);
        let large = queue.iter().take(count).flat_map(|queued| queued.entry.payload.parts());
        let mut from = 0;
        for (&cut, part) in cuts.iter().zip(large.filter(|part| part.len() > COPY_BYTES_MAX)) {
            if from < cut {
                slices.push(IoSlice::new(&arena[from..cut]));
            }
            slices.push(IoSlice::new(part));
            from = cut;
        }
        if from < arena.len() {
            slices.push(IoSlice::new(&arena[from..]));
        }
        let written = write_slices(&*current.file, &slices, current.end);
        slices.clear();
        // An empty vector has no borrowed elements left: this only renames its lifetime and keeps its memory.
        self.slices = slices.into_iter().map(|_| IoSlice::new(&[])).collect();
        written.doing("write", &current.path)?;
        current.unsynced = true;
        current.link = None;
        current.end = end;
        *group += 1;
        Ok(())
    }
}

fn write_slices(file: &dyn DiskFile, slices: &[IoSlice<'_>], offset: u32) -> io::Result<()> {
    file.write_at(slices, offset.into())
}

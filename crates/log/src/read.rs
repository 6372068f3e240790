//! Reading: the newer batches from memory, the older ones from fragments, each checked.

use std::io;

use bytes::Bytes;
use goulette_records::{Batch, HEADER_BYTES, Header, Limits};
use goulette_types::{Offset, Timestamp};

use crate::{
    epochs::Epochs,
    error::ReadError,
    fragment::{Fragment, ScanError, is_damage},
    lock,
    partition::{Kept, Partition, State},
};

/// Read beyond what was asked for: from the indexed position to the offset wanted there may be about so much.
const SLACK_BYTES: usize = 16 << 10;
/// Read at least, however few bytes are wanted.
const READ_BYTES_MIN: usize = 64 << 10;

/// Where the next batches come from.
enum Source {
    /// Nothing is left below the limit.
    End,
    Memory(Vec<Batch>),
    Fragment {
        kept: Kept,
        epochs: Epochs,
        next_base: Option<Offset>,
    },
}

impl Partition {
    /// Reads whole batches from `start`, in offset order. May wait for the disk.
    ///
    /// Only batches below `limit` (exclusive) and below the durable end are returned. The batch holding `start` comes
    /// whole, even if it alone exceeds `bytes_max` (encoded, headers included); later ones only while they fit. Empty
    /// exactly when `start` is at or behind the limit, or at the end.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the first kept offset, [`ReadError::PastEnd`] above the end,
    /// [`ReadError::Corrupt`] when the first batch is not what was written; one further on just ends the answer.
    pub fn read(&self, start: Offset, limit: Offset, bytes_max: u32) -> Result<Vec<Batch>, ReadError> {
        let mut out = Batches { batches: Vec::new(), bytes: 0, bytes_max: bytes_max as usize };
        let mut from = start;
        while out.bytes == 0 || out.bytes < out.bytes_max {
            let source = lock(self.state()).source(self, from, limit, &out)?;
            match source {
                Source::End => break,
                Source::Memory(batches) => {
                    out.batches.extend(batches);
                    break;
                }
                Source::Fragment { kept, epochs, next_base } => {
                    let count = out.batches.len();
                    let read = self.read_fragment(&kept.fragment, &epochs, from, limit, &mut out);
                    match read {
                        Ok(()) => {}
                        Err(_) if !out.batches.is_empty() => break,
                        // The fragment may have gone under the reader's hands: that is no fault of the disk.
                        Err(_) if from < self.start() => continue,
                        Err(fault) => return Err(self.corrupt(&kept.fragment, from, next_base, fault)),
                    }
                    // Go on in the next fragment, or in memory, only if this one has no more.
                    match out.batches.last() {
                        Some(last) if out.batches.len() > count && Some(last.next_offset()) == next_base => {
                            from = last.next_offset();
                        }
                        _ => break,
                    }
                }
            }
        }
        Ok(out.batches)
    }

    /// As [`read`](Self::read), but never waits for the disk: none if the batch holding `start` is not in memory, or if
    /// `start` is no offset of the partition.
    pub fn read_cached(&self, start: Offset, limit: Offset, bytes_max: u32) -> Option<Vec<Batch>> {
        let out = Batches { batches: Vec::new(), bytes: 0, bytes_max: bytes_max as usize };
        match lock(self.state()).source(self, start, limit, &out) {
            Ok(Source::End) => Some(Vec::new()),
            Ok(Source::Memory(batches)) => Some(batches),
            Ok(Source::Fragment { .. }) | Err(_) => None,
        }
    }

    /// The first record at or after `time`, and its own timestamp; none if all are earlier. May wait for the disk.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`ReadError::Decode`].
    pub fn offset_at(&self, time: Timestamp) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let (fragments, mut from) = {
            let state = lock(self.state());
            let late: Vec<_> =
                state.fragments.iter().filter(|kept| kept.state.max_timestamp >= time).cloned().collect();
            (late, state.flushed)
        };
        for kept in fragments {
            let found = self.offset_in_fragment(&kept, time);
            // Whatever was found in a fragment that has gone meanwhile, or why nothing was, counts no more.
            if kept.state.base >= self.start()
                && let Some(found) = found?
            {
                return Ok(Some(found));
            }
        }
        // What is not in a fragment is in memory, or goes from there into one while we look.
        loop {
            let batches = match self.read(from, Offset::MAX, READ_BYTES_MIN as u32) {
                Err(ReadError::Trimmed { start }) => {
                    from = start;
                    continue;
                }
                read => read?,
            };
            let Some(last) = batches.last() else { return Ok(None) };
            from = last.next_offset();
            for batch in batches.iter().filter(|batch| batch.max_timestamp() >= time) {
                if let Some(found) = first_at(batch, time)? {
                    return Ok(Some(found));
                }
            }
        }
    }

    fn offset_in_fragment(&self, kept: &Kept, time: Timestamp) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let disk = &*self.engine().env.disk;
        let fragment = &kept.fragment;
        let fault = |fault: Fault| self.corrupt(fragment, fragment.base(), None, fault);
        let position = fragment.with_index(disk, |index| index.position_at(time));
        let mut position = position.map_err(|error| fault(error.into()))?;
        loop {
            let mut found = None;
            fragment
                .scan(disk, position, |batch| {
                    if batch.header.max_timestamp >= time {
                        found = Some(batch);
                    }
                    found.is_none()
                })
                .map_err(|scan| fault(scan.into()))?;
            let Some(found) = found else { return Ok(None) };
            let base = found.header.base_offset;
            let Some(batch) = self.read(base, Offset::MAX, 0)?.into_iter().next() else { return Ok(None) };
            if let Some(found) = first_at(&batch, time)? {
                return Ok(Some(found));
            }
            // The header promised a later record than there is.
            position = found.position + found.header.encoded_bytes() as u32;
        }
    }

    fn read_fragment(
        &self,
        fragment: &Fragment,
        epochs: &Epochs,
        from: Offset,
        limit: Offset,
        out: &mut Batches,
    ) -> Result<(), Fault> {
        let disk = &*self.engine().env.disk;
        let mut position = fragment.with_index(disk, |index| index.position_of(from))?;
        let mut expected = (position == 0).then_some(fragment.base());
        let wanted = (out.bytes_max - out.bytes + SLACK_BYTES).max(READ_BYTES_MIN);
        let mut window = fragment.read(disk, position, wanted)?;
        loop {
            if window.len() < HEADER_BYTES {
                window = fragment.read(disk, position, READ_BYTES_MIN)?;
            }
            let header = match window.first_chunk() {
                Some(bytes) => Header::parse(bytes).map_err(Fault::rubbish)?,
                None if window.is_empty() && !out.batches.is_empty() => return Ok(()),
                None => return Err(Fault::rubbish("the fragment ends before it")),
            };
            let bytes = header.encoded_bytes();
            let follows = match expected {
                Some(expected) => header.base_offset == expected,
                None => fragment.base() <= header.base_offset && header.base_offset <= from,
            };
            if !follows {
                return Err(Fault::rubbish(format!("a batch of offset {} stands there", header.base_offset)));
            }
            expected = Some(header.next_offset());
            if header.next_offset() > from {
                if header.next_offset() > limit || !out.has_room(bytes) {
                    return Ok(());
                }
                if window.len() < bytes && !out.batches.is_empty() {
                    return Ok(());
                }
                if window.len() < bytes {
                    window = fragment.read(disk, position, bytes)?;
                }
                if window.len() < bytes {
                    return Err(Fault::rubbish("the batch reaches past the fragment's end"));
                }
                out.push(check(window.slice(..bytes), epochs)?);
            }
            window = window.slice(bytes.min(window.len())..);
            position = position.checked_add(bytes as u32).ok_or(Fault::rubbish("the batch is too long"))?;
        }
    }

    fn corrupt(&self, fragment: &Fragment, from: Offset, next_base: Option<Offset>, fault: Fault) -> ReadError {
        match fault {
            Fault::Io(source) => ReadError::Io { path: fragment.path().to_owned(), source },
            Fault::Rubbish(reason) => {
                let disk = &*self.engine().env.disk;
                let next = fragment.with_index(disk, |index| index.offset_after(from)).ok().flatten();
                ReadError::Corrupt { from, next: next.or(next_base), reason }
            }
        }
    }
}

impl State {
    fn source(&self, partition: &Partition, from: Offset, limit: Offset, out: &Batches) -> Result<Source, ReadError> {
        if self.deleted {
            return Err(ReadError::Deleted(partition.id()));
        }
        if from < self.start {
            return Err(ReadError::Trimmed { start: self.start });
        }
        if from > self.end {
            return Err(ReadError::PastEnd { end: self.end });
        }
        if from >= limit.min(self.end) {
            return Ok(Source::End);
        }
        if self.tail.front().is_some_and(|first| first.batch.base_offset() <= from) {
            return Ok(Source::Memory(self.in_memory(from, limit, out)));
        }
        let behind = self.fragments.partition_point(|kept| kept.state.base <= from);
        let Some(kept) = behind.checked_sub(1).map(|index| self.fragments[index].clone()) else {
            let next = self.fragments.first().map(|kept| kept.state.base);
            return Err(ReadError::Corrupt { from, next, reason: "no fragment holds it".into() });
        };
        let next_base = self.fragments.get(behind).map_or(self.flushed, |next| next.state.base);
        Ok(Source::Fragment { kept, epochs: self.epochs.clone(), next_base: Some(next_base) })
    }

    fn in_memory(&self, from: Offset, limit: Offset, out: &Batches) -> Vec<Batch> {
        let first = self.tail.partition_point(|stored| stored.batch.next_offset() <= from);
        let mut room = Batches { batches: Vec::new(), ..*out };
        for stored in self.tail.range(first..) {
            let has_room = room.has_room(stored.batch.encoded_bytes());
            if stored.batch.next_offset() > limit || !has_room {
                break;
            }
            room.push(stored.batch.clone());
        }
        room.batches
    }
}

/// Batches read so far, and how many bytes they may have.
struct Batches {
    batches: Vec<Batch>,
    bytes: usize,
    bytes_max: usize,
}

impl Batches {
    /// The first batch always has room.
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= self.bytes_max
    }

    fn push(&mut self, batch: Batch) {
        self.bytes += batch.encoded_bytes();
        self.batches.push(batch);
    }
}

/// What a fragment holds is not what was written, or cannot be read at all.
enum Fault {
    Rubbish(String),
    Io(io::Error),
}

impl Fault {
    fn rubbish(reason: impl ToString) -> Self {
        Fault::Rubbish(reason.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if is_damage(&error) { Fault::rubbish(error) } else { Fault::Io(error) }
    }
}

impl From<ScanError> for Fault {
    fn from(scan: ScanError) -> Self {
        match Fault::from(scan.error) {
            Fault::Rubbish(reason) => Fault::Rubbish(format!("at byte {}: {reason}", scan.position)),
            io => io,
        }
    }
}

/// A batch as stored: its checksum, and the fields that the checksum leaves out.
fn check(bytes: Bytes, epochs: &Epochs) -> Result<Batch, Fault> {
    let batch = Batch::from_bytes(bytes, &Limits::WIDEST).map_err(Fault::rubbish)?;
    let written_in = epochs.at(batch.base_offset());
    if batch.leader_epoch() != written_in {
        return Err(Fault::Rubbish(format!("the batch has epoch {:?}, not {written_in:?}", batch.leader_epoch())));
    }
    Ok(batch)
}

fn first_at(batch: &Batch, time: Timestamp) -> Result<Option<(Offset, Timestamp)>, ReadError> {
    let failed = |source| ReadError::Decode { offset: batch.base_offset(), source };
    for record in batch.iter(&Limits::WIDEST).map_err(failed)? {
        let record = record.map_err(failed)?;
        if record.timestamp >= time {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

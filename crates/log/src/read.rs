//! Reading: the newer batches from memory, the older ones from fragments, each checked.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use goulette_env::Disk;
use goulette_records::{Batch, HEADER_BYTES, Header, Limits};
use goulette_types::{Offset, Timestamp};

use crate::{
    epochs::Epochs,
    error::ReadError,
    fragment::{Fragment, is_damage},
    lock,
    partition::{Kept, Partition, State},
    quarantine::QuarantinedRange,
    source::{Source, in_place},
};

/// Read beyond what was asked for: from the indexed position to the offset wanted there may be about so much.
const SLACK_BYTES: usize = 16 << 10;
/// Read at least, however few bytes are wanted.
const READ_BYTES_MIN: usize = 64 << 10;

/// Where the next batches come from.
enum Origin {
    /// Nothing is left below the limit.
    End,
    Memory(Vec<Batch>),
    Fragment {
        kept: Kept,
        epochs: Epochs,
        /// Where the fragment ends.
        next_base: Offset,
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
    /// [`ReadError::Corrupt`] when the first batch is not what was written; one further on just ends the answer. The damaged
    /// range is [quarantined](crate::QuarantinedRange).
    pub fn read(&self, start: Offset, limit: Offset, bytes_max: u32) -> Result<Vec<Batch>, ReadError> {
        let mut out = Batches { batches: Vec::new(), bytes: 0, bytes_max: bytes_max as usize };
        let mut from = start;
        while out.bytes == 0 || out.bytes < out.bytes_max {
            let source = lock(self.state()).source(self, from, limit, &out)?;
            match source {
                Origin::End => break,
                Origin::Memory(batches) => {
                    out.batches.extend(batches);
                    break;
                }
                Origin::Fragment { kept, epochs, next_base } => {
                    let count = out.batches.len();
                    match self.read_fragment(&kept, &epochs, from, limit, &mut out) {
                        Ok(()) => {}
                        Err(_) if !out.batches.is_empty() => break,
                        // The fragment may have gone under the reader's hands: that is no fault of the disk.
                        Err(_) if from < self.start() => continue,
                        Err(error) => return Err(error),
                    }
                    // Go on in the next fragment, or in memory, only if this one has no more.
                    match out.batches.last() {
                        Some(last) if out.batches.len() > count && last.next_offset() == next_base => {
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
            Ok(Origin::End) => Some(Vec::new()),
            Ok(Origin::Memory(batches)) => Some(batches),
            Ok(Origin::Fragment { .. }) | Err(_) => None,
        }
    }

    /// The first record at or after `time`, and its own timestamp; none if all are earlier. May wait for the disk.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`ReadError::Decode`].
    pub fn offset_at(&self, time: Timestamp) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let (fragments, epochs, mut from) = {
            let state = lock(self.state());
            let late: Vec<_> =
                state.fragments.iter().filter(|kept| kept.state.max_timestamp >= time).cloned().collect();
            (late, state.epochs.clone(), state.flushed)
        };
        for kept in fragments {
            let found = self.offset_in_fragment(&kept, &epochs, time);
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

    fn offset_in_fragment(
        &self,
        kept: &Kept,
        epochs: &Epochs,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let disk = &*self.engine().env.disk;
        let fragment = &kept.fragment;
        let io = |source| ReadError::Io { path: fragment.path().to_owned(), source };
        let mut start = fragment.with_index(disk, |index| index.place_at(time)).map_err(io)?;
        loop {
            let mut found = None;
            let mut expected = start.1;
            let scanned = fragment.scan(disk, start.0, |batch| {
                if batch.header.max_timestamp >= time {
                    found = Some(batch);
                } else {
                    expected = batch.header.next_offset();
                }
                found.is_none()
            });
            match (scanned, found) {
                (Err(scan), _) => match Fault::from(scan.error) {
                    Fault::Io(source) => return Err(io(source)),
                    Fault::Rubbish(reason) => {
                        let damage = self.first_damage(kept, epochs, start);
                        let damage = damage.unwrap_or_else(|| self.quarantine(kept, scan.position, expected, reason));
                        start = (damage.bytes.end as u32, damage.offsets.end);
                    }
                },
                (Ok(()), None) => return Ok(None),
                (Ok(()), Some(found)) => {
                    match self.read(found.header.base_offset, Offset::MAX, 0) {
                        Ok(batches) => {
                            let Some(batch) = batches.first() else { return Ok(None) };
                            if let Some(found) = first_at(batch, time)? {
                                return Ok(Some(found));
                            }
                        }
                        // What can be read and is late enough stands behind it.
                        Err(ReadError::Corrupt { .. }) if let Some(damage) = self.first_damage(kept, epochs, start) => {
                            start = (damage.bytes.end as u32, damage.offsets.end);
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    // The header promised a later record than there is, or the batch is lost.
                    start = (found.position + found.header.encoded_bytes() as u32, found.header.next_offset());
                }
            }
        }
    }

    /// Reads on from where the last batch of `out` ended, past damaged ranges before `from`.
    fn read_fragment(
        &self,
        kept: &Kept,
        epochs: &Epochs,
        from: Offset,
        limit: Offset,
        out: &mut Batches,
    ) -> Result<(), ReadError> {
        let disk = &*self.engine().env.disk;
        let fragment = &kept.fragment;
        let corrupt = |damage: QuarantinedRange| {
            Err(ReadError::Corrupt { from, next: Some(damage.offsets.end), reason: damage.reason })
        };
        if let Some(damage) = self.engine().quarantine.holding(self.id(), fragment.number(), from) {
            return corrupt(damage);
        }
        let io = |source| ReadError::Io { path: fragment.path().to_owned(), source };
        let mut start = fragment.with_index(disk, |index| index.place_of(from)).map_err(io)?;
        loop {
            let (position, offset) = start;
            let mut cursor = Cursor { position, offset };
            match cursor.read(disk, fragment, epochs, from..limit, out) {
                Ok(()) => return Ok(()),
                Err(Fault::Io(source)) => return Err(io(source)),
                // The next read begins with it.
                Err(Fault::Rubbish(_)) if !out.batches.is_empty() => return Ok(()),
                Err(Fault::Rubbish(reason)) => {
                    // Batches on the way were passed unchecked: perhaps it was one of them that led astray.
                    let damage = self.first_damage(kept, epochs, start);
                    let damage =
                        damage.unwrap_or_else(|| self.quarantine(kept, cursor.position, cursor.offset, reason));
                    if from < damage.offsets.end {
                        return corrupt(damage);
                    }
                    start = (damage.bytes.end as u32, damage.offsets.end);
                }
            }
        }
    }

    /// The first damage at or behind a place where a batch begins, every batch looked at; none if there is none.
    fn first_damage(
        &self,
        kept: &Kept,
        epochs: &Epochs,
        (mut position, mut offset): (u32, Offset),
    ) -> Option<QuarantinedRange> {
        let mut source = self.source(&kept.fragment);
        while position < kept.fragment.written() {
            let sound = source.batch(position).and_then(|batch| in_place(batch, offset, epochs));
            match sound {
                Ok(batch) => {
                    position += batch.encoded_bytes() as u32;
                    offset = batch.next_offset();
                }
                Err(reason) => return Some(self.quarantine(kept, position, offset, reason)),
            }
        }
        None
    }

    fn source<'a>(&self, fragment: &'a Fragment) -> Source<impl FnMut(&mut [u8], u64) -> io::Result<()> + 'a> {
        let disk = self.engine().env.disk.clone();
        Source::new(fragment.written(), move |buffer, position| {
            let bytes = fragment.read(&*disk, position as u32, buffer.len())?;
            if bytes.len() < buffer.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer.copy_from_slice(&bytes);
            Ok(())
        })
    }

    /// Finds out how far the damage reaches that begins at a position, where a batch of `expected` should be, and notes it
    /// unless the fragment has just gone.
    pub(crate) fn quarantine(&self, kept: &Kept, position: u32, expected: Offset, reason: String) -> QuarantinedRange {
        let (engine, fragment) = (self.engine(), &kept.fragment);
        let (still_there, end) = {
            let state = lock(self.state());
            let index = state.fragments.partition_point(|other| other.state.number < fragment.number());
            let still_there = state.fragments.get(index).is_some_and(|other| Arc::ptr_eq(&other.fragment, fragment));
            (still_there, state.fragments.get(index + 1).map_or(state.flushed, |next| next.state.base))
        };
        let valid = fragment.written();
        let behind = Offset(expected.0.saturating_add(1));
        let (next_position, next) =
            self.source(fragment).find(position.saturating_add(1), behind, end).unwrap_or((valid, end));
        let range = QuarantinedRange {
            partition: self.id(),
            topic: self.topic_name().clone(),
            file: fragment.path().to_owned(),
            bytes: position.into()..next_position.into(),
            offsets: expected..next.max(expected),
            reason,
        };
        if still_there {
            engine.quarantine.note(fragment.number(), range.clone());
        }
        range
    }
}

/// A batch's place in a fragment, as its index and the batches before it have it.
struct Cursor {
    position: u32,
    offset: Offset,
}

impl Cursor {
    /// Reads batches with records in `wanted`. After an error it stands where the fault is.
    fn read(
        &mut self,
        disk: &dyn Disk,
        fragment: &Fragment,
        epochs: &Epochs,
        wanted: Range<Offset>,
        out: &mut Batches,
    ) -> Result<(), Fault> {
        let bytes = (out.bytes_max - out.bytes + SLACK_BYTES).max(READ_BYTES_MIN);
        let read = |position, bytes| match fragment.read(disk, position, bytes) {
            // Something further on cannot be read: perhaps what is wanted first can.
            Err(error) if is_damage(&error) => fragment.read(disk, position, HEADER_BYTES),
            read => read,
        };
        let mut window = read(self.position, bytes)?;
        loop {
            if window.len() < HEADER_BYTES {
                window = read(self.position, READ_BYTES_MIN)?;
            }
            let header = match window.first_chunk() {
                Some(bytes) => Header::parse(bytes).map_err(Fault::rubbish)?,
                None if window.is_empty() && !out.batches.is_empty() => return Ok(()),
                None => return Err(Fault::rubbish("the fragment ends before it")),
            };
            let bytes = header.encoded_bytes();
            if header.base_offset != self.offset {
                return Err(Fault::Rubbish(format!("a batch of offset {} stands there", header.base_offset)));
            }
            let left = (fragment.written() - self.position) as usize;
            if bytes > left {
                return Err(Fault::rubbish("the batch reaches past the fragment's end"));
            }
            if header.next_offset() > wanted.start {
                if header.next_offset() > wanted.end || !out.has_room(bytes) {
                    return Ok(());
                }
                if window.len() < bytes && !out.batches.is_empty() {
                    return Ok(());
                }
                if window.len() < bytes {
                    window = fragment.read(disk, self.position, bytes)?;
                }
                out.push(check(window.slice(..bytes), epochs)?);
            }
            window = window.slice(bytes.min(window.len())..);
            self.position += bytes as u32;
            self.offset = header.next_offset();
        }
    }
}

impl State {
    fn source(&self, partition: &Partition, from: Offset, limit: Offset, out: &Batches) -> Result<Origin, ReadError> {
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
            return Ok(Origin::End);
        }
        if self.tail.front().is_some_and(|first| first.batch.base_offset() <= from) {
            return Ok(Origin::Memory(self.in_memory(from, limit, out)));
        }
        let behind = self.fragments.partition_point(|kept| kept.state.base <= from);
        let Some(kept) = behind.checked_sub(1).map(|index| self.fragments[index].clone()) else {
            let next = self.fragments.first().map(|kept| kept.state.base);
            return Err(ReadError::Corrupt { from, next, reason: "no fragment holds it".into() });
        };
        let next_base = self.fragments.get(behind).map_or(self.flushed, |next| next.state.base);
        Ok(Origin::Fragment { kept, epochs: self.epochs.clone(), next_base })
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

/// A batch as stored: its checksum, and the fields that the checksum leaves out.
fn check(bytes: Bytes, epochs: &Epochs) -> Result<Batch, Fault> {
    let batch = Batch::from_stored(bytes).map_err(Fault::rubbish)?;
    let offset = batch.base_offset();
    in_place(batch, offset, epochs).map_err(Fault::Rubbish)
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

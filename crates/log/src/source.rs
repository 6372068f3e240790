//! The bytes of a fragment, and how to find one's way in them where they are damaged.

use std::io;

use bytes::Bytes;
use goulette_records::{Batch, HEADER_BYTES, Header, Limits};
use goulette_types::{LeaderEpoch, Offset};

use crate::epochs::Epochs;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// What a disk loses at once.
const SECTOR_BYTES: u32 = 512;

/// A fragment's valid bytes, a window of them in memory. `R` fills a buffer with the bytes from a position on.
pub(crate) struct Source<R> {
    read: R,
    valid: u32,
    window: Bytes,
    window_start: u32,
}

impl<R: FnMut(&mut [u8], u64) -> io::Result<()>> Source<R> {
    pub(crate) fn new(valid: u32, read: R) -> Self {
        Self { read, valid, window: Bytes::new(), window_start: 0 }
    }

    /// Bytes from `position` on, which lie within the valid ones.
    fn bytes(&mut self, position: u32, count: usize) -> io::Result<Bytes> {
        let within = position.checked_sub(self.window_start).map_or(usize::MAX, |within| within as usize);
        let end = within.saturating_add(count);
        if end <= self.window.len() {
            return Ok(self.window.slice(within..end));
        }
        let mut window = vec![0; ((self.valid - position) as usize).min(WINDOW_BYTES).max(count)];
        if (self.read)(&mut window, position.into()).is_err() {
            // Something further on cannot be read: perhaps what is wanted can.
            window.truncate(count);
            (self.read)(&mut window, position.into())?;
        }
        (self.window, self.window_start) = (window.into(), position);
        Ok(self.window.slice(..count))
    }

    /// The batch that begins at `position`, with every record's length looked at.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn batch(&mut self, position: u32) -> Result<Batch, String> {
        let left = (self.valid - position) as usize;
        if left < HEADER_BYTES {
            return Err("the bytes end within a batch's header".into());
        }
        let unreadable = |error| format!("cannot be read: {error}");
        let head = self.bytes(position, HEADER_BYTES).map_err(unreadable)?;
        let head = head.first_chunk().expect("a header's bytes were asked for");
        let header = Header::parse(head).map_err(|error| error.to_string())?;
        if header.encoded_bytes() > left {
            return Err(format!("the batch of {} bytes reaches past the valid ones", header.encoded_bytes()));
        }
        let bytes = self.bytes(position, header.encoded_bytes()).map_err(unreadable)?;
        Batch::from_bytes(bytes, &Limits::WIDEST).map_err(|error| error.to_string())
    }

    /// The first sound batch at or behind `position` with an offset in `from..end`, and its offset.
    pub(crate) fn find(&mut self, mut position: u32, from: Offset, end: Offset) -> Option<(u32, Offset)> {
        while (position as usize).saturating_add(HEADER_BYTES) <= self.valid as usize {
            let Ok(head) = self.bytes(position, HEADER_BYTES) else {
                // Unreadable sectors: look again behind them.
                position = position.checked_add(1)?.checked_next_multiple_of(SECTOR_BYTES)?;
                continue;
            };
            let header = head.first_chunk().and_then(|head| Header::parse(head).ok());
            let fits = header.is_some_and(|header| from <= header.base_offset && header.base_offset < end);
            if fits && let Ok(batch) = self.batch(position) {
                return Some((position, batch.base_offset()));
            }
            position += 1;
        }
        None
    }
}

/// Looks at the fields that a batch's checksum leaves out: its offset and its epoch.
pub(crate) fn in_place(batch: Batch, expected: Offset, epochs: &Epochs) -> Result<Batch, String> {
    if batch.base_offset() != expected {
        return Err(format!("the batch begins at offset {} instead of {expected}", batch.base_offset()));
    }
    let (found, written_in) = (batch.leader_epoch(), epochs.at(expected));
    if found != written_in {
        let name = |epoch: Option<LeaderEpoch>| epoch.map_or("none".to_owned(), |epoch| epoch.to_string());
        return Err(format!("the batch has leader epoch {} instead of {}", name(found), name(written_in)));
    }
    Ok(batch)
}

//! From batch to batch through a fragment, past what is damaged.

use std::{io, ops::ControlFlow, path::Path};

use bytes::Bytes;
use goulette_env::{Disk, DiskFile, OpenMode};
use goulette_records::{Batch, HEADER_BYTES, Header, Limits};
use goulette_types::{LeaderEpoch, Offset};

use crate::{checkpoint::FragmentState, epochs::Epochs};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Visits each batch of the fragment's valid bytes at its position, or what is wrong there, until `visit` breaks.
/// Behind a damage it goes on at the next sound batch, wherever that is. `end` is the first offset behind the fragment.
pub(super) fn walk(
    disk: &dyn Disk,
    path: &Path,
    state: &FragmentState,
    end: Offset,
    epochs: &Epochs,
    visit: &mut dyn FnMut(u32, Result<Batch, String>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let opened = disk.open(path, OpenMode::Read).and_then(|file| Ok((file.len()?, file)));
    let (length, file) = match opened {
        Ok(opened) => opened,
        Err(error) => return visit(0, Err(format!("the fragment cannot be opened: {error}"))),
    };
    let valid = length.min(state.length.into()) as u32;
    let mut source = Source { file, valid, window: Bytes::new(), window_start: 0 };
    let (mut position, mut expected) = (0, state.base);
    while position < valid {
        match source.batch(position) {
            Ok(batch) => {
                let next = position + batch.encoded_bytes() as u32;
                // Not `plus`: the checkpoint may claim any base.
                let follows = Offset((expected.0 + u64::from(batch.record_count())).min(Offset::MAX.0));
                visit(position, in_place(batch, expected, epochs))?;
                (position, expected) = (next, follows);
            }
            Err(reason) => {
                visit(position, Err(reason))?;
                let next = source.find(position + 1, expected, end);
                (position, expected) = next.unwrap_or((valid, end));
            }
        }
    }
    if valid < state.length {
        return visit(valid, Err(format!("the file ends here, {} bytes too early", state.length - valid)));
    }
    if expected != end {
        return visit(valid, Err(format!("the fragment ends at offset {expected} instead of {end}")));
    }
    ControlFlow::Continue(())
}

/// The fields that a batch's checksum leaves out.
fn in_place(batch: Batch, expected: Offset, epochs: &Epochs) -> Result<Batch, String> {
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

/// The fragment's valid bytes, a window of them in memory.
struct Source {
    file: Box<dyn DiskFile>,
    valid: u32,
    window: Bytes,
    window_start: u32,
}

impl Source {
    /// Bytes from `position` on, which lie within the valid ones.
    fn bytes(&mut self, position: u32, count: usize) -> io::Result<Bytes> {
        let within = position.checked_sub(self.window_start).map_or(usize::MAX, |within| within as usize);
        let end = within.saturating_add(count);
        if end <= self.window.len() {
            return Ok(self.window.slice(within..end));
        }
        let mut window = vec![0; ((self.valid - position) as usize).min(WINDOW_BYTES).max(count)];
        self.file.read_exact_at(&mut window, position.into())?;
        (self.window, self.window_start) = (window.into(), position);
        Ok(self.window.slice(..count))
    }

    /// The batch that begins at `position`.
    fn batch(&mut self, position: u32) -> Result<Batch, String> {
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
    fn find(&mut self, mut position: u32, from: Offset, end: Offset) -> Option<(u32, Offset)> {
        while (position as usize) + HEADER_BYTES <= self.valid as usize {
            let Ok(head) = self.bytes(position, HEADER_BYTES) else {
                // Unreadable sectors: look again behind them.
                position = (position + 1).next_multiple_of(512);
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

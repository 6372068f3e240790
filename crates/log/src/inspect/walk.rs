//! From batch to batch through a fragment, past what is damaged.

use std::{ops::ControlFlow, path::Path};

use goulette_env::{Disk, OpenMode};
use goulette_records::Batch;
use goulette_types::Offset;

use crate::{
    checkpoint::FragmentState,
    epochs::Epochs,
    source::{Source, in_place},
};

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
    let mut source = Source::new(valid, |buffer, position| file.read_exact_at(buffer, position));
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

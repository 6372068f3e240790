//! Whether everything is as it was written.

use std::{io, ops::ControlFlow};

use super::{Damage, Found, Inspection, walk::walk};
use crate::{checkpoint::FragmentState, fragment::read_file, index::Index};

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Fragments read.
    pub fragments: u64,
    /// Sound batches in them and in the WAL's tail.
    pub batches: u64,
    /// Their records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong; empty if nothing is.
    pub damages: Vec<Damage>,
}

impl Inspection {
    /// Reads everything that counts: identity, checkpoint, the WAL from the checkpoint on, and each batch of each
    /// fragment with its checksum, offset and epoch; then whether the index files are those of the fragment. An index
    /// file that is missing is no damage: it is made anew when it is needed.
    pub fn verify(&self) -> Verified {
        let mut verified = Verified { damages: self.damages.clone(), ..Verified::default() };
        for found in self.partitions.values() {
            verified.batches += found.wal_batches;
            verified.bytes += found.wal_bytes;
            verified.records += found.end.since(found.flushed);
            if found.fragments.first().map_or(found.flushed, |first| first.base) > found.start {
                let reason = format!("no fragment holds the offsets from {} on", found.start);
                verified.damages.push(Damage { file: found.dir.clone(), position: 0, reason });
            }
            for (index, fragment) in found.fragments.iter().enumerate() {
                self.verify_fragment(found, index, fragment, &mut verified);
            }
        }
        verified
    }

    fn verify_fragment(&self, found: &Found, index: usize, state: &FragmentState, verified: &mut Verified) {
        let path = found.path(state);
        let damaged_before = verified.damages.len();
        // The index files follow from the batches alone.
        let mut rebuilt = Index::new(state.number, state.base);
        let _ = walk(&*self.env.disk, &path, state, found.end_of(index), &found.epochs, &mut |position, step| {
            match step {
                Ok(batch) => {
                    verified.batches += 1;
                    verified.records += u64::from(batch.record_count());
                    verified.bytes += batch.encoded_bytes() as u64;
                    if verified.damages.len() == damaged_before {
                        rebuilt.note(batch.header(), &batch.header_bytes());
                    }
                }
                Err(reason) => {
                    verified.damages.push(Damage { file: path.clone(), position: position.into(), reason });
                }
            }
            ControlFlow::Continue(())
        });
        verified.fragments += 1;
        if !state.sealed {
            return;
        }
        let whole = verified.damages.len() == damaged_before;
        for (extension, expected) in [("index", rebuilt.encode_offsets()), ("timeindex", rebuilt.encode_times())] {
            let file = path.with_extension(extension);
            let found = match read_file(&*self.env.disk, &file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found.map_err(|error| format!("cannot be read: {error}")),
            };
            let wrong = match found {
                Ok(found) if whole => first_difference(&found, &expected)
                    .map(|position| (position, "is not the index of its fragment".to_owned())),
                // With what shall it be compared? It can still contradict itself.
                Ok(found) => (!sums_up(&found)).then(|| (0, "its checksum does not match".to_owned())),
                Err(reason) => Some((0, reason)),
            };
            if let Some((position, reason)) = wrong {
                verified.damages.push(Damage { file, position: position as u64, reason });
            }
        }
    }
}

fn first_difference(found: &[u8], expected: &[u8]) -> Option<usize> {
    let both = found.len().min(expected.len());
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    differs.or((found.len() != expected.len()).then_some(both))
}

fn sums_up(file: &[u8]) -> bool {
    file.split_last_chunk().is_some_and(|(body, crc)| crc32c::crc32c(body) == u32::from_be_bytes(*crc))
}

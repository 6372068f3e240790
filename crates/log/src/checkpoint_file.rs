//! The checkpoint's file: one full block, then blocks that carry only what changed.
//!
//! A checkpoint costs what has changed since the last one. When the deltas outgrow the full block the file is written anew,
//! and each opening of the log begins with a new file: so nothing that a crash left behind the last good block is ever
//! built upon. Every block starts on a border of [`ALIGN`] bytes, so that no durable sector is written again.
//!
//! As in the WAL, a bad block is a *torn tail* exactly when no valid block follows it: its sync never returned, and nothing
//! was done that relies on it. Otherwise the file is damaged. Layout: `docs/formats/checkpoint.md`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use goulette_env::{Disk, DiskFile, OpenMode, Random};
use goulette_types::PartitionId;

use crate::{
    checkpoint::{Checkpoint, CheckpointError, PartitionState},
    codec::Reader,
    error::FlushError,
};

/// The file's name in the data directory.
pub(crate) const FILE: &str = "checkpoint";
/// The version written, and the highest that is read.
pub(crate) const VERSION: u16 = 1;

const MAGIC: u32 = u32::from_be_bytes(*b"GLCK");
const FULL: u16 = 1;
const DELTA: u16 = 2;
/// Magic, version, kind, payload bytes, CRC, salt and sequence.
const HEAD_BYTES: usize = 32;
const ALIGN: usize = 4096;
/// A file below this length is not worth writing anew.
const REWRITE_BYTES_MIN: u64 = 256 << 10;

/// The blocks that this life of the log has written.
#[derive(Default)]
pub(crate) struct CheckpointFile(Option<Open>);

struct Open {
    file: Arc<dyn DiskFile>,
    salt: u64,
    /// Of the next block.
    sequence: u64,
    /// Where the next block goes.
    end: u64,
    /// The full block's bytes, which are about what lives in the file.
    full_bytes: u64,
}

impl CheckpointFile {
    /// Whether the next block must carry all partitions.
    pub(crate) fn wants_full(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.end > REWRITE_BYTES_MIN && open.end > 2 * open.full_bytes)
    }

    /// Makes a checkpoint durable: a file of its own if it carries all partitions, otherwise a block behind the others.
    ///
    /// # Errors
    /// After any error the next one must be full, as [`wants_full`](Self::wants_full) then says: what changed meanwhile is
    /// known no more.
    pub(crate) fn write(
        &mut self,
        disk: &dyn Disk,
        random: &dyn Random,
        dir: &Path,
        checkpoint: &Checkpoint,
        full: bool,
    ) -> Result<(), FlushError> {
        assert!(full || self.0.is_some(), "a delta follows what this life has written");
        // Put back only when all went well.
        let before = self.0.take();
        let mut open = match before {
            Some(open) if !full => open,
            _ => {
                let salt = random.next_u64();
                let block = encode_block(FULL, salt, 0, checkpoint);
                let file = replace_file(disk, dir, FILE, &block)?;
                let bytes = block.len() as u64;
                self.0 = Some(Open { file, salt, sequence: 1, end: bytes, full_bytes: bytes });
                return Ok(());
            }
        };
        let path = || dir.join(FILE);
        let block = encode_block(DELTA, open.salt, open.sequence, checkpoint);
        open.file.write_all_at(&block, open.end).map_err(|error| FlushError::io("write", &path(), &error))?;
        open.file.sync_data().map_err(|error| FlushError::sync(&path(), &error))?;
        open.end += block.len() as u64;
        open.sequence += 1;
        self.0 = Some(open);
        Ok(())
    }
}

/// Replaces a file as a whole: after a crash it holds the old bytes or the new ones, and after this call the new. Returns
/// it, open.
pub(crate) fn replace_file(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<Arc<dyn DiskFile>, FlushError> {
    let (path, tmp) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let written = disk.open(&tmp, OpenMode::CreateOrOpen).and_then(|file| {
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        Ok(file)
    });
    let file = match written {
        Ok(file) => file,
        Err(error) => {
            // Half of it is of no use to anybody, and takes space. Fine if it cannot be removed: it is overwritten.
            let _ = disk.remove_file(&tmp);
            return Err(FlushError::io("write", &tmp, &error));
        }
    };
    file.sync_data().map_err(|error| FlushError::sync(&tmp, &error))?;
    disk.rename(&tmp, &path).map_err(|error| FlushError::io("replace", &path, &error))?;
    disk.sync_dir(dir).map_err(|error| FlushError::sync(dir, &error))?;
    Ok(file.into())
}

fn encode_block(kind: u16, salt: u64, sequence: u64, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut out = vec![0; HEAD_BYTES];
    checkpoint.encode(&mut out);
    let payload_bytes = u32::try_from(out.len() - HEAD_BYTES).expect("a checkpoint is smaller than 4 GiB");
    out[..4].copy_from_slice(&MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&VERSION.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..12].copy_from_slice(&payload_bytes.to_be_bytes());
    out[16..24].copy_from_slice(&salt.to_be_bytes());
    out[24..32].copy_from_slice(&sequence.to_be_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    let crc = checksum(&out);
    out[12..16].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The CRC-32C of a block with its padding, its own field left out.
fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..])
}

/// The bytes of a block with such a payload.
fn block_bytes(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// A block whose checksum is right.
struct Block<'a> {
    version: u16,
    kind: u16,
    salt: u64,
    sequence: u64,
    payload: &'a [u8],
}

impl<'a> Block<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Block<'a>, &'static str> {
        const SHORT: &str = "the file ends within a block";
        let mut reader = Reader::new(bytes);
        let (magic, version) = (reader.u32().map_err(|_| SHORT)?, reader.u16().map_err(|_| SHORT)?);
        if magic != MAGIC {
            return Err("a block does not begin with GLCK");
        }
        let kind = reader.u16().map_err(|_| SHORT)?;
        let payload_bytes = reader.u32().map_err(|_| SHORT)? as usize;
        let crc = reader.u32().map_err(|_| SHORT)?;
        let (salt, sequence) = (reader.u64().map_err(|_| SHORT)?, reader.u64().map_err(|_| SHORT)?);
        let payload = reader.bytes(payload_bytes).map_err(|_| SHORT)?;
        let block = bytes.get(..block_bytes(payload_bytes)).ok_or(SHORT)?;
        if checksum(block) != crc {
            return Err("a block's checksum does not match");
        }
        Ok(Block { version, kind, salt, sequence, payload })
    }
}

impl Checkpoint {
    /// Reads a file: the full block, and the deltas behind it up to a torn one.
    pub(crate) fn decode(file: &[u8]) -> Result<Checkpoint, CheckpointError> {
        // Before the checksum: a later version may compute it otherwise, and deserves the clearer message.
        if let (Some(magic), Some(version)) = (file.first_chunk::<4>(), file.get(4..6))
            && *magic == MAGIC.to_be_bytes()
            && let found = u16::from_be_bytes([version[0], version[1]])
            && found > VERSION
        {
            return Err(CheckpointError::Newer { found });
        }
        let damaged = |position: usize| move |reason| CheckpointError::Damaged { position: position as u64, reason };
        let first = Block::parse(file).map_err(damaged(0))?;
        if (first.version, first.kind, first.sequence) != (VERSION, FULL, 0) {
            return Err(damaged(0)("the file does not begin with a full block"));
        }
        let mut merged = Merged::default();
        merged.apply(Checkpoint::decode_payload(first.payload).map_err(|error| damaged(0)(error.0))?);
        let mut sequence = 1;
        let mut position = block_bytes(first.payload.len());
        while position < file.len() {
            match delta(file, position, first.salt) {
                Ok(block) if block.sequence == sequence => {
                    let payload = Checkpoint::decode_payload(block.payload);
                    merged.apply(payload.map_err(|error| damaged(position)(error.0))?);
                    position += block_bytes(block.payload.len());
                    sequence += 1;
                }
                bad => {
                    let follows = |later| delta(file, later, first.salt).is_ok_and(|block| block.sequence > sequence);
                    let reason = bad.err().unwrap_or("a block is not the next in order");
                    if (position..file.len()).step_by(ALIGN).any(follows) {
                        return Err(damaged(position)(reason));
                    }
                    // Its sync never returned.
                    break;
                }
            }
        }
        Ok(merged.finish())
    }
}

/// The delta of this file that stands at a position.
fn delta(file: &[u8], position: usize, salt: u64) -> Result<Block<'_>, &'static str> {
    let block = Block::parse(&file[position..])?;
    if (block.version, block.kind, block.salt) != (VERSION, DELTA, salt) {
        return Err("a block is of another file");
    }
    Ok(block)
}

/// What the blocks say together.
#[derive(Default)]
struct Merged {
    last: Checkpoint,
    partitions: BTreeMap<PartitionId, PartitionState>,
}

impl Merged {
    fn apply(&mut self, mut block: Checkpoint) {
        self.partitions.retain(|id, _| block.deleted.iter().all(|topic| topic.id != id.topic));
        self.partitions.extend(block.partitions.drain(..).map(|state| (state.id, state)));
        self.last = block;
    }

    fn finish(self) -> Checkpoint {
        Checkpoint { partitions: self.partitions.into_values().collect(), ..self.last }
    }
}

#[cfg(test)]
mod tests {
    use goulette_env::sim::SimDisk;
    use goulette_types::{Offset, PartitionIndex, TopicId};

    use super::*;
    use crate::checkpoint::{DeletedTopic, tests::checkpoint};

    const SALT: u64 = 7;

    /// A delta with one of the partitions, which has grown to `next`.
    fn grown(index: u32, next: u64) -> Checkpoint {
        let mut delta = checkpoint();
        delta.partitions.retain(|state| state.id.index == PartitionIndex(index));
        delta.partitions[0].next = Offset(next);
        delta.deleted.clear();
        delta
    }

    /// A full block, and two deltas.
    fn file() -> Vec<u8> {
        let deltas = [(1, grown(0, 1_000)), (2, grown(1, 2_000))];
        let deltas = deltas.iter().flat_map(|(sequence, delta)| encode_block(DELTA, SALT, *sequence, delta));
        encode_block(FULL, SALT, 0, &checkpoint()).into_iter().chain(deltas).collect()
    }

    fn ends(file: &[u8]) -> Result<Vec<u64>, CheckpointError> {
        Ok(Checkpoint::decode(file)?.partitions.iter().map(|state| state.next.0).collect())
    }

    #[test]
    fn deltas_replace_what_they_name_and_keep_the_rest() {
        let mut file = file();
        assert_eq!(file.len(), 3 * ALIGN);
        assert_eq!(ends(&file[..ALIGN]), Ok(vec![900, 900]));
        assert_eq!(ends(&file[..2 * ALIGN]), Ok(vec![1_000, 900]));
        assert_eq!(ends(&file), Ok(vec![1_000, 2_000]));
        let topic = TopicId(77);
        let deleted = vec![DeletedTopic { id: topic, name: "orders".parse().unwrap() }];
        let gone = Checkpoint { deleted, partitions: Vec::new(), ..checkpoint() };
        file.extend(encode_block(DELTA, SALT, 3, &gone));
        assert_eq!(ends(&file), Ok(vec![]));
        assert_eq!(Checkpoint::decode(&file).unwrap().deleted[0].id, topic);
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut file = file();
        file[5] = 9;
        assert_eq!(Checkpoint::decode(&file), Err(CheckpointError::Newer { found: 9 }));
    }

    #[test]
    fn a_bad_last_block_never_happened_and_any_other_is_damage() {
        let file = file();
        for (block, expected) in [(0, None), (1, None), (2, Some(vec![1_000, 900]))] {
            let at = block * ALIGN;
            for changed in at..at + ALIGN {
                let mut file = file.clone();
                file[changed] ^= 0x40;
                match (ends(&file), &expected) {
                    (Ok(found), Some(expected)) => assert_eq!(found, *expected, "byte {changed}"),
                    (Err(CheckpointError::Damaged { position, .. }), None) => assert_eq!(position, at as u64),
                    // The version's bytes.
                    (Err(CheckpointError::Newer { .. }), None) if changed < 6 => {}
                    (found, _) => panic!("byte {changed}: {found:?}"),
                }
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_ends_with_its_last_whole_block() {
        let file = file();
        for cut in 0..file.len() {
            match ends(&file[..cut]) {
                Err(_) => assert!(cut < ALIGN, "cut at {cut}"),
                Ok(found) => assert!(cut >= ALIGN && found.len() == 2, "cut at {cut}"),
            }
        }
    }

    #[test]
    fn blocks_of_another_file_or_out_of_order_do_not_count() {
        let full = encode_block(FULL, SALT, 0, &checkpoint());
        let with = |block: Vec<u8>| ends(&[full.clone(), block].concat());
        assert_eq!(with(encode_block(DELTA, SALT + 1, 1, &grown(0, 1_000))), Ok(vec![900, 900]));
        assert!(with(encode_block(DELTA, SALT, 2, &grown(0, 1_000))).is_err(), "the first delta is missing");
        assert_eq!(with(encode_block(FULL, SALT, 1, &grown(0, 1_000))), Ok(vec![900, 900]));
        assert!(ends(&encode_block(DELTA, SALT, 0, &checkpoint())).is_err());
    }

    #[test]
    fn a_file_is_written_anew_when_its_deltas_outgrow_it() {
        let disk = SimDisk::from_seed(1);
        let env = disk.env();
        disk.create_dir_all(Path::new("/data")).unwrap();
        let mut file = CheckpointFile::default();
        let mut fulls = Vec::new();
        for count in 0..200u64 {
            let full = file.wants_full();
            if full {
                fulls.push(count);
            }
            file.write(&disk, &*env.random, Path::new("/data"), &grown(0, 900 + count), full).unwrap();
            let bytes = &disk.files()[Path::new("/data/checkpoint")];
            assert_eq!(ends(bytes), Ok(vec![900 + count]));
        }
        assert_eq!(fulls, [0, 65, 130, 195]);
    }
}

//! The checkpoint: all that recovery needs to know of the log up to one WAL position, in one file.
//!
//! The file is a sequence of blocks. Today it holds one full block, written anew each time; the block's kind leaves room
//! for blocks that only carry the partitions that changed. Layout: `docs/formats/checkpoint.md`.

use std::collections::VecDeque;

use goulette_types::{
    GroupName, LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Timestamp, TopicId,
    TopicName,
};
use goulette_wal::WalPosition;

use crate::{
    codec::{Reader, Short, put_text},
    epochs::EpochStart,
    producers::{ProducerState, StoredBatch},
};

const MAGIC: u32 = u32::from_be_bytes(*b"GLCK");
/// The version written, and the highest that is read.
pub(crate) const VERSION: u16 = 1;
const FULL: u16 = 1;
/// Magic, version, kind, payload bytes and CRC.
const BLOCK_HEAD_BYTES: usize = 16;

/// The state of all partitions when the WAL ended at `position`, or a little later: never earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Recovery replays the WAL from here; none before there is a WAL.
    pub(crate) position: Option<WalPosition>,
    /// When it was taken.
    pub(crate) taken: Timestamp,
    /// Appends behind it may be acknowledged before they are synced: the machine's boot id, empty if unknown. None
    /// under the policy `always`, and after a clean close.
    pub(crate) relaxed: Option<String>,
    pub(crate) partitions: Vec<PartitionState>,
    /// Topics whose deletion is durable, but whose files may still be there.
    pub(crate) deleted: Vec<DeletedTopic>,
}

/// A topic that is gone, files excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeletedTopic {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
}

/// One partition as of `next`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionState {
    pub(crate) id: PartitionId,
    pub(crate) topic: TopicName,
    /// First kept offset.
    pub(crate) start: Offset,
    /// First unwritten offset.
    pub(crate) next: Offset,
    /// What the replicas were last known to hold; 0 until replication tells.
    pub(crate) committed: Offset,
    /// The number of the next fragment.
    pub(crate) fragment_next: u32,
    /// Oldest first; all but the last one are sealed.
    pub(crate) fragments: Vec<FragmentState>,
    pub(crate) epochs: Vec<EpochStart>,
    pub(crate) producers: Vec<ProducerState>,
    pub(crate) positions: Vec<(GroupName, Offset)>,
}

/// One fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentState {
    /// Unique in the partition.
    pub(crate) number: u32,
    pub(crate) base: Offset,
    /// Valid bytes; the file may be longer.
    pub(crate) length: u32,
    pub(crate) sealed: bool,
    /// When its first batch was appended, by the broker's wall clock.
    pub(crate) first_append: Timestamp,
    /// When its last batch was appended.
    pub(crate) last_append: Timestamp,
    /// The latest timestamp of a record.
    pub(crate) max_timestamp: Timestamp,
}

/// Why bytes are not a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("version {found} is newer than {VERSION}")]
    Newer { found: u16 },
    #[error("{0}")]
    Damaged(&'static str),
}

impl From<Short> for CheckpointError {
    fn from(_: Short) -> Self {
        CheckpointError::Damaged("a field reaches past the end, or is no name")
    }
}

impl Checkpoint {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; BLOCK_HEAD_BYTES];
        self.encode_payload(&mut out);
        let payload_bytes = u32::try_from(out.len() - BLOCK_HEAD_BYTES).expect("a checkpoint is smaller than 4 GiB");
        out[..4].copy_from_slice(&MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&VERSION.to_be_bytes());
        out[6..8].copy_from_slice(&FULL.to_be_bytes());
        out[8..12].copy_from_slice(&payload_bytes.to_be_bytes());
        let crc = checksum(&out);
        out[12..16].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(file: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let mut reader = Reader::new(file);
        if reader.u32()? != MAGIC {
            return Err(CheckpointError::Damaged("it does not begin with GLCK"));
        }
        // Before the checksum: a later version may compute it otherwise, and deserves the clearer message.
        let version = reader.u16()?;
        if version > VERSION {
            return Err(CheckpointError::Newer { found: version });
        }
        let kind = reader.u16()?;
        let payload_bytes = reader.u32()? as usize;
        let crc = reader.u32()?;
        if version == 0 || kind != FULL || payload_bytes != reader.rest().len() {
            return Err(CheckpointError::Damaged("it is not one full block"));
        }
        if checksum(file) != crc {
            return Err(CheckpointError::Damaged("its checksum does not match"));
        }
        let checkpoint = decode_payload(&mut reader)?;
        if !reader.is_empty() {
            return Err(CheckpointError::Damaged("bytes are left behind the last field"));
        }
        Ok(checkpoint)
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        // Segments are numbered from 1.
        let position = self.position.unwrap_or(WalPosition { segment: 0, offset: 0 });
        put_u64(out, position.segment);
        put_u32(out, position.offset);
        put_i64(out, self.taken.0);
        out.push(self.relaxed.is_some().into());
        put_text(out, self.relaxed.as_deref().unwrap_or_default());
        put_count(out, self.deleted.len());
        for topic in &self.deleted {
            out.extend_from_slice(&topic.id.to_bytes());
            put_text(out, topic.name.as_str());
        }
        put_count(out, self.partitions.len());
        for partition in &self.partitions {
            partition.encode(out);
        }
    }
}

/// The CRC-32C of a block, its own field left out.
fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[BLOCK_HEAD_BYTES..])
}

fn decode_payload(reader: &mut Reader<'_>) -> Result<Checkpoint, CheckpointError> {
    let position = WalPosition { segment: reader.u64()?, offset: reader.u32()? };
    let position = Some(position).filter(|position| position.segment > 0);
    let taken = Timestamp(reader.i64()?);
    let (is_relaxed, boot) = (reader.u8()? != 0, reader.text()?.to_owned());
    let mut deleted = Vec::new();
    for _ in 0..reader.count(18)? {
        let id = TopicId(reader.u128()?);
        deleted.push(DeletedTopic { id, name: name(reader)? });
    }
    let mut partitions = Vec::new();
    for _ in 0..reader.count(66)? {
        partitions.push(PartitionState::decode(reader)?);
    }
    Ok(Checkpoint { position, taken, relaxed: is_relaxed.then_some(boot), partitions, deleted })
}

impl PartitionState {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.topic.to_bytes());
        put_u32(out, self.id.index.0);
        put_text(out, self.topic.as_str());
        put_u64(out, self.start.0);
        put_u64(out, self.next.0);
        put_u64(out, self.committed.0);
        put_u32(out, self.fragment_next);
        put_count(out, self.fragments.len());
        for fragment in &self.fragments {
            fragment.encode(out);
        }
        put_count(out, self.epochs.len());
        for entry in &self.epochs {
            put_u32(out, entry.epoch.0);
            put_u64(out, entry.start.0);
        }
        put_count(out, self.producers.len());
        for producer in &self.producers {
            encode_producer(producer, out);
        }
        put_count(out, self.positions.len());
        for (group, offset) in &self.positions {
            put_text(out, group.as_str());
            put_u64(out, offset.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let id = PartitionId { topic: TopicId(reader.u128()?), index: PartitionIndex(reader.u32()?) };
        let topic = name(reader)?;
        let (start, next, committed) = (offset(reader)?, offset(reader)?, offset(reader)?);
        let fragment_next = reader.u32()?;
        let mut fragments = Vec::new();
        for _ in 0..reader.count(46)? {
            fragments.push(FragmentState::decode(reader)?);
        }
        let mut epochs = Vec::new();
        for _ in 0..reader.count(12)? {
            epochs.push(EpochStart { epoch: LeaderEpoch(reader.u32()?), start: offset(reader)? });
        }
        if epochs.last().is_some_and(|last| last.start >= next) {
            return Err(CheckpointError::Damaged("an epoch begins behind its partition's end"));
        }
        let mut producers = Vec::new();
        for _ in 0..reader.count(38)? {
            producers.push(decode_producer(reader)?);
        }
        let mut positions = Vec::new();
        for _ in 0..reader.count(10)? {
            positions.push((name(reader)?, offset(reader)?));
        }
        Ok(Self { id, topic, start, next, committed, fragment_next, fragments, epochs, producers, positions })
    }
}

const SEALED: u8 = 1;

impl FragmentState {
    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.number);
        put_u64(out, self.base.0);
        put_u64(out, self.length.into());
        // Flags, and a state that only quarantine will use.
        out.extend_from_slice(&[if self.sealed { SEALED } else { 0 }, 0]);
        put_i64(out, self.first_append.0);
        put_i64(out, self.last_append.0);
        put_i64(out, self.max_timestamp.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let (number, base, length) = (reader.u32()?, offset(reader)?, reader.u64()?);
        let (flags, state) = (reader.u8()?, reader.u8()?);
        if flags & !SEALED != 0 || state != 0 {
            return Err(CheckpointError::Damaged("a fragment has an unknown state"));
        }
        Ok(Self {
            number,
            base,
            length: u32::try_from(length).map_err(|_| CheckpointError::Damaged("a fragment is longer than 4 GiB"))?,
            sealed: flags & SEALED != 0,
            first_append: Timestamp(reader.i64()?),
            last_append: Timestamp(reader.i64()?),
            max_timestamp: Timestamp(reader.i64()?),
        })
    }
}

fn encode_producer(producer: &ProducerState, out: &mut Vec<u8>) {
    let epoch = producer.batches.back().map_or(0, |stored| stored.epoch.0);
    put_u64(out, producer.id.0);
    out.extend_from_slice(&epoch.to_be_bytes());
    put_i64(out, producer.last_used.0);
    put_count(out, producer.batches.len());
    for stored in &producer.batches {
        put_u32(out, stored.base_sequence);
        put_u32(out, stored.last_sequence);
        put_u64(out, stored.base_offset.0);
    }
}

fn decode_producer(reader: &mut Reader<'_>) -> Result<ProducerState, CheckpointError> {
    let id = ProducerId(reader.u64()?);
    let epoch = ProducerEpoch(reader.u16()?);
    let last_used = Timestamp(reader.i64()?);
    let mut batches = VecDeque::new();
    for _ in 0..reader.count(16)? {
        let (base_sequence, last_sequence) = (reader.u32()?, reader.u32()?);
        batches.push_back(StoredBatch { epoch, base_sequence, last_sequence, base_offset: offset(reader)? });
    }
    Ok(ProducerState { id, last_used, batches })
}

fn name<N: std::str::FromStr>(reader: &mut Reader<'_>) -> Result<N, Short> {
    reader.text()?.parse().map_err(|_| Short)
}

fn offset(reader: &mut Reader<'_>) -> Result<Offset, CheckpointError> {
    let offset = Offset(reader.u64()?);
    if offset > Offset::MAX {
        return Err(CheckpointError::Damaged("an offset is beyond 2^63"));
    }
    Ok(offset)
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("a checkpoint holds fewer than 2^32 of anything"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint() -> Checkpoint {
        let stored = |base_sequence, last_sequence, offset| StoredBatch {
            epoch: ProducerEpoch(4),
            base_sequence,
            last_sequence,
            base_offset: Offset(offset),
        };
        let fragment = |number, base, sealed| FragmentState {
            number,
            base: Offset(base),
            length: 4711,
            sealed,
            first_append: Timestamp(-5),
            last_append: Timestamp(1_700_000_000_000),
            max_timestamp: Timestamp(i64::MIN),
        };
        let partition = |index| PartitionState {
            id: PartitionId { topic: TopicId(77), index: PartitionIndex(index) },
            topic: "orders".parse().unwrap(),
            start: Offset(3),
            next: Offset(900),
            committed: Offset(0),
            fragment_next: 8,
            fragments: vec![fragment(6, 3, true), fragment(7, 500, false)],
            epochs: vec![EpochStart { epoch: LeaderEpoch(2), start: Offset(3) }],
            producers: vec![ProducerState {
                id: ProducerId(9),
                last_used: Timestamp(12),
                batches: VecDeque::from([stored(0, 9, 3), stored(10, 10, 13)]),
            }],
            positions: vec![("readers".parse().unwrap(), Offset(44))],
        };
        Checkpoint {
            position: Some(WalPosition { segment: 12, offset: 4096 }),
            taken: Timestamp(99),
            relaxed: Some("boot".into()),
            partitions: vec![partition(0), partition(1)],
            deleted: vec![DeletedTopic { id: TopicId(5), name: "gone".parse().unwrap() }],
        }
    }

    #[test]
    fn a_checkpoint_reads_back() {
        for checkpoint in [checkpoint(), Checkpoint::default()] {
            assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut file = checkpoint().encode();
        file[5] = 9;
        assert_eq!(Checkpoint::decode(&file), Err(CheckpointError::Newer { found: 9 }));
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let file = checkpoint().encode();
        for changed in 0..file.len() {
            let mut file = file.clone();
            file[changed] ^= 0x40;
            assert!(Checkpoint::decode(&file).is_err(), "byte {changed}");
            assert!(Checkpoint::decode(&file[..changed]).is_err(), "cut at {changed}");
        }
    }

    #[test]
    fn an_epoch_behind_its_partitions_end_is_refused() {
        let mut checkpoint = checkpoint();
        checkpoint.partitions[1].epochs[0].start = Offset(900);
        let refused = Checkpoint::decode(&checkpoint.encode());
        assert_eq!(refused, Err(CheckpointError::Damaged("an epoch begins behind its partition's end")));
    }

    proptest! {
        /// With the checksum put right, so that the fields behind it are reached.
        #[test]
        fn rubbish_never_panics(at in 16usize..400, byte in any::<u8>(), rubbish in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut file = checkpoint().encode();
            let at = at.min(file.len());
            if let Some(target) = file.get_mut(at) {
                *target = byte;
            }
            file.splice(at..(at + rubbish.len()).min(file.len()), rubbish);
            let payload_bytes = (file.len() - BLOCK_HEAD_BYTES) as u32;
            file[8..12].copy_from_slice(&payload_bytes.to_be_bytes());
            let crc = checksum(&file);
            file[12..16].copy_from_slice(&crc.to_be_bytes());
            let _ = Checkpoint::decode(&file);
        }
    }
}

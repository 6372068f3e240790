//! The checkpoint: all that recovery needs to know of the log up to one WAL position.
//!
//! Here are its contents and their bytes; how they stand in the file is [`checkpoint_file`](crate::checkpoint_file)'s
//! affair. Layout: `docs/formats/checkpoint.md`.

use std::collections::VecDeque;

use goulette_types::{
    GroupName, LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Timestamp, TopicId,
    TopicName,
};
use goulette_wal::WalPosition;

use crate::{
    checkpoint_file::VERSION,
    codec::{Reader, Short, put_text},
    epochs::EpochStart,
    producers::{ProducerState, StoredBatch},
};

/// The state of partitions when the WAL ended at `position`, or a little later: never earlier. Of all of them, or in a delta
/// of those that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Recovery replays the WAL from here; none before there is a WAL.
    pub(crate) position: Option<WalPosition>,
    /// The WAL that the position is of; none before there is one.
    pub(crate) wal: Option<u128>,
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

/// Why a file is not a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("version {found} is newer than {VERSION}")]
    Newer { found: u16 },
    #[error("{reason} (byte {position})")]
    Damaged { position: u64, reason: &'static str },
}

/// Why bytes whose checksum is right are not what a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<Short> for Malformed {
    fn from(_: Short) -> Self {
        Malformed("a field reaches past the end, or is no name")
    }
}

impl Checkpoint {
    /// Appends a block's payload.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        // Segments are numbered from 1.
        let position = self.position.unwrap_or(WalPosition { segment: 0, offset: 0 });
        put_u64(out, position.segment);
        put_u32(out, position.offset);
        out.extend_from_slice(&self.wal.unwrap_or(0).to_be_bytes());
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

    /// Reads what [`encode`](Self::encode) appended.
    pub(crate) fn decode_payload(payload: &[u8]) -> Result<Checkpoint, Malformed> {
        let mut reader = Reader::new(payload);
        let checkpoint = decode_payload(&mut reader)?;
        if !reader.is_empty() {
            return Err(Malformed("bytes are left behind the last field"));
        }
        Ok(checkpoint)
    }
}

fn decode_payload(reader: &mut Reader<'_>) -> Result<Checkpoint, Malformed> {
    let position = WalPosition { segment: reader.u64()?, offset: reader.u32()? };
    let position = Some(position).filter(|position| position.segment > 0);
    let wal = Some(reader.u128()?).filter(|&wal| wal != 0);
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
    Ok(Checkpoint { position, wal, taken, relaxed: is_relaxed.then_some(boot), partitions, deleted })
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

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = PartitionId { topic: TopicId(reader.u128()?), index: PartitionIndex(reader.u32()?) };
        let topic = name(reader)?;
        let (start, next, committed) = (offset(reader)?, offset(reader)?, offset(reader)?);
        let fragment_next = reader.u32()?;
        let mut fragments = Vec::new();
        for _ in 0..reader.count(46)? {
            fragments.push(FragmentState::decode(reader)?);
        }
        let in_order = |two: &[FragmentState]| two[0].number < two[1].number && two[0].base < two[1].base;
        if !fragments.windows(2).all(in_order) || fragments.last().is_some_and(|last| last.number >= fragment_next) {
            return Err(Malformed("the fragments of a partition are not in order"));
        }
        if start > next || fragments.last().is_some_and(|last| last.base > next) {
            return Err(Malformed("a partition starts, or a fragment begins, behind the partition's end"));
        }
        let mut epochs = Vec::new();
        for _ in 0..reader.count(12)? {
            epochs.push(EpochStart { epoch: LeaderEpoch(reader.u32()?), start: offset(reader)? });
        }
        if epochs.last().is_some_and(|last| last.start >= next) {
            return Err(Malformed("an epoch begins behind its partition's end"));
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

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (number, base, length) = (reader.u32()?, offset(reader)?, reader.u64()?);
        let (flags, state) = (reader.u8()?, reader.u8()?);
        if flags & !SEALED != 0 || state != 0 {
            return Err(Malformed("a fragment has an unknown state"));
        }
        Ok(Self {
            number,
            base,
            length: u32::try_from(length).map_err(|_| Malformed("a fragment is longer than 4 GiB"))?,
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

fn decode_producer(reader: &mut Reader<'_>) -> Result<ProducerState, Malformed> {
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

fn offset(reader: &mut Reader<'_>) -> Result<Offset, Malformed> {
    let offset = Offset(reader.u64()?);
    if offset > Offset::MAX {
        return Err(Malformed("an offset is beyond 2^63"));
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
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn checkpoint() -> Checkpoint {
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
            wal: Some(0x1122_3344),
            taken: Timestamp(99),
            relaxed: Some("boot".into()),
            partitions: vec![partition(0), partition(1)],
            deleted: vec![DeletedTopic { id: TopicId(5), name: "gone".parse().unwrap() }],
        }
    }

    fn encoded(checkpoint: &Checkpoint) -> Vec<u8> {
        let mut payload = Vec::new();
        checkpoint.encode(&mut payload);
        payload
    }

    #[test]
    fn a_payload_reads_back_and_none_that_is_cut_does() {
        for checkpoint in [checkpoint(), Checkpoint::default()] {
            let payload = encoded(&checkpoint);
            assert_eq!(Checkpoint::decode_payload(&payload), Ok(checkpoint));
            for cut in 0..payload.len() {
                assert!(Checkpoint::decode_payload(&payload[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn an_epoch_behind_its_partitions_end_is_refused() {
        let mut checkpoint = checkpoint();
        checkpoint.partitions[1].epochs[0].start = Offset(900);
        let refused = Checkpoint::decode_payload(&encoded(&checkpoint));
        assert_eq!(refused, Err(Malformed("an epoch begins behind its partition's end")));
    }

    #[test]
    fn fragments_out_of_order_are_refused() {
        let refused = |damage: &dyn Fn(&mut PartitionState)| {
            let mut checkpoint = checkpoint();
            damage(&mut checkpoint.partitions[1]);
            Checkpoint::decode_payload(&encoded(&checkpoint)).is_err()
        };
        assert!(refused(&|partition| partition.fragments.reverse()));
        assert!(refused(&|partition| partition.fragments[1].number = 6));
        assert!(refused(&|partition| partition.fragments[1].base = Offset(901)));
        assert!(refused(&|partition| partition.fragment_next = 7));
        assert!(refused(&|partition| partition.start = Offset(901)));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(at in 0usize..400, byte in any::<u8>(), rubbish in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut payload = encoded(&checkpoint());
            let at = at.min(payload.len() - 1);
            payload[at] = byte;
            payload.splice(at..(at + rubbish.len()).min(payload.len()), rubbish);
            let _ = Checkpoint::decode_payload(&payload);
        }
    }
}

//! What the storage engine writes to its WAL.
//!
//! Every entry begins with the same [`Head`], then what its kind adds. Layout: `docs/formats/wal-entries.md`.

use goulette_types::{LeaderEpoch, Offset, PartitionId, PartitionIndex, Timestamp, TopicId};

use crate::codec::{Reader, Short};

/// What an entry says. A layout that changes gets a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The batch behind the head belongs at the head's place in the fragment.
    Append = 1,
    /// The partition exists; behind the head the topic's name.
    CreatePartition = 2,
    /// The topic and all its partitions are gone; behind the head the topic's name.
    DeleteTopic = 3,
    /// A group's position; behind the head the group's name.
    GroupPosition = 4,
    /// The batches whose headers stand behind the head are in their fragment already, and durable: a
    /// [`Reference`](crate::reference::Reference).
    Reference = 5,
    /// The partition ends earlier, at the head's offset, position and fragment; behind the head the least number that a
    /// fragment may have from now on.
    Truncate = 6,
    /// The partition starts later, and its oldest fragments go; behind the head the base offset of the newest of them.
    RemoveFragments = 7,
    // 8 is reserved.
    /// The partition is empty and starts at the head's offset; behind the head the least number that a fragment may have
    /// from now on.
    Restart = 9,
}

impl Kind {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Kind::Append,
            2 => Kind::CreatePartition,
            3 => Kind::DeleteTopic,
            4 => Kind::GroupPosition,
            5 => Kind::Reference,
            6 => Kind::Truncate,
            7 => Kind::RemoveFragments,
            9 => Kind::Restart,
            _ => return None,
        })
    }
}

/// What every entry names; fields without a meaning for its kind are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) partition: PartitionId,
    /// The fragment's number.
    pub(crate) fragment: u32,
    /// The byte in the fragment.
    pub(crate) position: u64,
    /// The batch's base offset; for a partition that is new or starts later its start; for a group its position.
    pub(crate) offset: Offset,
    pub(crate) epoch: LeaderEpoch,
    /// When it was appended, by the broker's wall clock.
    pub(crate) appended: Timestamp,
}

impl Head {
    pub(crate) const BYTES: usize = 52;

    /// A head that names only a partition.
    pub(crate) fn of(partition: PartitionId, offset: Offset, appended: Timestamp) -> Self {
        Self { partition, fragment: 0, position: 0, offset, epoch: LeaderEpoch(0), appended }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.partition.topic.to_bytes());
        bytes[16..20].copy_from_slice(&self.partition.index.0.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.fragment.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.position.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.offset.0.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[44..52].copy_from_slice(&self.appended.0.to_be_bytes());
        bytes
    }

    /// Reads the head; the rest of the entry is left in the reader.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Short> {
        Ok(Self {
            partition: PartitionId { topic: TopicId(reader.u128()?), index: PartitionIndex(reader.u32()?) },
            fragment: reader.u32()?,
            position: reader.u64()?,
            offset: Some(Offset(reader.u64()?)).filter(|&offset| offset <= Offset::MAX).ok_or(Short)?,
            epoch: LeaderEpoch(reader.u32()?),
            appended: Timestamp(reader.i64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let head = Head {
            partition: PartitionId { topic: TopicId(u128::MAX - 3), index: PartitionIndex(7) },
            fragment: 9,
            position: 1 << 33,
            offset: Offset(1 << 40),
            epoch: LeaderEpoch(11),
            appended: Timestamp(-1),
        };
        let bytes = head.to_bytes();
        assert_eq!(Head::read(&mut Reader::new(&bytes)), Ok(head));
        for cut in 0..bytes.len() {
            assert_eq!(Head::read(&mut Reader::new(&bytes[..cut])), Err(Short));
        }
    }

    #[test]
    fn each_kind_has_its_code() {
        let kinds = [
            Kind::Append,
            Kind::CreatePartition,
            Kind::DeleteTopic,
            Kind::GroupPosition,
            Kind::Reference,
            Kind::Truncate,
            Kind::RemoveFragments,
            Kind::Restart,
        ];
        for kind in kinds {
            assert_eq!(Kind::from_code(kind as u8), Some(kind));
        }
        for reserved in [0, 8, 255] {
            assert_eq!(Kind::from_code(reserved), None);
        }
    }
}

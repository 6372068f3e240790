//! An entry: what a caller appends, and its header on disk.
//!
//! The header has a CRC of its own, seeded with the segment's salt and the entry's position, and holds the CRC of the
//! payload. So a header left over from an earlier use of the same blocks never passes; a length is believed (and
//! memory taken for it) only once it is proven; and the payload's CRC is computed by the appending thread, before
//! anyone knows the position. Layout: `docs/formats/wal.md`.

use bytes::Bytes;

use crate::segment::Seed;

/// Bytes of an entry's header.
pub(crate) const ENTRY_HEADER_BYTES: usize = 24;
/// Entries begin at multiples of this.
pub(crate) const ENTRY_ALIGN: usize = 8;

/// The entry is the last one of its group.
pub(crate) const FLAG_LAST: u8 = 1;
/// The entry is the log's own: it says where the segment before ends.
pub(crate) const FLAG_LINK: u8 = 2;

/// What is appended: a kind and bytes that mean something to the caller, and a tag that comes back when it is done.
#[derive(Debug)]
pub struct Entry<T> {
    /// The caller's own distinction; the log only stores it.
    pub kind: u8,
    /// The bytes.
    pub payload: Payload,
    /// Handed back through the [`Sink`](crate::Sink), or with a refusal.
    pub tag: T,
}

/// Bytes to be written, in a few pieces: a short head that is held inline, then up to [`Payload::PARTS_MAX`] shared
/// slices that are written from where they are.
#[derive(Clone, Debug)]
pub struct Payload {
    head: [u8; Payload::HEAD_BYTES_MAX],
    head_bytes: u8,
    parts_count: u8,
    parts: [Bytes; Payload::PARTS_MAX],
}

impl Payload {
    /// Bytes that the inline head takes.
    pub const HEAD_BYTES_MAX: usize = 128;
    /// Slices behind the head.
    pub const PARTS_MAX: usize = 4;

    /// A payload that begins with `head`, which is copied.
    ///
    /// # Panics
    /// If the head is longer than [`Payload::HEAD_BYTES_MAX`].
    pub fn new(head: &[u8]) -> Self {
        let mut payload = Self {
            head: [0; Self::HEAD_BYTES_MAX],
            head_bytes: head.len() as u8,
            parts_count: 0,
            parts: [const { Bytes::new() }; Self::PARTS_MAX],
        };
        assert!(head.len() <= Self::HEAD_BYTES_MAX, "a head of {} bytes", head.len());
        payload.head[..head.len()].copy_from_slice(head);
        payload
    }

    /// The same with one slice more at the end.
    ///
    /// # Panics
    /// If there are [`Payload::PARTS_MAX`] already.
    #[must_use]
    pub fn with(mut self, part: Bytes) -> Self {
        let index = usize::from(self.parts_count);
        assert!(index < Self::PARTS_MAX, "a payload takes {} parts", Self::PARTS_MAX);
        self.parts[index] = part;
        self.parts_count += 1;
        self
    }

    /// The inline head.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_bytes)]
    }

    /// The slices behind the head, in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts[..usize::from(self.parts_count)]
    }

    /// The length of it all in bytes.
    pub fn len(&self) -> usize {
        self.head().len() + self.parts().iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// CRC-32C of the bytes.
    pub(crate) fn crc(&self) -> u32 {
        self.parts().iter().fold(crc32c::crc32c(self.head()), |crc, part| crc32c::crc32c_append(crc, part))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::new(&[]).with(bytes)
    }
}

/// An entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) payload_crc: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) group: u64,
}

impl EntryHeader {
    pub(crate) fn encode(&self, seed: Seed, offset: u32) -> [u8; ENTRY_HEADER_BYTES] {
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[12] = self.kind;
        bytes[13] = self.flags;
        bytes[16..24].copy_from_slice(&self.group.to_le_bytes());
        let crc = seed.header_crc(offset, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header, if these bytes were written as one, at this offset of this segment, in its present life.
    pub(crate) fn decode(bytes: &[u8; ENTRY_HEADER_BYTES], seed: Seed, offset: u32) -> Option<Self> {
        if u32_at(bytes, 0) != seed.header_crc(offset, &bytes[4..]) {
            return None;
        }
        Some(Self {
            payload_crc: u32_at(bytes, 4),
            payload_bytes: u32_at(bytes, 8),
            kind: bytes[12],
            flags: bytes[13],
            group: group_of(bytes),
        })
    }

    pub(crate) fn is_last(&self) -> bool {
        self.flags & FLAG_LAST != 0
    }

    pub(crate) fn is_link(&self) -> bool {
        self.flags & FLAG_LINK != 0
    }
}

/// The group number in a header that need not be one: to look before computing a CRC.
pub(crate) fn group_of(header: &[u8; ENTRY_HEADER_BYTES]) -> u64 {
    u64_at(header, 16)
}

/// Bytes that an entry takes in a segment.
pub(crate) fn stored_bytes(payload_bytes: u64) -> u64 {
    (ENTRY_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(ENTRY_ALIGN as u64)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4 bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_reads_back_at_its_own_place_only(
            payload_crc: u32, payload_bytes: u32, kind: u8, flags: u8, group: u64,
            salt: u64, segment: u64, offset: u32,
            other_salt: u64, other_segment: u64, other_offset: u32, flipped in 0_usize..ENTRY_HEADER_BYTES * 8,
        ) {
            let header = EntryHeader { payload_crc, payload_bytes, kind, flags, group };
            let seed = Seed::new(salt, segment);
            let mut bytes = header.encode(seed, offset);
            prop_assert_eq!(EntryHeader::decode(&bytes, seed, offset), Some(header));
            prop_assert_eq!(group_of(&bytes), group);
            prop_assume!(offset != other_offset && salt != other_salt && segment != other_segment);
            prop_assert_eq!(EntryHeader::decode(&bytes, seed, other_offset), None);
            prop_assert_eq!(EntryHeader::decode(&bytes, Seed::new(other_salt, segment), offset), None);
            prop_assert_eq!(EntryHeader::decode(&bytes, Seed::new(salt, other_segment), offset), None);
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert_eq!(EntryHeader::decode(&bytes, seed, offset), None);
        }

        #[test]
        fn a_payloads_crc_does_not_depend_on_its_pieces(bytes in prop::collection::vec(any::<u8>(), 0..400), a in 0_usize..400, b in 0_usize..400) {
            let mut cuts = [a.min(bytes.len()).min(Payload::HEAD_BYTES_MAX), b.min(bytes.len())];
            cuts.sort_unstable();
            let head = cuts[0].min(Payload::HEAD_BYTES_MAX);
            let whole = Bytes::from(bytes.clone());
            let payload = Payload::new(&bytes[..head]).with(whole.slice(head..cuts[1].max(head))).with(whole.slice(cuts[1].max(head)..));
            prop_assert_eq!(payload.len(), bytes.len());
            prop_assert_eq!(payload.crc(), crc32c::crc32c(&bytes));
        }
    }
}

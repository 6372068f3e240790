//! A segment file: its name, its header, its link to the segment before, and reading it without believing it.
//!
//! Layout: `docs/formats/wal.md`.

use std::io;

use bytes::Bytes;
use goulette_env::DiskFile;

use crate::entry::{ENTRY_ALIGN, ENTRY_HEADER_BYTES, EntryHeader, group_of, stored_bytes, u32_at, u64_at};

/// The version that this code writes; it reads this one only.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Groups begin at multiples of this, so that no sector of an acknowledged group is written again.
pub(crate) const GROUP_ALIGN: u32 = 4096;
/// Where the first group begins: behind the header's block.
pub(crate) const FIRST_ENTRY: u32 = 4096;
/// Bytes of the header, one sector.
pub(crate) const HEADER_BYTES: usize = 512;
/// Bytes that a link takes in a segment, entry header included.
pub(crate) const LINK_BYTES: u32 = ENTRY_HEADER_BYTES as u32 + LINK_PAYLOAD_BYTES as u32;

const LINK_PAYLOAD_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"GLTWAL\0\0";
const NAME_DIGITS: usize = 20;
/// Read at once while walking a segment.
const CHUNK_BYTES: usize = 1 << 20;

/// The name of a segment that belongs to the log.
pub fn segment_name(segment: u64) -> String {
    format!("{segment:0NAME_DIGITS$}.wal")
}

/// The name of a file that belongs to the log no more, or not yet: its bytes mean nothing, but all blocks have some.
pub(crate) fn spare_name(segment: u64) -> String {
    format!("{segment:0NAME_DIGITS$}.spare")
}

/// The name of a file whose blocks are being written for the first time. Of no use behind a crash: it may have its
/// length and not its blocks.
pub(crate) fn new_name(segment: u64) -> String {
    format!("{segment:0NAME_DIGITS$}.new")
}

/// The name of a segment behind a corruption whose loss was accepted: kept for people to look at.
pub(crate) fn lost_name(segment: u64, salt: u64) -> String {
    format!("{segment:0NAME_DIGITS$}.{salt:016x}.lost")
}

/// The number in a segment's name.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    parse_name(name, ".wal")
}

/// The number in a spare file's name.
pub(crate) fn parse_spare_name(name: &str) -> Option<u64> {
    parse_name(name, ".spare")
}

/// The number in a new file's name.
pub(crate) fn parse_new_name(name: &str) -> Option<u64> {
    parse_name(name, ".new")
}

fn parse_name(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == NAME_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Whether a segment may be so long: whole blocks, at least four, at most 1 GiB.
pub(crate) fn is_segment_length(bytes: u32) -> bool {
    (4 * GROUP_ALIGN..=1 << 30).contains(&bytes) && bytes.is_multiple_of(GROUP_ALIGN)
}

/// Makes the CRC of an entry's header depend on the segment, on its present life (the salt) and on the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(salt: u64, segment: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &segment.to_le_bytes()))
    }

    pub(crate) fn header_crc(self, offset: u32, fields: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), fields)
    }
}

/// What the first sector of a segment says. Written when the segment is prepared, never again in the same life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The log that the segment belongs to.
    pub(crate) log: u128,
    pub(crate) segment: u64,
    /// Random, fresh for each life of the file.
    pub(crate) salt: u64,
    pub(crate) segment_bytes: u32,
}

/// Why a first sector is no header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// A sound header of another version.
    Version(u32),
    /// Not a header, or not any more.
    Corrupt,
}

impl SegmentHeader {
    pub(crate) fn seed(&self) -> Seed {
        Seed::new(self.salt, self.segment)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.segment.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.salt.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let mut checked = *bytes;
        checked[12..16].fill(0);
        if bytes[..8] != MAGIC || u32_at(bytes, 12) != crc32c::crc32c(&checked) {
            return Err(HeaderError::Corrupt);
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let header = Self {
            log: u128::from(u64_at(bytes, 16)) | u128::from(u64_at(bytes, 24)) << 64,
            segment: u64_at(bytes, 32),
            salt: u64_at(bytes, 40),
            segment_bytes: u32_at(bytes, 48),
        };
        if is_segment_length(header.segment_bytes) { Ok(header) } else { Err(HeaderError::Corrupt) }
    }
}

/// Where the segment before ends: the payload of the first entry of a segment's first group. A segment without one
/// was prepared, and nothing in it was ever acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The segment before; 0 if this is the log's first.
    pub(crate) segment: u64,
    /// Its end; nothing behind this is ever read again.
    pub(crate) end: u32,
}

impl Link {
    pub(crate) fn encode(&self) -> [u8; LINK_PAYLOAD_BYTES] {
        let mut bytes = [0; LINK_PAYLOAD_BYTES];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.end.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == LINK_PAYLOAD_BYTES).then(|| Self { segment: u64_at(bytes, 0), end: u32_at(bytes, 8) })
    }
}

/// Reads a segment's entries, taking nothing on trust: a bad header, payload or length is `None`, never a panic, and
/// memory is taken only for lengths that a CRC vouches for.
pub(crate) struct SegmentReader<'a> {
    file: &'a dyn DiskFile,
    seed: Seed,
    /// What there is to read: the segment's length, or less if the file is shorter.
    bytes: u32,
    chunk: Vec<u8>,
    chunk_start: u32,
}

impl<'a> SegmentReader<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, header: &SegmentHeader) -> io::Result<Self> {
        let bytes = file.len()?.min(u64::from(header.segment_bytes)) as u32;
        Ok(Self { file, seed: header.seed(), bytes, chunk: Vec::new(), chunk_start: 0 })
    }

    /// The entry header at `offset`, if it is sound and its payload ends at or before `limit`.
    pub(crate) fn header_at(&mut self, offset: u32, limit: u32) -> io::Result<Option<EntryHeader>> {
        let limit = limit.min(self.bytes);
        if u64::from(offset) + ENTRY_HEADER_BYTES as u64 > u64::from(limit) {
            return Ok(None);
        }
        let seed = self.seed;
        let bytes = self.window(offset, ENTRY_HEADER_BYTES)?.try_into().expect("the window is a header long");
        Ok(EntryHeader::decode(bytes, seed, offset)
            .filter(|header| u64::from(offset) + stored_bytes(header.payload_bytes.into()) <= u64::from(limit)))
    }

    /// The payload of the entry whose header was found at `offset`, if it is sound.
    pub(crate) fn payload_at(&mut self, offset: u32, header: &EntryHeader) -> io::Result<Option<Bytes>> {
        let (start, bytes) = (offset + ENTRY_HEADER_BYTES as u32, header.payload_bytes as usize);
        let payload = if bytes > CHUNK_BYTES / 4 {
            // Behind what is needed of it the chunk is of no use: a large payload goes straight to its place.
            let mut payload = vec![0; bytes];
            self.file.read_exact_at(&mut payload, start.into())?;
            Bytes::from(payload)
        } else {
            Bytes::copy_from_slice(self.window(start, bytes)?)
        };
        Ok((crc32c::crc32c(&payload) == header.payload_crc).then_some(payload))
    }

    /// The link, if the segment begins with one.
    pub(crate) fn link(&mut self) -> io::Result<Option<(EntryHeader, Link)>> {
        let Some(header) = self.header_at(FIRST_ENTRY, self.bytes)? else { return Ok(None) };
        if !header.is_link() {
            return Ok(None);
        }
        let payload = self.payload_at(FIRST_ENTRY, &header)?;
        Ok(payload.and_then(|payload| Link::decode(&payload)).map(|link| (header, link)))
    }

    /// The highest group, from `group` on, of which an entry header stands at or behind `offset`; 0 if there is none.
    /// At `offset` it can be `latest` at most.
    ///
    /// Looks at every place where one may stand, not only where a group may begin: one sound header left of a later
    /// group proves that the groups before it were synced, whatever became of the rest.
    ///
    /// These are millions of places, with what another life of the file left there: among so many a CRC of 32 bits is
    /// right by chance, once in some hundred segments. So the number must fit its place: each group takes a block.
    pub(crate) fn highest_group_from(&mut self, offset: u32, group: u64, latest: u64) -> io::Result<u64> {
        let seed = self.seed;
        let mut highest = 0;
        let mut at = offset.next_multiple_of(ENTRY_ALIGN as u32);
        while u64::from(at) + ENTRY_HEADER_BYTES as u64 <= u64::from(self.bytes) {
            let window = self.window(at, ENTRY_HEADER_BYTES)?;
            let bytes: &[u8; ENTRY_HEADER_BYTES] = window.try_into().expect("the window is a header long");
            let found = group_of(bytes);
            let blocks = u64::from(at / GROUP_ALIGN - offset / GROUP_ALIGN);
            // The group first: a comparison spares the CRC of nearly all that is no header.
            if found > highest
                && (group..=latest.saturating_add(blocks)).contains(&found)
                && EntryHeader::decode(bytes, seed, at).is_some()
            {
                highest = found;
            }
            at += ENTRY_ALIGN as u32;
        }
        Ok(highest)
    }

    /// `length` bytes from `offset`, which the caller knows to lie within the segment.
    fn window(&mut self, offset: u32, length: usize) -> io::Result<&[u8]> {
        let held = self.chunk_start..self.chunk_start + self.chunk.len() as u32;
        if !(held.start <= offset && u64::from(offset) + length as u64 <= u64::from(held.end)) {
            let bytes = ((self.bytes - offset) as usize).min(CHUNK_BYTES).max(length);
            // Should the read fail, the chunk holds nothing.
            self.chunk.clear();
            let mut chunk = std::mem::take(&mut self.chunk);
            chunk.resize(bytes, 0);
            self.file.read_exact_at(&mut chunk, offset.into())?;
            (self.chunk, self.chunk_start) = (chunk, offset);
        }
        let start = (offset - self.chunk_start) as usize;
        Ok(&self.chunk[start..start + length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader =
        SegmentHeader { log: 0x0123_4567_89ab_cdef_0011_2233_4455_6677, segment: 42, salt: 7, segment_bytes: 1 << 16 };

    #[test]
    fn a_header_reads_back_and_no_flipped_bit_passes() {
        let bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(HeaderError::Corrupt), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = HEADER.encode();
        bytes[8] = 2;
        bytes[12..16].fill(0);
        let crc = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Version(2)));
    }

    #[test]
    fn only_whole_names_are_segments() {
        assert_eq!(parse_segment_name(&segment_name(17)), Some(17));
        assert_eq!(parse_spare_name(&spare_name(u64::MAX)), Some(u64::MAX));
        for name in ["17.wal", "00000000000000000017.wal.lost", "0000000000000000001x.wal", "+0000000000000000017.wal"]
        {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        assert_eq!(parse_segment_name("99999999999999999999.wal"), None, "does not fit 64 bits");
    }
}

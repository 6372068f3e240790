//! Where in a fragment to begin looking for an offset or a time.
//!
//! Both indexes are sparse: one entry for about [`INTERVAL_BYTES`] of log, or per batch if batches are larger. They are
//! kept in memory while the fragment grows and written beside it when it is sealed. Nothing depends on the files: what
//! does not check out is built anew from the fragment. Layout: `docs/formats/index.md`.

use goulette_records::{HEADER_BYTES, Header};
use goulette_types::{Offset, Timestamp};

use crate::codec::{Reader, Short};

/// Bytes of log from one entry to the next.
const INTERVAL_BYTES: u32 = 16 << 10;

const OFFSET_MAGIC: u32 = u32::from_be_bytes(*b"GLIX");
const TIME_MAGIC: u32 = u32::from_be_bytes(*b"GLTX");
const VERSION: u16 = 1;

/// Which fragment an index describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) number: u32,
    pub(crate) base: Offset,
    /// Valid bytes of the fragment.
    pub(crate) length: u32,
}

/// The offset index and the time index of one fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    describes: Described,
    /// (base offset - fragment's base offset, position) of some batches, the first one among them.
    offsets: Vec<(u32, u32)>,
    /// (timestamp, position): no batch before the position holds a later record. Both rise strictly.
    times: Vec<(Timestamp, u32)>,
    max_timestamp: Timestamp,
    /// CRC-32C over the headers of all batches, in order: it covers the fields that a batch's own CRC leaves out.
    headers_checksum: u32,
}

impl Index {
    /// The index of an empty fragment.
    pub(crate) fn new(number: u32, base: Offset) -> Self {
        Self {
            describes: Described { number, base, length: 0 },
            offsets: Vec::new(),
            times: Vec::new(),
            max_timestamp: Timestamp(i64::MIN),
            headers_checksum: 0,
        }
    }

    /// Takes note of the batch that follows those noted so far.
    pub(crate) fn note(&mut self, header: &Header, header_bytes: &[u8; HEADER_BYTES]) {
        let position = self.describes.length;
        if self.offsets.last().is_none_or(|&(_, last)| position - last >= INTERVAL_BYTES) {
            let delta = header.base_offset.since(self.describes.base);
            self.offsets.push((u32::try_from(delta).expect("fragments roll before 2^32 offsets"), position));
            match self.times.last_mut() {
                Some((time, last)) if *time == self.max_timestamp => *last = position,
                _ if position > 0 => self.times.push((self.max_timestamp, position)),
                _ => {}
            }
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.headers_checksum = crc32c::crc32c_append(self.headers_checksum, header_bytes);
        self.describes.length += header.encoded_bytes() as u32;
    }

    /// Bytes of the fragment that the index covers.
    pub(crate) fn length(&self) -> u32 {
        self.describes.length
    }

    /// Where the last indexed batch stands that begins at or before `offset`: its position and its offset.
    pub(crate) fn place_of(&self, offset: Offset) -> (u32, Offset) {
        let delta = offset.since(self.describes.base);
        self.last(self.offsets.partition_point(|&(indexed, _)| u64::from(indexed) <= delta))
    }

    /// A batch's position and offset, before which no record is as late as `time`.
    pub(crate) fn place_at(&self, time: Timestamp) -> (u32, Offset) {
        let behind = self.times.partition_point(|&(indexed, _)| indexed < time);
        let position = behind.checked_sub(1).map_or(0, |index| self.times[index].1);
        // Both have entries for the same batches, but an index that is read from a file may say anything.
        self.last(self.offsets.partition_point(|&(_, indexed)| indexed <= position))
    }

    /// The place in the last of the first `count` entries.
    fn last(&self, count: usize) -> (u32, Offset) {
        let (delta, position) = count.checked_sub(1).map_or((0, 0), |index| self.offsets[index]);
        (position, self.describes.base.plus(delta.into()))
    }

    /// The bytes of the `.index` file.
    pub(crate) fn encode_offsets(&self) -> Vec<u8> {
        self.encode(OFFSET_MAGIC, self.offsets.len(), |out| {
            for (delta, position) in &self.offsets {
                out.extend_from_slice(&delta.to_be_bytes());
                out.extend_from_slice(&position.to_be_bytes());
            }
        })
    }

    /// The bytes of the `.timeindex` file.
    pub(crate) fn encode_times(&self) -> Vec<u8> {
        self.encode(TIME_MAGIC, self.times.len(), |out| {
            for (time, position) in &self.times {
                out.extend_from_slice(&time.0.to_be_bytes());
                out.extend_from_slice(&position.to_be_bytes());
            }
        })
    }

    fn encode(&self, magic: u32, count: usize, entries: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + count * 12);
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&self.describes.number.to_be_bytes());
        out.extend_from_slice(&self.describes.base.0.to_be_bytes());
        out.extend_from_slice(&u64::from(self.describes.length).to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.headers_checksum.to_be_bytes());
        out.extend_from_slice(&(count as u32).to_be_bytes());
        entries(&mut out);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads both files; none unless they are whole and describe this very fragment.
    pub(crate) fn decode(offsets: &[u8], times: &[u8], describes: Described) -> Option<Index> {
        let mut index = Index::new(describes.number, describes.base);
        let (summary, mut entries) = open(offsets, OFFSET_MAGIC, describes)?;
        while !entries.is_empty() {
            index.offsets.push((entries.u32().ok()?, entries.u32().ok()?));
        }
        let (same, mut entries) = open(times, TIME_MAGIC, describes)?;
        while !entries.is_empty() {
            index.times.push((Timestamp(entries.i64().ok()?), entries.u32().ok()?));
        }
        index.describes = describes;
        (index.max_timestamp, index.headers_checksum) = summary;
        let rises = index.offsets.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1)
            && index.times.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1)
            && index.offsets.first().is_none_or(|&first| first == (0, 0))
            && index.offsets.last().is_none_or(|last| last.1 < describes.length)
            && index.times.last().is_none_or(|last| last.1 < describes.length);
        (same == summary && rises).then_some(index)
    }
}

/// What both files repeat: the latest timestamp and the checksum over the headers.
type Summary = (Timestamp, u32);

/// Checks all but the entries, which are left to be read.
fn open(file: &[u8], magic: u32, describes: Described) -> Option<(Summary, Reader<'_>)> {
    let (body, crc) = file.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    let read = || -> Result<Option<(Summary, Reader<'_>)>, Short> {
        let mut reader = Reader::new(body);
        let known = reader.u32()? == magic && reader.u16()? == VERSION && reader.u16()? == 0;
        let same = reader.u32()? == describes.number
            && reader.u64()? == describes.base.0
            && reader.u64()? == u64::from(describes.length);
        let summary = (Timestamp(reader.i64()?), reader.u32()?);
        let count = reader.u32()? as usize;
        let entry_bytes = if magic == OFFSET_MAGIC { 8 } else { 12 };
        let whole = count.checked_mul(entry_bytes) == Some(reader.rest().len());
        Ok((known && same && whole).then_some((summary, reader)))
    };
    read().ok().flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(base_offset: u64, max_timestamp: i64, encoded_bytes: u32) -> Header {
        Header {
            base_offset: Offset(base_offset),
            batch_length: encoded_bytes - 12,
            leader_epoch: None,
            crc: 0,
            attributes: Default::default(),
            last_offset_delta: 9,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(max_timestamp),
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 10,
        }
    }

    /// Batches of ten records and `bytes` each from offset 100 on, with these latest timestamps.
    fn index(bytes: u32, times: &[i64]) -> Index {
        let mut index = Index::new(3, Offset(100));
        for (count, &time) in times.iter().enumerate() {
            let header = header(100 + 10 * count as u64, time, bytes);
            index.note(&header, &header.to_bytes());
        }
        index
    }

    #[test]
    fn an_offset_is_found_at_or_before_its_batch() {
        let index = index(10_000, &[1; 10]);
        assert_eq!(index.offsets.len(), 5, "an entry every other batch");
        assert_eq!(index.place_of(Offset(100)), (0, Offset(100)));
        assert_eq!(index.place_of(Offset(119)), (0, Offset(100)));
        assert_eq!(index.place_of(Offset(120)), (20_000, Offset(120)));
        assert_eq!(index.place_of(Offset(199)), (80_000, Offset(180)));
    }

    #[test]
    fn nothing_before_a_times_position_is_as_late() {
        let times = [5, 3, 9, 9, 4, 20, 1];
        let index = index(20_000, &times);
        for time in 0..25 {
            let (position, offset) = index.place_at(Timestamp(time));
            assert_eq!(offset, Offset(100 + u64::from(position / 20_000) * 10));
            let before = &times[..(position / 20_000) as usize];
            assert!(before.iter().all(|&earlier| earlier < time), "time {time}");
            let first = times.iter().position(|&found| found >= time).unwrap_or(times.len());
            assert!(before.len() + 1 >= first, "time {time}: no later than needed");
        }
    }

    #[test]
    fn files_read_back_and_any_changed_byte_is_noticed() {
        let index = index(20_000, &[5, 3, 9, 9, 4, 20, 1]);
        let (offsets, times) = (index.encode_offsets(), index.encode_times());
        assert_eq!(Index::decode(&offsets, &times, index.describes), Some(index.clone()));
        let other = Described { length: index.describes.length - 1, ..index.describes };
        assert_eq!(Index::decode(&offsets, &times, other), None);
        assert_eq!(Index::decode(&times, &offsets, index.describes), None);
        for changed in 0..offsets.len() {
            let mut offsets = offsets.clone();
            offsets[changed] ^= 1;
            assert_eq!(Index::decode(&offsets, &times, index.describes), None);
        }
        for cut in 0..times.len() {
            assert_eq!(Index::decode(&offsets, &times[..cut], index.describes), None);
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_be_bytes());
            bytes.splice(..4.min(bytes.len()), *b"GLIX");
            let _ = Index::decode(&bytes, &bytes, Described { number: 0, base: Offset(0), length: 0 });
        }
    }
}

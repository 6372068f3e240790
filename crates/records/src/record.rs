//! One record, and the way through the records of a batch.
//!
//! ```text
//! varint length           bytes behind this field
//! i8     attributes       unused
//! varint timestamp delta  64 bits, to the batch's base timestamp
//! varint offset delta     to the batch's base offset: the record's place in the batch
//! varint key length       -1: null; then the key
//! varint value length     -1: null; then the value
//! varint header count     then for each: varint key length, key, varint value length (-1: null), value
//! ```

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use goulette_types::{Offset, Timestamp};

use crate::{BatchError, Header, varint};

/// Bytes of the shortest record behind its length: six fields of one byte.
const BYTES_MIN: usize = 6;
/// Bytes of the shortest record header: two empty fields' lengths.
const HEADER_BYTES_MIN: usize = 2;

/// One record. Key, value and headers are slices of the batch that it came from, and keep that alive as a whole: copy
/// what is small and kept for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the broker's if the batch says so.
    pub timestamp: Timestamp,
    /// What chooses the partition; none is not the same as empty.
    pub key: Option<Bytes>,
    /// What was sent; none (a tombstone) is not the same as empty.
    pub value: Option<Bytes>,
    /// In the order in which they were added; keys may repeat.
    pub headers: Vec<RecordHeader>,
}

/// A record's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The header's name: UTF-8 by agreement, but nobody checks that on the way.
    pub key: Bytes,
    /// Its value.
    pub value: Option<Bytes>,
}

impl RecordHeader {
    /// The key as text; what is not UTF-8 in it is replaced, as Kafka's clients do.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

/// The records of a batch in order, each checked as it is reached. Ends behind the last record or the first error.
pub struct Records {
    header: Header,
    bytes: Bytes,
    at: usize,
    index: u32,
    record_bytes_max: u32,
}

impl Records {
    /// `bytes` are the records after decompression.
    pub(crate) fn new(header: Header, bytes: Bytes, record_bytes_max: u32) -> Self {
        Self { header, bytes, at: 0, index: 0, record_bytes_max }
    }

    fn read(&mut self) -> Result<Record, BatchError> {
        let body = frame(&self.bytes, self.at, self.index, self.record_bytes_max)?;
        self.at = body.end;
        let index = self.index;
        let mut fields = Fields { batch: &self.bytes, at: body.start, end: body.end };
        let record = fields.record(&self.header, index).map_err(|fault| BatchError::Record { index, fault })?;
        if index + 1 == self.header.record_count {
            end(&self.bytes, self.at, self.header.record_count)?;
        }
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.header.record_count {
            return None;
        }
        let result = self.read();
        self.index = if result.is_ok() { self.index + 1 } else { self.header.record_count };
        Some(result)
    }

    /// The upper bound is what the bytes left can hold, whatever the header states.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let stated = (self.header.record_count - self.index) as usize;
        (0, Some(stated.min((self.bytes.len() - self.at) / (BYTES_MIN + 1) + 1)))
    }
}

impl std::iter::FusedIterator for Records {}

/// Goes from length to length through `count` uncompressed records, without a look at what is in them.
pub(crate) fn walk(bytes: &[u8], count: u32, record_bytes_max: u32) -> Result<(), BatchError> {
    let mut at = 0;
    for index in 0..count {
        at = frame(bytes, at, index, record_bytes_max)?.end;
    }
    end(bytes, at, count)
}

/// Where the body of the record lies whose length stands at `at`.
#[inline]
fn frame(bytes: &[u8], at: usize, index: u32, record_bytes_max: u32) -> Result<Range<usize>, BatchError> {
    let fault = |fault| Err(BatchError::Record { index, fault });
    if at == bytes.len() {
        return fault("is missing");
    }
    let Some((length, prefix)) = varint::read_32(&bytes[at..]) else {
        return fault("has no valid length");
    };
    let start = at + prefix;
    match usize::try_from(length) {
        Ok(length) if length < BYTES_MIN => fault("is shorter than a record can be"),
        Ok(length) if length > record_bytes_max as usize => {
            Err(BatchError::RecordTooLarge { index, bytes: length as u64, bytes_max: record_bytes_max })
        }
        Ok(length) if length > bytes.len() - start => fault("is longer than the bytes left"),
        Ok(length) => Ok(start..start + length),
        Err(_) => fault("has a negative length"),
    }
}

fn end(bytes: &[u8], at: usize, count: u32) -> Result<(), BatchError> {
    match bytes.len() - at {
        0 => Ok(()),
        left => Err(BatchError::Trailing { count, bytes: left }),
    }
}

/// Reads the fields of one record, which may not reach beyond its end.
struct Fields<'a> {
    batch: &'a Bytes,
    at: usize,
    end: usize,
}

impl Fields<'_> {
    fn record(&mut self, batch: &Header, index: u32) -> Result<Record, &'static str> {
        self.at += 1; // the attributes, which nobody has given a meaning; `frame` saw to it that they exist
        let (timestamp_delta, length) = varint::read_64(self.left()).ok_or("has no valid timestamp delta")?;
        self.at += length;
        if self.varint("has no valid offset delta")? != index as i32 {
            return Err("has another offset delta than its place in the batch");
        }
        let key = self.bytes("has no valid key length", "has a key that is longer than the record")?;
        let value = self.bytes("has no valid value length", "has a value that is longer than the record")?;
        let headers = self.headers()?;
        if self.at != self.end {
            return Err("is longer than its fields");
        }
        let timestamp = if batch.attributes.is_log_append_time() {
            batch.max_timestamp
        } else {
            // Wraps as the builder's difference does, so that every pair of times is stored exactly.
            Timestamp(batch.base_timestamp.0.wrapping_add(timestamp_delta))
        };
        Ok(Record { offset: batch.base_offset.plus(index.into()), timestamp, key, value, headers })
    }

    fn headers(&mut self) -> Result<Vec<RecordHeader>, &'static str> {
        let count = self.varint("has no valid header count")?;
        let count = usize::try_from(count).map_err(|_| "has a negative header count")?;
        if count > self.left().len() / HEADER_BYTES_MIN {
            return Err("has more headers than bytes for them");
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let long = "has a header that is longer than the record";
            let key = self.bytes("has no valid header key length", long)?.ok_or("has a header without a key")?;
            let value = self.bytes("has no valid header value length", long)?;
            headers.push(RecordHeader { key, value });
        }
        Ok(headers)
    }

    fn left(&self) -> &[u8] {
        &self.batch[self.at..self.end]
    }

    #[inline]
    fn varint(&mut self, fault: &'static str) -> Result<i32, &'static str> {
        let (value, length) = varint::read_32(self.left()).ok_or(fault)?;
        self.at += length;
        Ok(value)
    }

    /// A length and as many bytes; none for -1.
    fn bytes(&mut self, invalid: &'static str, long: &'static str) -> Result<Option<Bytes>, &'static str> {
        let length = match self.varint(invalid)? {
            -1 => return Ok(None),
            length => usize::try_from(length).map_err(|_| invalid)?,
        };
        if length > self.end - self.at {
            return Err(long);
        }
        let field = self.batch.slice(self.at..self.at + length);
        self.at += length;
        Ok(Some(field))
    }
}

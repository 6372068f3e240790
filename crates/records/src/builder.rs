//! Builds batches, record by record, in one buffer.

use bytes::BytesMut;
use goulette_types::{ErrorKind, Offset, ProducerEpoch, ProducerId, Timestamp};

use crate::{Attributes, Batch, Compression, HEADER_BYTES, Header, Limits, RECORDS_MAX, RecordHeader, varint};

/// Why a record was not added to a batch. The builder is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Build this batch and put the record into the next: it fits an empty one.
    #[error("the batch is full")]
    Full,
    /// The record fits no batch.
    #[error("a record of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// Bytes of the record, encoded.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u32,
    },
}

impl PushError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            PushError::Full => ErrorKind::Busy,
            PushError::TooLarge { .. } => ErrorKind::TooLarge,
        }
    }
}

/// A batch that records are still added to. Each goes straight into its encoded form; nothing is allocated per record.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    limits: Limits,
    records: BytesMut,
    count: u32,
    /// The first record's, so that its delta is 0.
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    producer: Option<(ProducerId, ProducerEpoch, u32)>,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(compression: Compression, limits: Limits) -> Self {
        Self::with_capacity(compression, limits, 0)
    }

    /// An empty batch with room for that many bytes of records.
    pub fn with_capacity(compression: Compression, limits: Limits, bytes: usize) -> Self {
        Self {
            compression,
            limits,
            records: BytesMut::with_capacity(bytes),
            count: 0,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(i64::MIN),
            producer: None,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`PushError::Full`] when the next batch will take it, [`PushError::TooLarge`] when none will.
    pub fn push(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
        timestamp: Timestamp,
    ) -> Result<(), PushError> {
        let base_timestamp = if self.count == 0 { timestamp } else { self.base_timestamp };
        // Wraps; so does the reader's sum.
        let timestamp_delta = timestamp.0.wrapping_sub(base_timestamp.0);
        let offset_delta = i64::from(self.count);

        let body = 1
            + varint::encoded_bytes(timestamp_delta)
            + varint::encoded_bytes(offset_delta)
            + field_bytes(key)
            + field_bytes(value)
            + varint::encoded_bytes(headers.len() as i64)
            + headers.iter().map(|h| field_bytes(Some(&h.key)) + field_bytes(h.value.as_deref())).sum::<usize>();
        let total = varint::encoded_bytes(body as i64) + body;
        let too_large = |bytes: usize, bytes_max| Err(PushError::TooLarge { bytes: bytes as u64, bytes_max });
        if body > self.limits.record_bytes_max as usize {
            return too_large(body, self.limits.record_bytes_max);
        }
        if HEADER_BYTES + total > self.bytes_max() as usize {
            return too_large(HEADER_BYTES + total, self.bytes_max());
        }
        if self.count == RECORDS_MAX || self.bytes_so_far() + total > self.bytes_max() as usize {
            return Err(PushError::Full);
        }

        self.records.reserve(total);
        self.put_varints([body as i64, 0, timestamp_delta, offset_delta]);
        self.put_field(key);
        self.put_field(value);
        self.put_varints([headers.len() as i64]);
        for header in headers {
            self.put_field(Some(&header.key));
            self.put_field(header.value.as_deref());
        }
        self.base_timestamp = base_timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        Ok(())
    }

    /// Numbers the batch in the sequence of an idempotent producer, so that brokers recognise its retries.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: u32) {
        self.producer = Some((id, epoch, base_sequence));
    }

    /// Bytes of the batch as it would be without compression, header included.
    pub fn bytes_so_far(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Records added.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no record has been added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Compresses and seals the batch. Records that compression would make larger stay as they are.
    ///
    /// # Panics
    /// If no record was added, or the producer's numbers are beyond what the format holds ([`Batch::set_producer`]).
    pub fn build(self) -> Batch {
        assert!(self.count > 0, "a batch holds at least one record");
        let (compression, records) = match self.compression.compress(&self.records) {
            Some(smaller) => (self.compression, smaller.into()),
            None => (Compression::None, self.records.freeze()),
        };
        let mut header = Header {
            base_offset: Offset::ZERO,
            batch_length: 0,
            leader_epoch: None,
            crc: 0,
            attributes: Attributes::from(compression),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: self.count,
        };
        if let Some((id, epoch, base_sequence)) = self.producer {
            header.set_producer(id, epoch, base_sequence);
        }
        Batch::seal(header, records)
    }

    /// The batch as it is sent is never larger than uncompressed, and whoever decompresses it has a limit too.
    fn bytes_max(&self) -> u32 {
        self.limits.batch_bytes_max.min(self.limits.decompressed_bytes_max)
    }

    #[inline]
    fn put_varints<const N: usize>(&mut self, values: [i64; N]) {
        const { assert!(N <= 4) };
        let mut scratch = [0; 4 * varint::BYTES_MAX_64];
        let mut length = 0;
        for value in values {
            length += varint::write(value, &mut scratch[length..]);
        }
        self.records.extend_from_slice(&scratch[..length]);
    }

    #[inline]
    fn put_field(&mut self, field: Option<&[u8]>) {
        self.put_varints([field.map_or(-1, |field| field.len() as i64)]);
        self.records.extend_from_slice(field.unwrap_or_default());
    }
}

/// Bytes of a field and its length.
#[inline]
fn field_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |field| varint::encoded_bytes(field.len() as i64) + field.len())
}

//! A batch: checked once when it comes in, opaque from there on.

use bytes::{Bytes, BytesMut};
use goulette_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

use crate::{
    Attributes, BatchError, Compression, HEADER_BYTES, Header, LENGTH_PREFIX_BYTES, Limits, Producer, Record, Records,
    header, record,
};

/// A batch of records that has been checked, or was built here. Cheap to clone: the records are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    records: Bytes,
}

impl Batch {
    /// Checks a batch that arrives as header and records: header fields first, then the length stated, the limits, the
    /// CRC, and, when the records are not compressed, that as many as stated follow each other to the batch's end.
    ///
    /// What is inside of the records is not looked at; [`iter`](Self::iter) does that for whoever wants them.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn parse(header: &[u8], records: Bytes, limits: &Limits) -> Result<Batch, BatchError> {
        let bytes: &[u8; HEADER_BYTES] =
            header.try_into().map_err(|_| BatchError::HeaderBytes { given: header.len() })?;
        let header = Header::parse(bytes)?;
        if header.records_bytes() != records.len() {
            return Err(BatchError::Length {
                stated: header.encoded_bytes() as i64,
                actual: (HEADER_BYTES + records.len()) as u64,
            });
        }
        if header.encoded_bytes() > limits.batch_bytes_max as usize {
            let bytes = header.encoded_bytes() as u64;
            return Err(BatchError::BatchTooLarge { bytes, bytes_max: limits.batch_bytes_max });
        }
        let computed = header::checksum(bytes, &records);
        if computed != header.crc {
            return Err(BatchError::Crc { stated: header.crc, computed });
        }
        if header.compression() == Compression::None {
            record::walk(&records, header.record_count, limits.record_bytes_max)?;
        }
        Ok(Batch { header, records })
    }

    /// As [`parse`](Self::parse), for exactly one batch in one piece.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn from_bytes(mut bytes: Bytes, limits: &Limits) -> Result<Batch, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::HeaderBytes { given: bytes.len() });
        }
        let records = bytes.split_off(HEADER_BYTES);
        Batch::parse(&bytes, records, limits)
    }

    /// A batch that was checked when it came in, read back from where it was stored: the length stated and the CRC say
    /// whether it is still the same, and the records need not be walked through again.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn from_stored(mut bytes: Bytes) -> Result<Batch, BatchError> {
        let Some(head) = bytes.first_chunk() else { return Err(BatchError::HeaderBytes { given: bytes.len() }) };
        let header = Header::parse(head)?;
        if header.encoded_bytes() != bytes.len() {
            return Err(BatchError::Length { stated: header.encoded_bytes() as i64, actual: bytes.len() as u64 });
        }
        let computed = header::checksum(head, &bytes[HEADER_BYTES..]);
        if computed != header.crc {
            return Err(BatchError::Crc { stated: header.crc, computed });
        }
        let records = bytes.split_off(HEADER_BYTES);
        Ok(Batch { header, records })
    }

    /// The same batch with its records in memory of their own: a slice keeps alive the whole buffer that it was received in.
    pub fn detached(&self) -> Batch {
        Batch { header: self.header, records: Bytes::copy_from_slice(&self.records) }
    }

    /// Refuses what only brokers may write, though it is a valid batch: control batches and log append time.
    ///
    /// # Errors
    /// [`BatchError::Control`], [`BatchError::LogAppendTime`].
    pub fn check_from_client(&self) -> Result<(), BatchError> {
        if self.header.attributes.is_control() {
            return Err(BatchError::Control);
        }
        if self.header.attributes.is_log_append_time() {
            return Err(BatchError::LogAppendTime);
        }
        Ok(())
    }

    /// Header and records of a batch made here; length and CRC are filled in.
    pub(crate) fn seal(mut header: Header, records: Bytes) -> Batch {
        header.batch_length = (HEADER_BYTES - LENGTH_PREFIX_BYTES + records.len()) as u32;
        header.crc = header.checksum(&records);
        Batch { header, records }
    }

    /// Gives the batch its place in the log. Only touches what the CRC leaves out.
    ///
    /// # Panics
    /// If the batch would reach past [`Offset::MAX`], or the epoch is beyond `i32::MAX`: no log gets there.
    pub fn assign(&mut self, base: Offset, epoch: LeaderEpoch) {
        assert!(base.plus(self.header.record_count.into()) <= Offset::MAX, "a log ends below 2^63");
        assert!(epoch.0 <= i32::MAX as u32, "leader epochs are counted up from 0");
        self.header.base_offset = base;
        self.header.leader_epoch = Some(epoch);
    }

    /// Makes the batch another one of the sequence, or of a new life, of an idempotent producer; computes the CRC anew.
    ///
    /// # Panics
    /// If a number is beyond what the format holds: ids to `i64::MAX`, epochs to `i16::MAX`, sequences to `i32::MAX`.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: u32) {
        self.header.set_producer(id, epoch, base_sequence);
        self.header.crc = self.header.checksum(&self.records);
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header's bytes.
    pub fn header_bytes(&self) -> [u8; HEADER_BYTES] {
        self.header.to_bytes()
    }

    /// The bytes behind the header: records, compressed or not.
    pub fn records(&self) -> &Bytes {
        &self.records
    }

    /// Bytes of the whole batch, header included.
    pub fn encoded_bytes(&self) -> usize {
        self.header.encoded_bytes()
    }

    /// The whole batch in one piece, copied.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_bytes());
        bytes.extend_from_slice(&self.header_bytes());
        bytes.extend_from_slice(&self.records);
        bytes.freeze()
    }

    /// The first record's offset.
    pub fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    /// The last record's offset.
    pub fn last_offset(&self) -> Offset {
        self.header.last_offset()
    }

    /// The offset behind the last record.
    pub fn next_offset(&self) -> Offset {
        self.header.next_offset()
    }

    /// How many records there are; at least one.
    pub fn record_count(&self) -> u32 {
        self.header.record_count
    }

    /// The epoch of the leader that assigned the offsets; none before that.
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.header.leader_epoch
    }

    /// The latest timestamp of a record.
    pub fn max_timestamp(&self) -> Timestamp {
        self.header.max_timestamp
    }

    /// The idempotent producer that sent the batch, if one did.
    pub fn producer(&self) -> Option<Producer> {
        self.header.producer()
    }

    /// Codec and flags.
    pub fn attributes(&self) -> Attributes {
        self.header.attributes
    }

    /// The codec of the records.
    pub fn compression(&self) -> Compression {
        self.header.compression()
    }

    /// The records one by one, decompressed if need be. Their fields are slices of one buffer, not copies.
    ///
    /// # Errors
    /// [`BatchError::Decompress`] and [`BatchError::DecompressedTooLarge`] at once; what is wrong with a record, or
    /// with their number, when the iterator gets there.
    pub fn iter(&self, limits: &Limits) -> Result<Records, BatchError> {
        let bytes = self.compression().decompress(&self.records, limits.decompressed_bytes_max)?;
        Ok(Records::new(self.header, bytes, limits.record_bytes_max))
    }

    /// All records, or the first error; see [`iter`](Self::iter).
    ///
    /// # Errors
    /// Any of the batch, and then no record.
    pub fn decode(&self, limits: &Limits) -> Result<Vec<Record>, BatchError> {
        let records = self.iter(limits)?;
        let mut decoded = Vec::with_capacity(records.size_hint().1.unwrap_or(0));
        for record in records {
            decoded.push(record?);
        }
        Ok(decoded)
    }
}

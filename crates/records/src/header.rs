//! The fixed part of a batch: 61 bytes, big-endian, that say everything a broker needs to know.
//!
//! ```text
//!  0  i64  base offset            assigned by the leader
//!  8  i32  batch length           bytes behind this field: encoded bytes - 12
//! 12  i32  leader epoch           assigned by the leader; -1 before
//! 16  i8   magic                  2
//! 17  u32  CRC-32C                of all bytes from the attributes to the batch's end
//! 21  i16  attributes             bits 0-2 codec, 3 log append time, 4 transactional, 5 control
//! 23  i32  last offset delta      record count - 1
//! 27  i64  base timestamp         records hold the difference
//! 35  i64  max timestamp
//! 43  i64  producer id            -1: not idempotent
//! 51  i16  producer epoch
//! 53  i32  base sequence
//! 57  i32  record count
//! ```

use goulette_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

use crate::{BatchError, Compression};

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 61;
/// Bytes up to the end of the batch length, which counts what follows it.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Records that a batch may hold.
pub const RECORDS_MAX: u32 = 1_000_000;

/// Where the bytes that the CRC covers begin: base offset, length and leader epoch may change without it.
const CRC_START: usize = 21;
const MAGIC: i8 = 2;

/// A batch's header. What the format cannot mean does not exist here, except in fields that the CRC covers and that
/// brokers pass on untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The first record's offset.
    pub base_offset: Offset,
    /// Bytes of the batch behind this field; at least those of the rest of the header.
    pub batch_length: u32,
    /// The epoch of the leader that assigned the offsets; none before that.
    pub leader_epoch: Option<LeaderEpoch>,
    /// CRC-32C of all bytes from the attributes to the batch's end.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// The last record's offset less the first one's: always `record_count - 1`.
    pub last_offset_delta: u32,
    /// What the records' timestamp deltas count from.
    pub base_timestamp: Timestamp,
    /// The latest timestamp of a record; with log append time that of every record.
    pub max_timestamp: Timestamp,
    /// As stored; -1 without a producer. [`producer`](Self::producer) is the typed form.
    pub producer_id: i64,
    /// As stored; -1 without a producer.
    pub producer_epoch: i16,
    /// As stored; -1 without a producer.
    pub base_sequence: i32,
    /// Records in the batch: 1 to [`RECORDS_MAX`].
    pub record_count: u32,
}

impl Header {
    /// Reads a header and checks all that can be checked without the records. Limits, CRC and whether as many bytes
    /// follow as it states are for [`Batch::parse`](crate::Batch::parse).
    ///
    /// # Errors
    /// [`BatchError::Magic`] first, as the other fields mean nothing then; else what is wrong first.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, BatchError> {
        let mut fields = Fields { bytes, at: 0 };
        let base_offset = i64::from_be_bytes(fields.take());
        let batch_length = i32::from_be_bytes(fields.take());
        let leader_epoch = i32::from_be_bytes(fields.take());
        let magic = i8::from_be_bytes(fields.take());
        let crc = u32::from_be_bytes(fields.take());
        let attributes = Attributes(u16::from_be_bytes(fields.take()));
        let last_offset_delta = i32::from_be_bytes(fields.take());
        let base_timestamp = Timestamp(i64::from_be_bytes(fields.take()));
        let max_timestamp = Timestamp(i64::from_be_bytes(fields.take()));
        let producer_id = i64::from_be_bytes(fields.take());
        let producer_epoch = i16::from_be_bytes(fields.take());
        let base_sequence = i32::from_be_bytes(fields.take());
        let record_count = i32::from_be_bytes(fields.take());

        let field = |field, value| Err(BatchError::Field { field, value });
        if magic != MAGIC {
            return Err(BatchError::Magic { magic });
        }
        if batch_length < (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32 {
            let stated = i64::from(batch_length) + LENGTH_PREFIX_BYTES as i64;
            return Err(BatchError::Length { stated, actual: HEADER_BYTES as u64 });
        }
        attributes.codec()?;
        if !(1..=RECORDS_MAX as i32).contains(&record_count) {
            return Err(BatchError::RecordCount { count: record_count });
        }
        if last_offset_delta != record_count - 1 {
            return Err(BatchError::OffsetDelta { delta: last_offset_delta, count: record_count });
        }
        if !(0..=i64::MAX - i64::from(record_count)).contains(&base_offset) {
            return field("base offset", base_offset);
        }
        if leader_epoch < -1 {
            return field("leader epoch", leader_epoch.into());
        }
        // Kafka's control batches bear a producer's id without a sequence: they are not retried by it.
        if producer_id >= 0 && !attributes.is_control() {
            if producer_epoch < 0 {
                return field("producer epoch", producer_epoch.into());
            }
            if base_sequence < 0 {
                return field("base sequence", base_sequence.into());
            }
        } else if producer_id < -1 {
            return field("producer id", producer_id);
        }
        Ok(Header {
            base_offset: Offset(base_offset as u64),
            batch_length: batch_length as u32,
            leader_epoch: u32::try_from(leader_epoch).ok().map(LeaderEpoch),
            crc,
            attributes,
            last_offset_delta: last_offset_delta as u32,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count: record_count as u32,
        })
    }

    /// The header's bytes: exactly those that it was parsed from, as long as no field was changed.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.base_offset.0.to_be_bytes());
        put(&self.batch_length.to_be_bytes());
        put(&self.leader_epoch.map_or(-1, |epoch| epoch.0 as i32).to_be_bytes());
        put(&MAGIC.to_be_bytes());
        put(&self.crc.to_be_bytes());
        put(&self.attributes.0.to_be_bytes());
        put(&self.last_offset_delta.to_be_bytes());
        put(&self.base_timestamp.0.to_be_bytes());
        put(&self.max_timestamp.0.to_be_bytes());
        put(&self.producer_id.to_be_bytes());
        put(&self.producer_epoch.to_be_bytes());
        put(&self.base_sequence.to_be_bytes());
        put(&self.record_count.to_be_bytes());
        bytes
    }

    /// Bytes of the whole batch, header included.
    pub fn encoded_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + self.batch_length as usize
    }

    /// Bytes that follow the header.
    pub fn records_bytes(&self) -> usize {
        self.encoded_bytes() - HEADER_BYTES
    }

    /// The last record's offset.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + u64::from(self.last_offset_delta))
    }

    /// The offset behind the last record.
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0 + u64::from(self.record_count))
    }

    /// The codec of the records.
    pub fn compression(&self) -> Compression {
        self.attributes.codec().expect("a header with an unknown codec is not parsed")
    }

    /// The idempotent producer that sent the batch; none in control batches, which take part in no sequence.
    pub fn producer(&self) -> Option<Producer> {
        (self.producer_id >= 0 && !self.attributes.is_control()).then(|| Producer {
            id: ProducerId(self.producer_id as u64),
            epoch: ProducerEpoch(self.producer_epoch as u16),
            base_sequence: self.base_sequence as u32,
            last_sequence: sequence_after(self.base_sequence as u32, self.last_offset_delta),
        })
    }

    /// Only for batches whose CRC is computed afterwards.
    pub(crate) fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: u32) {
        self.producer_id = id.0.try_into().expect("producer ids are counted up from 0");
        self.producer_epoch = epoch.0.try_into().expect("a producer whose epoch is used up takes a new id");
        self.base_sequence = base_sequence.try_into().expect("sequences wrap at i32::MAX");
    }

    /// The CRC-32C that a batch of this header and these records should have.
    pub fn checksum(&self, records: &[u8]) -> u32 {
        checksum(&self.to_bytes(), records)
    }
}

/// The CRC-32C over the part of the header that it covers, and over the records.
pub(crate) fn checksum(header: &[u8; HEADER_BYTES], records: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[CRC_START..]), records)
}

/// Who sent a batch, and which of its records they are: a broker recognises a retry by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The producer.
    pub id: ProducerId,
    /// Its life.
    pub epoch: ProducerEpoch,
    /// The first record's sequence number in the partition.
    pub base_sequence: u32,
    /// The last record's.
    pub last_sequence: u32,
}

impl Producer {
    /// The sequence number that the producer's next batch begins with.
    pub fn next_sequence(&self) -> u32 {
        sequence_after(self.last_sequence, 1)
    }
}

/// `count` numbers behind `sequence`: 0 follows `i32::MAX`, as in Kafka.
fn sequence_after(sequence: u32, count: u32) -> u32 {
    sequence.wrapping_add(count) & i32::MAX as u32
}

/// Codec and flags. Bits that Kafka has not defined, or that mean nothing to us, are passed on as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u16);

impl Attributes {
    const CODEC: u16 = 0b111;
    const LOG_APPEND_TIME: u16 = 1 << 3;
    const TRANSACTIONAL: u16 = 1 << 4;
    const CONTROL: u16 = 1 << 5;

    fn codec(self) -> Result<Compression, BatchError> {
        let codec = self.0 & Self::CODEC;
        Compression::from_code(codec).ok_or(BatchError::Codec { codec })
    }

    /// Every record has the time at which the broker appended the batch, instead of its own.
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// The batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// The batch ends a transaction and holds no record of a user.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }
}

impl From<Compression> for Attributes {
    fn from(compression: Compression) -> Self {
        Attributes(compression.code())
    }
}

/// Hands out the header's fields one by one; their sizes add up to its length.
struct Fields<'a> {
    bytes: &'a [u8; HEADER_BYTES],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes[self.at..][..N].try_into().expect("a slice of N bytes");
        self.at += N;
        field
    }
}

//! Why bytes are not a batch.

use goulette_types::ErrorKind;

use crate::{Compression, header};

/// Why bytes were refused as a batch, or why a batch cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are too few or too many bytes for a header.
    #[error("a batch header has {} bytes, not {given}", header::HEADER_BYTES)]
    HeaderBytes {
        /// Bytes given.
        given: usize,
    },
    /// Another version of Kafka's format.
    #[error("a batch has magic 2, not {magic}: use a client that sends Kafka's record batches v2")]
    Magic {
        /// The version stated.
        magic: i8,
    },
    /// The header states another length than the batch has.
    #[error("the header states {stated} bytes, but the batch has {actual}")]
    Length {
        /// Bytes of the whole batch, as its header implies.
        stated: i64,
        /// Bytes given.
        actual: u64,
    },
    /// The batch is larger than allowed.
    #[error("a batch of {bytes} bytes exceeds the limit of {bytes_max}: send smaller batches")]
    BatchTooLarge {
        /// Bytes of the whole batch.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u32,
    },
    /// A record is larger than allowed.
    #[error("record {index} of the batch has {bytes} bytes, which exceeds the limit of {bytes_max}")]
    RecordTooLarge {
        /// The record's place in the batch, from 0.
        index: u32,
        /// Bytes of the record.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u32,
    },
    /// The bytes are not those that the CRC was made of.
    #[error("the batch's CRC-32C is {computed:08x}, but its header states {stated:08x}")]
    Crc {
        /// As the header has it.
        stated: u32,
        /// As the bytes have it.
        computed: u32,
    },
    /// None, or more than a batch may hold.
    #[error("a batch has 1 to {} records, not {count}", header::RECORDS_MAX)]
    RecordCount {
        /// The count stated.
        count: i32,
    },
    /// The batch would leave a gap in the offsets, or repeat some.
    #[error("{count} records do not end at offset delta {delta}")]
    OffsetDelta {
        /// The last offset delta stated.
        delta: i32,
        /// The count stated.
        count: i32,
    },
    /// A header field holds what it cannot mean.
    #[error("the batch header's {field} cannot be {value}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A codec that nobody has defined.
    #[error("compression codec {codec} is unknown")]
    Codec {
        /// The number in the attributes.
        codec: u16,
    },
    /// Only brokers write control batches.
    #[error("clients may not send control batches")]
    Control,
    /// Only brokers stamp batches with their own time.
    #[error("clients may not send batches with the timestamp type LogAppendTime")]
    LogAppendTime,
    /// The compressed bytes are not what the codec writes.
    #[error("cannot decompress the batch's {compression} records: {reason}")]
    Decompress {
        /// The codec.
        compression: Compression,
        /// What the codec says.
        reason: String,
    },
    /// A decompression bomb, or a batch made under wider limits.
    #[error("the batch's {compression} records exceed {bytes_max} bytes when decompressed")]
    DecompressedTooLarge {
        /// The codec.
        compression: Compression,
        /// Bytes allowed.
        bytes_max: u32,
    },
    /// A record's bytes do not follow the format.
    #[error("record {index} of the batch {fault}")]
    Record {
        /// The record's place in the batch, from 0.
        index: u32,
        /// What is wrong, as the end of a sentence.
        fault: &'static str,
    },
    /// Bytes are left behind the last record.
    #[error("{bytes} bytes follow the last of the batch's {count} records")]
    Trailing {
        /// The count stated.
        count: u32,
        /// Bytes left.
        bytes: usize,
    },
}

impl BatchError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BatchError::Magic { .. } => ErrorKind::Unsupported,
            BatchError::BatchTooLarge { .. }
            | BatchError::RecordTooLarge { .. }
            | BatchError::DecompressedTooLarge { .. } => ErrorKind::TooLarge,
            BatchError::RecordCount { .. }
            | BatchError::OffsetDelta { .. }
            | BatchError::Field { .. }
            | BatchError::Codec { .. }
            | BatchError::Control
            | BatchError::LogAppendTime => ErrorKind::Invalid,
            BatchError::HeaderBytes { .. }
            | BatchError::Length { .. }
            | BatchError::Crc { .. }
            | BatchError::Decompress { .. }
            | BatchError::Record { .. }
            | BatchError::Trailing { .. } => ErrorKind::Corrupt,
        }
    }
}

//! The codecs of Kafka, as Kafka frames them. Brokers never call one: clients compress, and clients decompress.

mod snappy;

use std::{
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

use bytes::Bytes;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::BatchError;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks in the framing of the xerial library, which Kafka's Java clients use; raw Snappy is read too.
    Snappy,
    /// The LZ4 frame format: independent blocks are written, linked ones read too.
    Lz4,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// Every codec once, in the order of Kafka's numbers.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// The name that flags and configurations use.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// The number in a batch's attributes.
    pub(crate) fn code(self) -> u16 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    pub(crate) fn from_code(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The compressed form, if there is one and it is the smaller one.
    pub(crate) fn compress(self, raw: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Compression::None => return None,
            Compression::Gzip => gzip(raw),
            Compression::Snappy => snappy::compress(raw),
            Compression::Lz4 => lz4(raw),
            Compression::Zstd => zstd::bulk::compress(raw, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        // The codecs write to memory and accept every input; should one fail all the same, the records stay as they are.
        compressed.ok().filter(|compressed| compressed.len() < raw.len())
    }

    /// The records' own bytes, of which there may be up to `bytes_max`; work and memory stay in proportion to that.
    pub(crate) fn decompress(self, bytes: &Bytes, bytes_max: u32) -> Result<Bytes, BatchError> {
        let raw = match self {
            Compression::None if bytes.len() <= bytes_max as usize => return Ok(bytes.clone()),
            Compression::None => Ok(None),
            Compression::Gzip => read_capped(flate2::bufread::MultiGzDecoder::new(&bytes[..]), bytes.len(), bytes_max),
            Compression::Snappy => snappy::decompress(bytes, bytes_max),
            Compression::Lz4 => read_capped(FrameDecoder::new(&bytes[..]), bytes.len(), bytes_max),
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(&bytes[..])
                .and_then(|decoder| read_capped(decoder, bytes.len(), bytes_max)),
        };
        match raw {
            Ok(Some(raw)) => Ok(raw.into()),
            Ok(None) => Err(BatchError::DecompressedTooLarge { compression: self, bytes_max }),
            Err(error) => Err(BatchError::Decompress { compression: self, reason: error.to_string() }),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| format!("compression {name:?} is none of none, gzip, snappy, lz4, zstd"))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

fn gzip(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(raw.len() / 2), flate2::Compression::default());
    encoder.write_all(raw)?;
    encoder.finish()
}

fn lz4(raw: &[u8]) -> io::Result<Vec<u8>> {
    // Kafka's Java clients read independent blocks only, and write blocks of 64 KiB.
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(raw.len() / 2));
    encoder.write_all(raw)?;
    Ok(encoder.finish()?)
}

/// What a decoder yields; none if that is more than `bytes_max`. Never asks it for more than one byte beyond.
fn read_capped(decoder: impl Read, compressed_bytes: usize, bytes_max: u32) -> io::Result<Option<Vec<u8>>> {
    // A guess that spares most batches a second buffer, and costs a bomb nothing.
    let mut raw = Vec::with_capacity(compressed_bytes.saturating_mul(4).min(bytes_max as usize));
    decoder.take(u64::from(bytes_max) + 1).read_to_end(&mut raw)?;
    Ok((raw.len() <= bytes_max as usize).then_some(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_is_asked_for_one_byte_more_than_allowed_at_most() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0 += out.len() as u64;
                assert!(self.0 <= 10_001, "{} bytes were asked for", self.0);
                Ok(out.len())
            }
        }
        assert_eq!(read_capped(Endless(0), 100, 10_000).unwrap(), None);
        assert_eq!(read_capped(&[7; 10_001][..], 100, 10_000).unwrap(), None);
        assert_eq!(read_capped(&[7; 10_000][..], 100, 10_000).unwrap(), Some(vec![7; 10_000]));
    }
}

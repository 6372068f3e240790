//! Snappy in the framing of xerial's snappy-java, which Kafka took over: a header of 16 bytes (magic, version 1,
//! readable from version 1), then blocks, each behind its length in four bytes, most significant first.

use std::io;

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const MAGIC_BYTES: usize = 8;
/// Raw bytes of one block, as snappy-java has them.
const BLOCK_BYTES: usize = 32 * 1024;
/// No element of Snappy's format yields more than 64 bytes for three: a block that states more lies.
const RATIO_MAX: usize = 22;

pub(super) fn compress(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new();
    let mut out = Vec::with_capacity(HEADER.len() + raw.len() / 2);
    out.extend_from_slice(&HEADER);
    for block in raw.chunks(BLOCK_BYTES) {
        let length_at = out.len();
        let block_at = length_at + 4;
        out.resize(block_at + max_compress_len(block.len()), 0);
        let length = encoder.compress(block, &mut out[block_at..])?;
        out[length_at..block_at].copy_from_slice(&(length as u32).to_be_bytes());
        out.truncate(block_at + length);
    }
    Ok(out)
}

/// None if there is more than `bytes_max`.
pub(super) fn decompress(bytes: &[u8], bytes_max: u32) -> io::Result<Option<Vec<u8>>> {
    let mut raw = Vec::new();
    if !bytes.starts_with(&HEADER[..MAGIC_BYTES]) {
        return Ok(append_block(bytes, bytes_max, &mut raw)?.then_some(raw));
    }
    let mut left = bytes.get(HEADER.len()..).ok_or_else(cut)?;
    while !left.is_empty() {
        let (length, behind) = left.split_first_chunk::<4>().ok_or_else(cut)?;
        let (block, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(cut)?;
        if !append_block(block, bytes_max, &mut raw)? {
            return Ok(None);
        }
        left = behind;
    }
    Ok(Some(raw))
}

/// Decompresses a block behind what is there; false, with nothing done, if there would be more than `bytes_max`.
fn append_block(block: &[u8], bytes_max: u32, raw: &mut Vec<u8>) -> io::Result<bool> {
    let length = decompress_len(block)?;
    if length > bytes_max as usize - raw.len() {
        return Ok(false);
    }
    if length > block.len().saturating_mul(RATIO_MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a block states more bytes than it can hold"));
    }
    let start = raw.len();
    raw.resize(start + length, 0);
    Decoder::new().decompress(block, &mut raw[start..])?;
    Ok(true)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a block is cut off")
}

//! Bytes from a stranger: whatever they are, a batch is refused or comes back byte for byte, and decoding it costs no
//! more than the limits say.
#![no_main]

use goulette_records::{Batch, HEADER_BYTES, LENGTH_PREFIX_BYTES, Limits};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits =
    Limits { record_bytes_max: 64 << 10, batch_bytes_max: 256 << 10, decompressed_bytes_max: 256 << 10 };

fuzz_target!(|input: (bool, Vec<u8>)| {
    let (mended, mut bytes) = input;
    if mended && bytes.len() >= HEADER_BYTES {
        mend(&mut bytes);
    }
    let Ok(batch) = Batch::from_bytes(bytes.clone().into(), &LIMITS) else { return };
    assert_eq!(batch.to_bytes(), bytes);
    let _ = batch.check_from_client();
    let _ = batch.producer().map(|producer| producer.next_sequence());
    if let Ok(records) = batch.decode(&LIMITS) {
        assert_eq!(records.len(), batch.record_count() as usize);
        assert_eq!(records[0].offset, batch.base_offset());
        assert_eq!(records[records.len() - 1].offset, batch.last_offset());
    }
});

/// Makes magic, length, count and CRC fit, which chance would not, so that the records are reached.
fn mend(bytes: &mut [u8]) {
    bytes[0] &= 0x3f;
    let length = (bytes.len() - LENGTH_PREFIX_BYTES) as u32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[12] &= 0x7f;
    bytes[16] = 2;
    let last = u32::from(bytes[60]);
    bytes[23..27].copy_from_slice(&last.to_be_bytes());
    bytes[57..61].copy_from_slice(&(last + 1).to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

//! Kafka's variable-length integers: zigzag, then seven bits a byte, the least significant first (as in Protocol
//! Buffers' `sint32` and `sint64`).

/// Bytes of the longest 32-bit integer.
pub(crate) const BYTES_MAX_32: usize = 5;
/// Bytes of the longest 64-bit integer.
pub(crate) const BYTES_MAX_64: usize = 10;

/// Reads an integer, and says how many bytes it took; none when it is cut off or does not fit.
#[inline]
pub(crate) fn read_32(bytes: &[u8]) -> Option<(i32, usize)> {
    let (raw, length) = read_raw(bytes, BYTES_MAX_32)?;
    Some((zigzag_decode(u32::try_from(raw).ok()?.into()) as i32, length))
}

/// As [`read_32`], for 64 bits.
#[inline]
pub(crate) fn read_64(bytes: &[u8]) -> Option<(i64, usize)> {
    let (raw, length) = read_raw(bytes, BYTES_MAX_64)?;
    Some((zigzag_decode(raw), length))
}

#[inline]
fn read_raw(bytes: &[u8], bytes_max: usize) -> Option<(u64, usize)> {
    // Deltas, and the lengths of small fields, take one byte.
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((first.into(), 1));
    }
    let mut raw = u64::from(first & 0x7f);
    for (index, &byte) in bytes.iter().enumerate().take(bytes_max).skip(1) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index as u32;
        if bits.leading_zeros() < shift {
            return None;
        }
        raw |= bits << shift;
        if byte < 0x80 {
            return Some((raw, index + 1));
        }
    }
    None
}

#[inline]
fn zigzag_decode(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

#[inline]
fn zigzag_encode(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes that [`write`](fn@write) puts down for a value. The zigzag form of an `i32` is the same in 32 and in 64 bits, so one
/// pair of functions writes both.
#[inline]
pub(crate) fn encoded_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag_encode(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes a value at the start of `out` and says how many bytes it took.
///
/// # Panics
/// If `out` is shorter than [`encoded_bytes`].
#[inline]
pub(crate) fn write(value: i64, out: &mut [u8]) -> usize {
    let mut raw = zigzag_encode(value);
    let mut length = 0;
    while raw >= 0x80 {
        out[length] = raw as u8 | 0x80;
        raw >>= 7;
        length += 1;
    }
    out[length] = raw as u8;
    length + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(value: i64) -> Vec<u8> {
        let mut out = [0; BYTES_MAX_64];
        let length = write(value, &mut out);
        out[..length].to_vec()
    }

    #[test]
    fn integers_have_kafkas_bytes() {
        // From Kafka's ByteUtilsTest.
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (8191, &[0xfe, 0x7f]),
            (-8192, &[0xff, 0x7f]),
            (8192, &[0x80, 0x80, 0x01]),
            (1_048_576, &[0x80, 0x80, 0x80, 0x01]),
            (134_217_728, &[0x80, 0x80, 0x80, 0x80, 0x01]),
            (i32::MAX.into(), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN.into(), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            assert_eq!(encode(value), bytes, "{value}");
            assert_eq!(read_32(bytes), Some((value as i32, bytes.len())));
            assert_eq!(read_64(bytes), Some((value, bytes.len())));
        }
        for value in [i64::MIN, i64::MAX] {
            assert_eq!(read_64(&encode(value)), Some((value, 10)));
        }
    }

    #[test]
    fn every_length_is_foretold() {
        for shift in 0..64 {
            for value in [i64::MAX >> shift, i64::MIN >> shift, (i64::MAX >> shift).wrapping_add(1)] {
                let bytes = encode(value);
                assert_eq!(bytes.len(), encoded_bytes(value), "{value}");
                assert_eq!(read_64(&bytes), Some((value, bytes.len())));
            }
        }
    }

    #[test]
    fn integers_that_are_cut_or_too_wide_are_refused() {
        assert_eq!(read_32(&[]), None);
        assert_eq!(read_32(&[0x80]), None);
        assert_eq!(read_32(&[0x80, 0x80, 0x80, 0x80, 0x10]), None, "bit 32");
        assert_eq!(read_32(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), None, "a sixth byte");
        assert_eq!(read_64(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]), None, "bit 64");
        assert_eq!(read_64(&[0x80; 11]), None);
    }
}

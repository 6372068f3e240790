//! The byte tables of bbolt's format, version 2. All integers are little-endian (bbolt writes the machine's own order;
//! etcd runs on little-endian machines only).
//!
//! ```text
//! page     0 id u64 | 8 flags u16 | 10 count u16 | 12 overflow u32 | 16 elements, then keys and values
//!          a page with overflow n is n + 1 pages long, in one piece
//! branch   0 position u32 | 4 key length u32 | 8 child page u64
//! leaf     0 flags u32 (1: the value is a bucket) | 4 position u32 | 8 key length u32 | 12 value length u32
//!          a position counts from the element's own first byte to the key; the value follows the key
//! bucket   0 root page u64 (0: inline) | 8 sequence u64 | 16 inline only: a leaf page
//! meta     0 magic u32 | 4 version u32 | 8 page size u32 | 12 flags u32 | 16 root bucket | 32 freelist page u64
//!          40 pages in use u64 | 48 transaction u64 | 56 FNV-1a 64 of the bytes before
//! ```
//!
//! Pages 0 and 1 are metas (each behind a page header); the valid one with the higher transaction counts.

pub(crate) const PAGE_SIZE: usize = 4096;
pub(crate) const PAGE_HEADER: usize = 16;
/// Length of a branch element and of a leaf element.
pub(crate) const ELEMENT: usize = 16;
pub(crate) const BUCKET_HEADER: usize = 16;
pub(crate) const META: usize = 64;

pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;

pub(crate) const PAGE_BRANCH: u16 = 0x01;
pub(crate) const PAGE_LEAF: u16 = 0x02;
pub(crate) const PAGE_META: u16 = 0x04;
pub(crate) const PAGE_FREELIST: u16 = 0x10;

pub(crate) const LEAF_BUCKET: u32 = 0x01;

/// bbolt's bounds of one key and one value, in bytes.
pub(crate) const KEY_MAX: usize = 32_768;
pub(crate) const VALUE_MAX: usize = (1 << 31) - 2;

/// The fields of a meta page that mean something to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    pub(crate) root: u64,
    pub(crate) freelist: u64,
    /// Pages in use, which is the first id that is not.
    pub(crate) pages: u64,
    pub(crate) transaction: u64,
}

impl Meta {
    pub(crate) fn encode(&self) -> [u8; META] {
        let mut bytes = [0; META];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let sum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` where magic, version, checksum or page size is not bbolt's.
    pub(crate) fn decode(bytes: &[u8; META]) -> Option<Self> {
        let sound =
            u32_at(bytes, 0) == MAGIC && u32_at(bytes, 4) == VERSION && u64_at(bytes, 56) == fnv1a(&bytes[..56]);
        let page_size = u32_at(bytes, 8);
        (sound && page_size.is_power_of_two() && (1024..=1 << 16).contains(&page_size)).then(|| Self {
            page_size,
            root: u64_at(bytes, 16),
            freelist: u64_at(bytes, 32),
            pages: u64_at(bytes, 40),
            transaction: u64_at(bytes, 48),
        })
    }
}

pub(crate) fn page_header(id: u64, flags: u16, count: u16, overflow: u32) -> [u8; PAGE_HEADER] {
    let mut bytes = [0; PAGE_HEADER];
    bytes[0..8].copy_from_slice(&id.to_le_bytes());
    bytes[8..10].copy_from_slice(&flags.to_le_bytes());
    bytes[10..12].copy_from_slice(&count.to_le_bytes());
    bytes[12..16].copy_from_slice(&overflow.to_le_bytes());
    bytes
}

/// The caller has checked that the bytes are there.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The caller has checked that the bytes are there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The caller has checked that the bytes are there.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_survives_its_encoding_and_no_flipped_bit() {
        let meta = Meta { page_size: 4096, root: 7, freelist: 2, pages: 9, transaction: 1 };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Some(meta));
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::decode(&wrong), None, "bit {bit}");
        }
    }
}

//! Which partition a key belongs to: Kafka's answer, so that producers of either kind agree.

use goulette_types::PartitionIndex;

/// The partition of a record with a key, as Kafka's default partitioner has it. Records with equal keys share a
/// partition, and so an order, as long as the topic's partition count does not change.
///
/// # Panics
/// If there are no partitions.
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionIndex {
    assert!(partitions > 0, "a topic has at least one partition");
    PartitionIndex((murmur2(key) & i32::MAX as u32) % partitions)
}

/// MurmurHash2 with Kafka's seed: Austin Appleby's 32-bit function, little-endian.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;

    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for &word in words {
        let mut k = u32::from_le_bytes(word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(word)).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_kafkas() {
        // From Kafka's UtilsTest.
        for (key, hash) in [
            (&b"21"[..], -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key) as i32, hash, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn a_key_whose_hash_is_negative_still_has_a_partition() {
        // Kafka's toPositive clears the sign; it does not negate.
        assert_eq!(partition_for_key(b"21", 10), PartitionIndex(((-973_932_308i32 & i32::MAX) % 10) as u32));
        assert_eq!(partition_for_key(b"anything", 1), PartitionIndex(0));
    }
}

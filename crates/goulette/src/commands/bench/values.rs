//! Random values, so that nothing below can save itself the work.

use bytes::Bytes;
use goulette_env::Random;
use goulette_types::SplitMix64;

/// Random bytes to cut values from. Far more than a codec looks back, so that nothing can be compressed.
const POOL_BYTES: usize = 64 << 20;

/// Values to send, made before the clock starts.
pub(super) struct Values {
    pool: Bytes,
    size: usize,
}

impl Values {
    pub(super) fn new(random: &dyn Random, size: usize) -> Self {
        // The system's own generator would take seconds.
        let mut random = SplitMix64::new(random.next_u64());
        let mut pool = Vec::with_capacity(POOL_BYTES + size);
        while pool.len() < POOL_BYTES + size {
            pool.extend_from_slice(&random.next().to_le_bytes());
        }
        Self { pool: pool.into(), size }
    }

    /// The value of a record by its number; wraps around the pool.
    pub(super) fn get(&self, number: u64) -> Bytes {
        let at = (number.wrapping_mul(self.size as u64) % POOL_BYTES as u64) as usize;
        self.pool.slice(at..at + self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        let values = Values::new(&goulette_env::RealRandom, 100);
        assert_eq!(values.get(0).len(), 100);
        assert_ne!(values.get(0), values.get(1));
        let last = u64::MAX / 100;
        assert_eq!(values.get(last).len(), 100);
        assert!(Values::new(&goulette_env::RealRandom, 0).get(7).is_empty());
    }
}

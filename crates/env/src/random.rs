//! Randomness: salts, ids, jitter.

/// Draws random numbers.
pub trait Random: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;

    /// 128 random bits, never zero (zero stands for "none" in stored ids).
    fn next_id(&self) -> u128 {
        loop {
            let id = u128::from(self.next_u64()) << 64 | u128::from(self.next_u64());
            if id != 0 {
                return id;
            }
        }
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealRandom;

impl Random for RealRandom {
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        u64::from_le_bytes(bytes)
    }
}

//! The digest of a run: two runs of one seed must have the same.

use std::hash::{Hash, Hasher};

/// FNV-1a over everything that happens, in 64 bits: the standard library's hasher is not stable between releases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace(u64);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn note(&mut self, what: &impl Hash) {
        what.hash(self);
    }

    pub(crate) fn digest(self) -> u64 {
        self.0
    }
}

impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

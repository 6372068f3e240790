//! Positions in a log, and the counters that order its history.

use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }
    };
}

counter!(
    /// A record's place in its partition, from 0 and dense; at most `i64::MAX`, as in Kafka's batches.
    Offset(u64)
);
counter!(
    /// Rises with each leadership of a partition; at most `i32::MAX`, as in Kafka's batches.
    LeaderEpoch(u32)
);
counter!(
    /// Rises with each change of a partition's metadata.
    PartitionEpoch(u64)
);
counter!(
    /// A partition's place in its topic, from 0.
    PartitionIndex(u32)
);
counter!(
    /// Fences earlier lives of an idempotent producer; at most `i16::MAX`, as in Kafka's batches.
    ProducerEpoch(u16)
);
counter!(
    /// A version of the cluster's metadata, as the store counts it.
    Revision(u64)
);
counter!(
    /// Milliseconds since 1970-01-01 UTC, as in Kafka's records.
    Timestamp(i64)
);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Offset = Offset(0);
    /// The largest offset that a batch can carry.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// The offset `count` records later.
    ///
    /// # Panics
    /// Past [`Offset::MAX`], which no log reaches.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        let sum = self.0.checked_add(count).filter(|&sum| sum <= Self::MAX.0);
        Self(sum.expect("an offset stays below 2^63"))
    }

    /// How many records lie in `earlier..self`; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

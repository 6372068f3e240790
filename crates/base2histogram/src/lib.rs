//! Histograms for openraft, which counts sizes of batches and times of stages in them. This crate takes the place of
//! `base2histogram`, whose tables for sixteen scales take 27 MB of every process and of which one scale is used here
//! (`docs/adr/0025`). Its interface is the part of that crate's that openraft calls; the buckets are the same:
//! powers of two, in four parts each.

#![forbid(unsafe_code)]

use std::{fmt, marker::PhantomData};

/// Values below this have buckets of their own.
const SMALL: u64 = 8;
/// Each power of two above is divided in four.
const PARTS: usize = 4;
const BUCKETS: usize = SMALL as usize + (u64::BITS - SMALL.trailing_zeros()) as usize * PARTS;

/// Counts of values, each to within a quarter of its power of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Empty until the first value.
    counts: Vec<u64>,
    total: u64,
    tag: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// No values.
    pub fn new() -> Self {
        Self { counts: Vec::new(), total: 0, tag: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts.resize(BUCKETS, 0);
        self.counts[bucket_of(value)] += count;
        self.total += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least value of the bucket below or in which the share `p` (0 to 1) of all values is; 0 without values.
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = (self.total as f64 * p).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return least_of(bucket);
            }
        }
        0
    }

    /// The usual ones.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.10),
            p50: self.percentile(0.50),
            p90: self.percentile(0.90),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < SMALL {
        return value as usize;
    }
    let power = value.ilog2();
    let part = (value >> (power - PARTS.trailing_zeros())) as usize % PARTS;
    SMALL as usize + (power - SMALL.trailing_zeros()) as usize * PARTS + part
}

fn least_of(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(SMALL as usize) else { return bucket as u64 };
    let power = above / PARTS + SMALL.trailing_zeros() as usize;
    ((PARTS + above % PARTS) as u64) << (power - PARTS.trailing_zeros() as usize)
}

/// Percentiles of a histogram, in the unit of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a percentile is named by its number")]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(out, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]")
    }
}

/// Some histograms with names, shown as lines of percentiles.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    /// Nothing to show.
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// Adds a histogram.
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }

    /// The lines.
    pub fn compact(&self) -> String {
        self.to_string()
    }

    /// The lines.
    pub fn detailed(&self) -> String {
        self.to_string()
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series
            .iter()
            .try_for_each(|(name, histogram)| writeln!(out, "{name:>22}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_the_bucket_that_begins_at_or_below_it() {
        let powers = (0..64).flat_map(|power| [1_u64 << power, (1 << power) - 1, (1 << power) + (1 << power) / 3]);
        for value in (0..5000).chain(powers).chain([u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(least_of(bucket) <= value, "{value}");
            assert!(bucket + 1 == BUCKETS || value < least_of(bucket + 1), "{value}");
        }
        assert!((0..BUCKETS).all(|bucket| bucket_of(least_of(bucket)) == bucket));
    }

    #[test]
    fn percentiles_are_of_the_values_counted() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99, 0);
        (1..=100).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p5, stats.p50, stats.p99), (100, 1, 5, 48, 96));
    }
}

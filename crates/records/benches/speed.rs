//! How fast batches of 1 MiB are built, checked and decoded: `cargo bench -p goulette-records`.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the machine's own clock")]
#![allow(clippy::unwrap_used, reason = "nothing here may fail")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::Timestamp;

const BATCH_BYTES: usize = 1 << 20;

fn main() {
    println!("{:<24} {:>8} {:>10} {:>14}", "1 MiB batches", "record", "MB/s", "records/s");
    for value_bytes in [100, 1024] {
        let value = incompressible(value_bytes);
        let batch = build(&value, Compression::None);
        let bytes = batch.to_bytes();
        let limits = Limits::default();
        measure("build", value_bytes, &batch, || build(&value, Compression::None).encoded_bytes());
        measure("check (parse)", value_bytes, &batch, || {
            Batch::from_bytes(black_box(bytes.clone()), &limits).unwrap().encoded_bytes()
        });
        measure("iterate", value_bytes, &batch, || {
            batch.iter(&limits).unwrap().map(|record| record.unwrap().value.unwrap().len()).sum()
        });
    }
    // Text, as random bytes say nothing about a codec.
    let text = "2026-11-23T19:22:15Z INFO order 4711 accepted for customer 42, total 99.90 EUR; ".repeat(13);
    for compression in Compression::ALL.into_iter().skip(1) {
        let value = text.as_bytes();
        let plain = build(value, Compression::None);
        let batch = build(value, compression);
        measure(&format!("build {compression}"), value.len(), &plain, || build(value, compression).encoded_bytes());
        measure(&format!("decode {compression}"), value.len(), &plain, || {
            batch.decode(&Limits::default()).unwrap().len()
        });
    }
}

fn build(value: &[u8], compression: Compression) -> Batch {
    let mut builder = BatchBuilder::with_capacity(compression, Limits::default(), BATCH_BYTES + 4096);
    while builder.bytes_so_far() < BATCH_BYTES {
        builder.push(None, Some(value), &[], Timestamp(1_700_000_000_000)).unwrap();
    }
    builder.build()
}

fn incompressible(length: usize) -> Vec<u8> {
    let mut state = 42u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Runs for a second and prints how much of the (uncompressed) batch's bytes and records that makes.
fn measure(what: &str, value_bytes: usize, batch: &Batch, mut run: impl FnMut() -> usize) {
    let start = Instant::now();
    let mut runs = 0u32;
    while start.elapsed() < Duration::from_secs(1) {
        black_box(run());
        runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = f64::from(runs) * batch.encoded_bytes() as f64 / 1e6 / seconds;
    let records = f64::from(runs) * f64::from(batch.record_count()) / seconds;
    println!("{what:<24} {value_bytes:>6} B {megabytes:>10.0} {records:>14.0}");
}

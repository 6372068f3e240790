//! Writes a log of batches in every shape that clients may send, and what is in it, for another program to judge:
//! `write_batches LOG EXPECTED RECORDS`. The same records are sent through a broker by `produce_samples` of the client.
//!
//! `EXPECTED` holds one JSON object a line: offset, timestamp, key, value_bytes and value_crc32, header keys. Keys and
//! values are UTF-8, as Kafka's `DumpLogSegments` prints them as text.
#![allow(clippy::disallowed_methods, reason = "a tool for people and tests writes files by itself")]

mod sample;

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write},
};

use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use sample::Sample;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [log, expected, records] = &arguments[..] else {
        return Err("usage: write_batches LOG EXPECTED RECORDS".into());
    };
    let records: u64 = records.parse()?;
    let mut log = BufWriter::new(File::create(log)?);
    let mut expected = BufWriter::new(File::create(expected)?);

    let mut offset = 0;
    let mut batches = 0;
    while offset < records {
        // From batches of one record to some of many; each size meets each codec.
        let count = [1, 2, 17, 100, 400, 1500, 33][batches % 7].min(records - offset);
        let compression = Compression::ALL[batches % Compression::ALL.len()];
        let batch = batch(offset, count, compression, batches as u64, &mut expected)?;
        log.write_all(&batch.header_bytes())?;
        log.write_all(batch.records())?;
        offset += count;
        batches += 1;
    }
    log.flush()?;
    expected.flush()?;
    println!("{records} records in {batches} batches");
    Ok(())
}

fn batch(
    base: u64,
    count: u64,
    compression: Compression,
    number: u64,
    expected: &mut impl Write,
) -> Result<Batch, Box<dyn Error>> {
    let mut builder = BatchBuilder::new(compression, Limits::default());
    for offset in base..base + count {
        let record = Sample::new(offset);
        builder.push(record.key.as_deref(), record.value.as_deref(), &record.headers, record.timestamp)?;
        expected.write_all(to_json(&record, offset).as_bytes())?;
    }
    if number.is_multiple_of(3) {
        builder.set_producer(ProducerId(number), ProducerEpoch((number % 5) as u16), (base % 1000) as u32);
    }
    let mut batch = builder.build();
    batch.assign(Offset(base), LeaderEpoch((base / 10_000) as u32));
    Ok(batch)
}

/// A line; none of the texts needs escaping.
fn to_json(record: &Sample, offset: u64) -> String {
    let text = |bytes: &[u8]| format!("\"{}\"", String::from_utf8_lossy(bytes));
    let or_null = |text: Option<String>| text.unwrap_or_else(|| "null".into());
    let crc32 = |value: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(value);
        crc.sum()
    };
    let mut line = String::new();
    let _ = writeln!(
        line,
        r#"{{"offset":{offset},"timestamp":{},"key":{},"value_bytes":{},"value_crc32":{},"headers":[{}]}}"#,
        record.timestamp,
        or_null(record.key.as_deref().map(text)),
        or_null(record.value.as_deref().map(|value| value.len().to_string())),
        or_null(record.value.as_deref().map(|value| crc32(value).to_string())),
        record.headers.iter().map(|header| text(&header.key)).collect::<Vec<_>>().join(","),
    );
    line
}

//! What is built comes back, through every codec, whatever is in it.

use std::io::Write;

use bytes::Bytes;
use goulette_records::{Batch, BatchBuilder, Compression, Limits, PushError, Record, RecordHeader};
use goulette_types::{LeaderEpoch, Offset, Timestamp};
use proptest::{collection::vec, option, prelude::*};

fn bytes(length_max: usize) -> impl Strategy<Value = Bytes> {
    // Random bytes, and runs that compress.
    prop_oneof![
        vec(any::<u8>(), 0..length_max).prop_map(Bytes::from),
        (any::<u8>(), 0..length_max * 8).prop_map(|(byte, length)| vec![byte; length].into()),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let header =
        ("[a-zé]{0,8}", option::of(bytes(16))).prop_map(|(key, value)| RecordHeader { key: key.into(), value });
    (any::<i64>(), option::of(bytes(32)), option::of(bytes(600)), vec(header, 0..4)).prop_map(
        |(timestamp, key, value, headers)| Record {
            offset: Offset::ZERO,
            timestamp: Timestamp(timestamp),
            key,
            value,
            headers,
        },
    )
}

fn build(records: &[Record], compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new(compression, Limits::default());
    for record in records {
        builder.push(record.key.as_deref(), record.value.as_deref(), &record.headers, record.timestamp).unwrap();
    }
    assert_eq!(builder.count() as usize, records.len());
    builder.build()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_codec_gives_back_what_it_got(
        mut records in vec(record(), 1..60),
        codec in 0..Compression::ALL.len(),
        base in 0..1u64 << 62,
    ) {
        let mut batch = build(&records, Compression::ALL[codec]);
        batch.assign(Offset(base), LeaderEpoch(1));
        let batch = Batch::from_bytes(batch.to_bytes(), &Limits::default()).unwrap();
        for (index, record) in records.iter_mut().enumerate() {
            record.offset = Offset(base + index as u64);
        }
        prop_assert_eq!(batch.max_timestamp(), records.iter().map(|record| record.timestamp).max().unwrap());
        prop_assert_eq!(batch.decode(&Limits::default()).unwrap(), records);
    }

    #[test]
    fn no_bytes_panic(mut bytes in vec(any::<u8>(), 0..400), codec in 0u8..8, count in 1u8..20, magic in 0u8..20) {
        // A header that is nearly right, so that the rest is reached.
        if let Some(header) = bytes.first_chunk_mut::<61>() {
            header[..8].fill(0);
            header[16] = if magic == 0 { magic } else { 2 };
            header[12..16].fill(0xff);
            header[21..27].copy_from_slice(&[0, codec, 0, 0, 0, count - 1]);
            header[43..61].fill(0xff);
            header[57..61].copy_from_slice(&[0, 0, 0, count]);
            let length = bytes.len() as u32 - 12;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        if let Ok(batch) = Batch::from_bytes(bytes.clone().into(), &Limits::default()) {
            prop_assert_eq!(batch.to_bytes(), bytes);
            let _ = batch.decode(&Limits::default());
        }
    }
}

#[test]
fn a_large_batch_goes_through_every_codec() {
    let record = |n: u32| Record {
        offset: Offset(n.into()),
        timestamp: Timestamp(1_700_000_000_000 + i64::from(n)),
        key: Some(n.to_string().into()),
        value: Some(format!("value {n} ").repeat(50).into()),
        headers: vec![],
    };
    let records: Vec<_> = (0..5000).map(record).collect();
    for compression in Compression::ALL {
        let batch = build(&records, compression);
        assert_eq!(batch.compression(), compression);
        assert_eq!(batch.decode(&Limits::default()).unwrap(), records, "{compression}");
    }
}

#[test]
fn a_batch_that_compression_would_grow_is_left_alone() {
    let value: Vec<u8> = (0u32..64).map(|n| (n * 37) as u8).collect();
    let mut builder = BatchBuilder::new(Compression::Gzip, Limits::default());
    builder.push(None, Some(&value), &[], Timestamp(0)).unwrap();
    assert_eq!(builder.build().compression(), Compression::None);
}

/// The records of a batch with one long value, and the batch with them in another wrapping.
fn rewrap(codec: u8, wrap: impl Fn(&[u8]) -> Vec<u8>) -> (Batch, Bytes) {
    let value = Bytes::from(b"abcdefgh".repeat(30_000));
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    builder.push(None, Some(&value), &[], Timestamp(0)).unwrap();
    let plain = builder.build();
    let records = wrap(plain.records());
    let mut bytes = plain.header_bytes().to_vec();
    bytes[8..12].copy_from_slice(&(49 + records.len() as u32).to_be_bytes());
    bytes[22] = codec;
    bytes.extend(records);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    (Batch::from_bytes(bytes.into(), &Limits::default()).unwrap(), value)
}

fn assert_reads(codec: u8, wrap: impl Fn(&[u8]) -> Vec<u8>) {
    let (batch, value) = rewrap(codec, wrap);
    assert_eq!(batch.decode(&Limits::default()).unwrap()[0].value, Some(value));
}

#[test]
fn snappy_is_read_without_framing_too() {
    assert_reads(2, |raw| snap::raw::Encoder::new().compress_vec(raw).unwrap());
}

#[test]
fn lz4_is_read_with_linked_blocks_and_checksums_too() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    assert_reads(3, |raw| {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Linked)
            .block_size(BlockSize::Max64KB)
            .block_checksums(true)
            .content_checksum(true);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(raw).unwrap();
        encoder.finish().unwrap()
    });
}

#[test]
fn zstd_is_read_from_a_stream_of_unknown_size_too() {
    assert_reads(4, |raw| {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 19).unwrap();
        raw.chunks(1000).for_each(|chunk| encoder.write_all(chunk).unwrap());
        encoder.finish().unwrap()
    });
}

#[test]
fn a_full_builder_refuses_and_stays_as_it_was() {
    let limits = Limits { record_bytes_max: 100, batch_bytes_max: 200, ..Limits::default() };
    let mut builder = BatchBuilder::new(Compression::None, limits);
    assert_eq!(
        builder.push(None, Some(&[0; 100]), &[], Timestamp(0)),
        Err(PushError::TooLarge { bytes: 107, bytes_max: 100 })
    );
    assert!(builder.is_empty());
    builder.push(None, Some(&[1; 90]), &[], Timestamp(5)).unwrap();
    let before = builder.bytes_so_far();
    assert_eq!(builder.push(None, Some(&[2; 90]), &[], Timestamp(9)), Err(PushError::Full));
    assert_eq!(builder.bytes_so_far(), before);
    let batch = builder.build();
    assert_eq!((batch.encoded_bytes(), batch.max_timestamp()), (before, Timestamp(5)));
    Batch::from_bytes(batch.to_bytes(), &limits).unwrap();
}

#[test]
fn a_batch_is_full_at_a_million_records() {
    let mut builder = BatchBuilder::new(Compression::Lz4, Limits::WIDEST);
    for _ in 0..1_000_000 {
        builder.push(None, None, &[], Timestamp(0)).unwrap();
    }
    assert_eq!(builder.push(None, None, &[], Timestamp(0)), Err(PushError::Full));
    let batch = Batch::from_bytes(builder.build().to_bytes(), &Limits::default()).unwrap();
    assert_eq!(batch.iter(&Limits::default()).unwrap().map(Result::unwrap).count(), 1_000_000);
}

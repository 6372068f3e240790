//! Bytes written down by hand, after Kafka's documentation of the format.

use bytes::Bytes;
use goulette_records::{Batch, BatchBuilder, Compression, Limits, Record, RecordHeader};
use goulette_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// Two records at 1000 and 1002 ms: `k` = `v1` with the header `h` = `x`, and a null key with a null value.
const RECORDS: &[u8] = b"\
    \x1a\x00\x00\x00\x02k\x04v1\x02\x02h\x02x\
    \x0c\x00\x04\x02\x01\x01\x00";

/// CRC-32C, one bit at a time, so that the crate's own checksum is judged by another.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

fn golden() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(7i64.to_be_bytes()); // base offset
    bytes.extend((49 + RECORDS.len() as i32).to_be_bytes());
    bytes.extend(3i32.to_be_bytes()); // leader epoch
    bytes.push(2); // magic
    bytes.extend([0; 4]); // CRC
    bytes.extend([0, 0]); // attributes
    bytes.extend(1i32.to_be_bytes()); // last offset delta
    bytes.extend(1000i64.to_be_bytes());
    bytes.extend(1002i64.to_be_bytes());
    bytes.extend(99i64.to_be_bytes()); // producer id
    bytes.extend(4i16.to_be_bytes()); // producer epoch
    bytes.extend(5i32.to_be_bytes()); // base sequence
    bytes.extend(2i32.to_be_bytes()); // record count
    bytes.extend(RECORDS);
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn the_checksum_of_the_tests_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn the_builder_writes_kafkas_bytes() {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    let header = RecordHeader { key: Bytes::from_static(b"h"), value: Some(Bytes::from_static(b"x")) };
    builder.push(Some(b"k"), Some(b"v1"), &[header], Timestamp(1000)).unwrap();
    builder.push(None, None, &[], Timestamp(1002)).unwrap();
    builder.set_producer(ProducerId(99), ProducerEpoch(4), 5);
    let mut batch = builder.build();
    batch.assign(Offset(7), LeaderEpoch(3));
    assert_eq!(batch.to_bytes(), golden());
}

#[test]
fn kafkas_bytes_are_read() {
    let batch = Batch::from_bytes(golden().into(), &Limits::default()).unwrap();
    assert_eq!(batch.to_bytes(), golden());
    assert_eq!((batch.base_offset(), batch.last_offset(), batch.next_offset()), (Offset(7), Offset(8), Offset(9)));
    assert_eq!(batch.leader_epoch(), Some(LeaderEpoch(3)));
    let producer = batch.producer().unwrap();
    assert_eq!((producer.id, producer.epoch), (ProducerId(99), ProducerEpoch(4)));
    assert_eq!((producer.base_sequence, producer.last_sequence, producer.next_sequence()), (5, 6, 7));
    assert_eq!(
        batch.decode(&Limits::default()).unwrap(),
        [
            Record {
                offset: Offset(7),
                timestamp: Timestamp(1000),
                key: Some("k".into()),
                value: Some("v1".into()),
                headers: vec![RecordHeader { key: "h".into(), value: Some("x".into()) }],
            },
            Record { offset: Offset(8), timestamp: Timestamp(1002), key: None, value: None, headers: vec![] },
        ]
    );
}

#[test]
fn assigning_an_offset_leaves_crc_and_records_alone() {
    let parsed = Batch::from_bytes(golden().into(), &Limits::default()).unwrap();
    let mut assigned = parsed.clone();
    assigned.assign(Offset(1 << 40), LeaderEpoch(12));
    assert_eq!(assigned.to_bytes()[16..], parsed.to_bytes()[16..]);
    assert_eq!(assigned.records().as_ptr(), parsed.records().as_ptr());
    let again = Batch::from_bytes(assigned.to_bytes(), &Limits::default()).unwrap();
    assert_eq!(again.last_offset(), Offset((1 << 40) + 1));
    assert_eq!(again.decode(&Limits::default()).unwrap()[1].offset, Offset((1 << 40) + 1));
}

#[test]
fn a_batch_that_takes_another_producer_has_a_valid_crc() {
    let mut batch = Batch::from_bytes(golden().into(), &Limits::default()).unwrap();
    batch.set_producer(ProducerId(100), ProducerEpoch(0), i32::MAX as u32);
    let again = Batch::from_bytes(batch.to_bytes(), &Limits::default()).unwrap();
    let producer = again.producer().unwrap();
    assert_eq!(producer.last_sequence, 0, "0 follows i32::MAX");
    assert_eq!(producer.next_sequence(), 1);
}

#[test]
fn log_append_time_is_the_time_of_every_record() {
    let mut bytes = golden();
    bytes[22] |= 1 << 3;
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let batch = Batch::from_bytes(bytes.into(), &Limits::default()).unwrap();
    assert!(batch.decode(&Limits::default()).unwrap().iter().all(|record| record.timestamp == Timestamp(1002)));
}

#[test]
fn bits_that_mean_nothing_to_us_are_passed_on() {
    let mut bytes = golden();
    bytes[21] = 0x80;
    bytes[22] |= 1 << 4 | 1 << 5 | 1 << 6;
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let batch = Batch::from_bytes(bytes.clone().into(), &Limits::default()).unwrap();
    assert!(batch.attributes().is_transactional() && batch.attributes().is_control());
    assert_eq!(batch.to_bytes(), bytes);
}

#[test]
fn decoded_fields_are_slices_of_the_batch() {
    let batch = Batch::from_bytes(golden().into(), &Limits::default()).unwrap();
    let value = batch.decode(&Limits::default()).unwrap()[0].value.clone().unwrap();
    assert!(batch.records().as_ptr_range().contains(&value.as_ptr()));
}

/// The files were written by Kafka 4.1 itself, with snappy-java, lz4-java and zstd-jni: see `WriteBatches.java`.
#[test]
fn batches_that_kafka_compressed_are_read() {
    for (compression, bytes) in [
        (Compression::Gzip, &include_bytes!("testdata/kafka-4.1-gzip.batch")[..]),
        (Compression::Snappy, include_bytes!("testdata/kafka-4.1-snappy.batch")),
        (Compression::Lz4, include_bytes!("testdata/kafka-4.1-lz4.batch")),
        (Compression::Zstd, include_bytes!("testdata/kafka-4.1-zstd.batch")),
    ] {
        let batch = Batch::from_bytes(Bytes::from_static(bytes), &Limits::default()).unwrap();
        assert_eq!(batch.compression(), compression);
        assert_eq!(batch.to_bytes(), bytes);
        assert_eq!((batch.base_offset(), batch.leader_epoch()), (Offset(1000), Some(LeaderEpoch(9))));
        let producer = batch.producer().unwrap();
        assert_eq!((producer.id, producer.epoch), (ProducerId(77), ProducerEpoch(3)));
        assert_eq!((producer.base_sequence, producer.last_sequence), (12, 311));

        let records = batch.decode(&Limits::default()).unwrap();
        assert_eq!(records.len(), 300);
        for (n, record) in records.into_iter().enumerate() {
            let bare = n % 10 == 0;
            let expected = Record {
                offset: Offset(1000 + n as u64),
                timestamp: Timestamp(5 * n as i64),
                key: (!bare).then(|| format!("key-{n}").into()),
                value: (!bare).then(|| format!("value {n} ").repeat(100).into()),
                headers: vec![RecordHeader { key: "h".into(), value: Some(vec![n as u8].into()) }],
            };
            assert_eq!(record, expected, "{compression}");
        }
    }
}

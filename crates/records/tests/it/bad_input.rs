//! One lie at a time, and the error that names it.

use bytes::Bytes;
use goulette_records::{Batch, BatchBuilder, BatchError, Compression, Limits};
use goulette_types::{ErrorKind, ProducerEpoch, ProducerId, Timestamp};

/// A batch of three records `a`, `b`, `c`, eight bytes each.
fn good(compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, Limits::default());
    for value in ["a", "b", "c"] {
        builder.push(None, Some(value.as_bytes()), &[], Timestamp(1)).unwrap();
    }
    builder.set_producer(ProducerId(1), ProducerEpoch(0), 0);
    builder.build().to_bytes().into()
}

/// The batch around other records; its codec is what the attributes' low byte says.
fn with_records(codec: u8, count: u32, records: &[u8]) -> Vec<u8> {
    let mut bytes = good(Compression::None)[..61].to_vec();
    bytes[22] = codec;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    bytes.extend(records);
    let length = bytes.len() as u32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    sealed(bytes)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn parse(bytes: Vec<u8>) -> Result<Batch, BatchError> {
    Batch::from_bytes(bytes.into(), &Limits::default())
}

/// The error of the good batch with some of its bytes replaced, under a CRC that fits.
fn error_with(at: usize, bytes: &[u8]) -> BatchError {
    let mut batch = good(Compression::None);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    parse(sealed(batch)).unwrap_err()
}

#[test]
fn a_header_that_is_cut_off_is_refused() {
    for length in 0..61 {
        let error = parse(good(Compression::None)[..length].to_vec()).unwrap_err();
        assert_eq!(error, BatchError::HeaderBytes { given: length });
    }
    let error = Batch::parse(&[0; 62], Bytes::new(), &Limits::default()).unwrap_err();
    assert_eq!(error, BatchError::HeaderBytes { given: 62 });
}

#[test]
fn another_magic_is_refused_before_anything_else() {
    for magic in [0i8, 1, 3, -1] {
        let mut batch = vec![0xff; 70];
        batch[16] = magic as u8;
        let error = parse(batch).unwrap_err();
        assert_eq!(error, BatchError::Magic { magic });
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_length_that_lies_is_refused() {
    let batch = good(Compression::None);
    let actual = batch.len() as u64;
    for stated in [0, 48, actual as i32 - 13, actual as i32 - 11, i32::MAX, -1, i32::MIN] {
        let error = error_with(8, &stated.to_be_bytes());
        assert!(matches!(error, BatchError::Length { stated: s, .. } if s == i64::from(stated) + 12), "{error}");
    }
    for length in 61..batch.len() {
        let error = parse(batch[..length].to_vec()).unwrap_err();
        assert_eq!(error, BatchError::Length { stated: actual as i64, actual: length as u64 });
    }
}

#[test]
fn every_flipped_bit_under_the_crc_is_found() {
    let batch = good(Compression::None);
    for at in 17..batch.len() {
        for bit in 0..8 {
            let mut rotten = batch.clone();
            rotten[at] ^= 1 << bit;
            assert!(parse(rotten).is_err(), "bit {bit} of byte {at}");
        }
    }
    let mut rotten = batch;
    *rotten.last_mut().unwrap() ^= 1;
    let error = parse(rotten).unwrap_err();
    assert!(matches!(error, BatchError::Crc { .. }));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_count_that_is_not_allowed_is_refused() {
    for count in [0, -1, 1_000_001, i32::MIN] {
        assert_eq!(error_with(57, &count.to_be_bytes()), BatchError::RecordCount { count });
    }
}

#[test]
fn offsets_that_are_not_dense_are_refused() {
    for delta in [0, 1, 3, -1, i32::MAX] {
        assert_eq!(error_with(23, &delta.to_be_bytes()), BatchError::OffsetDelta { delta, count: 3 });
    }
}

#[test]
fn header_fields_that_mean_nothing_are_refused() {
    let field = |field, value| BatchError::Field { field, value };
    assert_eq!(error_with(0, &(-1i64).to_be_bytes()), field("base offset", -1));
    let last = i64::MAX - 2;
    assert_eq!(error_with(0, &last.to_be_bytes()), field("base offset", last));
    assert_eq!(error_with(12, &(-2i32).to_be_bytes()), field("leader epoch", -2));
    assert_eq!(error_with(43, &(-2i64).to_be_bytes()), field("producer id", -2));
    assert_eq!(error_with(51, &(-1i16).to_be_bytes()), field("producer epoch", -1));
    assert_eq!(error_with(53, &(-1i32).to_be_bytes()), field("base sequence", -1));
}

#[test]
fn an_unknown_codec_is_refused() {
    for codec in 5..8 {
        let error = error_with(21, &[0, codec as u8]);
        assert_eq!(error, BatchError::Codec { codec });
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_batch_over_the_limit_is_refused() {
    let limits = Limits { batch_bytes_max: 84, ..Limits::default() };
    let error = Batch::from_bytes(good(Compression::None).into(), &limits).unwrap_err();
    assert_eq!(error, BatchError::BatchTooLarge { bytes: 85, bytes_max: 84 });
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(Batch::from_bytes(good(Compression::None).into(), &Limits { batch_bytes_max: 85, ..limits }).is_ok());
}

#[test]
fn a_record_over_the_limit_is_refused() {
    let limits = Limits { record_bytes_max: 6, ..Limits::default() };
    let error = Batch::from_bytes(good(Compression::None).into(), &limits).unwrap_err();
    assert_eq!(error, BatchError::RecordTooLarge { index: 0, bytes: 7, bytes_max: 6 });
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn records_that_do_not_fill_the_batch_are_refused() {
    let body = good(Compression::None)[61..].to_vec();
    let record = |index, fault| BatchError::Record { index, fault };
    let error = |count, records: &[u8]| parse(with_records(0, count, records)).unwrap_err();

    assert_eq!(error(4, &body), record(3, "is missing"));
    assert_eq!(error(2, &body), BatchError::Trailing { count: 2, bytes: 8 });
    assert_eq!(error(3, &body[..23]), record(2, "is longer than the bytes left"));
    assert_eq!(error(1, &[0x80]), record(0, "has no valid length"));
    assert_eq!(error(1, &[0x80, 0x80, 0x80, 0x80, 0x80, 0]), record(0, "has no valid length"));
    assert_eq!(error(1, &[0x01, 0]), record(0, "has a negative length"));
    assert_eq!(error(1, &[0x0a, 0, 0, 0, 0, 0]), record(0, "is shorter than a record can be"));
    assert_eq!(error(1, &[]), record(0, "is missing"));
}

#[test]
fn fields_that_do_not_fill_their_record_are_found_by_decoding() {
    let error = |record: &[u8]| {
        let mut records = vec![record.len() as u8 * 2];
        records.extend(record);
        let error = parse(with_records(0, 1, &records)).unwrap().decode(&Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        match error {
            BatchError::Record { index: 0, fault } => fault,
            other => panic!("{other}"),
        }
    };
    // attributes, timestamp delta, offset delta, key, value, headers
    assert_eq!(error(&[0, 0x80, 0x80, 0x80, 0x80, 0x80]), "has no valid timestamp delta");
    assert_eq!(error(&[0, 0, 0x80, 0x80, 0x80, 0x80]), "has no valid offset delta");
    assert_eq!(error(&[0, 0, 2, 1, 1, 0]), "has another offset delta than its place in the batch");
    assert_eq!(error(&[0, 0, 0, 0x80, 0x80, 0x80]), "has no valid key length");
    assert_eq!(error(&[0, 0, 0, 3, 1, 0]), "has no valid key length");
    assert_eq!(error(&[0, 0, 0, 6, 1, 0]), "has a key that is longer than the record");
    assert_eq!(error(&[0, 0, 0, 1, 0x80, 0x80]), "has no valid value length");
    assert_eq!(error(&[0, 0, 0, 1, 4, 0]), "has a value that is longer than the record");
    assert_eq!(error(&[0, 0, 0, 1, 2, 0]), "has no valid header count");
    assert_eq!(error(&[0, 0, 0, 1, 1, 1]), "has a negative header count");
    assert_eq!(error(&[0, 0, 0, 1, 1, 2]), "has more headers than bytes for them");
    assert_eq!(error(&[0, 0, 0, 1, 1, 2, 1, 1]), "has a header without a key");
    assert_eq!(error(&[0, 0, 0, 1, 1, 2, 4, 1]), "has a header that is longer than the record");
    assert_eq!(error(&[0, 0, 0, 1, 1, 2, 0, 0x80]), "has no valid header value length");
    assert_eq!(error(&[0, 0, 0, 1, 1, 0, 0]), "is longer than its fields");
}

#[test]
fn a_field_that_reaches_into_the_next_record_is_found() {
    let records = [14, 0, 0, 0, 1, 4, b'a', 0, 14, 0, 0, 2, 1, 2, b'b', 0];
    let error = parse(with_records(0, 2, &records)).unwrap().decode(&Limits::default()).unwrap_err();
    assert_eq!(error, BatchError::Record { index: 0, fault: "has no valid header count" });
    let records = [14, 0, 0, 0, 1, 6, b'a', 0, 14, 0, 0, 2, 1, 2, b'b', 0];
    let error = parse(with_records(0, 2, &records)).unwrap().decode(&Limits::default()).unwrap_err();
    assert_eq!(error, BatchError::Record { index: 0, fault: "has a value that is longer than the record" });
}

#[test]
fn a_header_count_beyond_all_memory_is_refused_at_once() {
    let record = [22, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0];
    let error = parse(with_records(0, 1, &record)).unwrap().decode(&Limits::default()).unwrap_err();
    assert_eq!(error, BatchError::Record { index: 0, fault: "has more headers than bytes for them" });
}

#[test]
fn an_iterator_ends_behind_the_first_error() {
    let mut records = good(Compression::None)[61..].to_vec();
    records[8 + 3] = 40; // the second record's offset delta
    let batch = parse(with_records(0, 3, &records)).unwrap();
    let seen: Vec<_> = batch.iter(&Limits::default()).unwrap().collect();
    assert!(matches!(seen[..], [Ok(_), Err(BatchError::Record { index: 1, .. })]), "{seen:?}");
}

#[test]
fn compressed_records_of_another_count_are_found_by_decoding() {
    let raw = good(Compression::None)[61..].to_vec();
    let zstd = zstd::bulk::compress(&raw, 1).unwrap();
    let error = |count| parse(with_records(4, count, &zstd)).unwrap().decode(&Limits::default()).unwrap_err();
    assert_eq!(error(4), BatchError::Record { index: 3, fault: "is missing" });
    assert_eq!(error(2), BatchError::Trailing { count: 2, bytes: 8 });
    assert_eq!(error(1_000_000), BatchError::Record { index: 3, fault: "is missing" });
}

#[test]
fn compressed_rubbish_is_an_error_for_every_codec() {
    for codec in 1..=4 {
        for rubbish in [&b""[..], b"\0", b"rubbish of some length, which is no codec's", &[0xff; 64]] {
            let batch = parse(with_records(codec, 1, rubbish)).unwrap();
            let error = batch.decode(&Limits::default()).unwrap_err();
            assert_eq!(
                error.kind(),
                if matches!(error, BatchError::DecompressedTooLarge { .. }) {
                    ErrorKind::TooLarge
                } else {
                    ErrorKind::Corrupt
                }
            );
        }
    }
}

#[test]
fn compressed_records_cut_anywhere_are_an_error() {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    builder.push(None, Some(&b"abcd".repeat(500)), &[], Timestamp(0)).unwrap();
    for (codec, compression) in Compression::ALL.into_iter().enumerate().skip(1) {
        let mut builder = BatchBuilder::new(compression, Limits::default());
        builder.push(None, Some(&b"abcd".repeat(500)), &[], Timestamp(0)).unwrap();
        let records = builder.build().records().clone();
        for length in 0..records.len() {
            let batch = parse(with_records(codec as u8, 1, &records[..length])).unwrap();
            // A decoder may have yielded all the records before it misses its own end mark.
            if let Ok(decoded) = batch.decode(&Limits::default()) {
                assert_eq!(decoded[0].value.as_deref(), Some(&b"abcd".repeat(500)[..]), "{compression} at {length}");
            }
        }
    }
}

#[test]
fn a_decompression_bomb_is_refused_after_bounded_work() {
    let limits = Limits { decompressed_bytes_max: 1 << 20, ..Limits::default() };
    for compression in Compression::ALL {
        // 32 MiB of zeros, with which nothing is wrong but the reader's limit.
        let mut builder = BatchBuilder::new(compression, Limits::WIDEST);
        builder.push(None, Some(&vec![0; 32 << 20]), &[], Timestamp(0)).unwrap();
        let batch = Batch::from_bytes(builder.build().to_bytes(), &Limits::WIDEST).unwrap();
        let error = batch.decode(&limits).unwrap_err();
        assert_eq!(error, BatchError::DecompressedTooLarge { compression, bytes_max: 1 << 20 });
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
}

#[test]
fn a_snappy_block_that_states_more_than_it_can_hold_is_refused() {
    // Four bytes that state 32 MiB, which is below the limit.
    let error = parse(with_records(2, 1, &[0x80, 0x80, 0x80, 0x10])).unwrap().decode(&Limits::default()).unwrap_err();
    let reason = "a block states more bytes than it can hold".to_owned();
    assert_eq!(error, BatchError::Decompress { compression: Compression::Snappy, reason });
}

#[test]
fn clients_may_not_write_what_brokers_write() {
    let batch = |attributes| {
        let mut bytes = good(Compression::None);
        bytes[22] = attributes;
        parse(sealed(bytes)).unwrap()
    };
    assert_eq!(batch(0).check_from_client(), Ok(()));
    assert_eq!(batch(1 << 4).check_from_client(), Ok(()), "transactional");
    assert_eq!(batch(1 << 5).check_from_client(), Err(BatchError::Control));
    assert_eq!(batch(1 << 3).check_from_client(), Err(BatchError::LogAppendTime));
    assert_eq!(batch(1 << 5).producer(), None, "a control batch takes part in no sequence");
}

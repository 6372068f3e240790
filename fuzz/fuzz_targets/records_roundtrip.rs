//! Records of any shape, through any codec: what was pushed is what is decoded.
#![no_main]

use bytes::Bytes;
use goulette_records::{Batch, BatchBuilder, Compression, Limits, PushError, RecordHeader};
use goulette_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use libfuzzer_sys::{arbitrary, arbitrary::Arbitrary, fuzz_target};

#[derive(Arbitrary, Debug)]
struct Input {
    codec: u8,
    base_offset: u32,
    leader_epoch: u16,
    producer: Option<(u32, u8, u16)>,
    records: Vec<InputRecord>,
}

#[derive(Arbitrary, Debug)]
struct InputRecord {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// The value is repeated, so that the codecs find something to do.
    times: u8,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fuzz_target!(|input: Input| {
    let limits = Limits { record_bytes_max: 4 << 10, batch_bytes_max: 64 << 10, ..Limits::default() };
    let compression = Compression::ALL[usize::from(input.codec) % Compression::ALL.len()];
    let mut builder = BatchBuilder::new(compression, limits);
    let mut pushed = Vec::new();
    for record in input.records {
        let value = record.value.map(|value| value.repeat(usize::from(record.times)));
        let headers: Vec<_> = record
            .headers
            .into_iter()
            .map(|(key, value)| RecordHeader { key: key.into(), value: value.map(Bytes::from) })
            .collect();
        match builder.push(record.key.as_deref(), value.as_deref(), &headers, Timestamp(record.timestamp)) {
            Ok(()) => pushed.push((record.timestamp, record.key, value, headers)),
            Err(PushError::TooLarge { .. }) => {}
            Err(PushError::Full) => break,
        }
    }
    if pushed.is_empty() {
        return;
    }
    if let Some((id, epoch, sequence)) = input.producer {
        builder.set_producer(ProducerId(id.into()), ProducerEpoch(epoch.into()), sequence.into());
    }
    let mut batch = builder.build();
    batch.assign(Offset(input.base_offset.into()), LeaderEpoch(input.leader_epoch.into()));

    let batch = Batch::from_bytes(batch.to_bytes(), &limits).expect("the builder keeps to the limits");
    batch.check_from_client().expect("a client's batch");
    assert_eq!(batch.producer().map(|producer| producer.id.0 as u32), input.producer.map(|producer| producer.0));
    let decoded = batch.decode(&limits).expect("the builder's records are valid");
    assert_eq!(decoded.len(), pushed.len());
    for (index, (record, (timestamp, key, value, headers))) in decoded.iter().zip(&pushed).enumerate() {
        assert_eq!(record.offset, Offset(u64::from(input.base_offset) + index as u64));
        assert_eq!(record.timestamp, Timestamp(*timestamp));
        assert_eq!(record.key.as_deref(), key.as_deref());
        assert_eq!(record.value.as_deref(), value.as_deref());
        assert_eq!(&record.headers, headers);
    }
});

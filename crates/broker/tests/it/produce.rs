//! Batches in.

use bytes::Bytes;
use goulette_env::Env;
use goulette_proto::pb;
use goulette_records::{Attributes, BatchBuilder, Compression, Header, Limits};
use goulette_types::{ErrorKind, PartitionId, PartitionIndex, Timestamp, TopicId};

use crate::{
    disk::Gate,
    harness::{
        Producer, Reader, batch, channel, connect, ends, kind, numbered, options, request, soon, start, start_with,
        wire,
    },
    sentinel::FakeSentinel,
};

#[tokio::test]
async fn what_is_acknowledged_can_be_read_at_once_and_in_order() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    assert_eq!(producer.grant.batches_in_flight, 32);
    assert_eq!(producer.grant.batch_bytes_max, 8 << 20);

    assert_eq!(producer.store(partition, &batch(["a", "b"])).await, 0);
    assert_eq!(ends(&mut client, partition).await, (0, 2));
    assert_eq!(producer.store(partition, &batch(["c"])).await, 2);
    assert_eq!(ends(&mut client, partition).await, (0, 3));
    assert_eq!(Reader::from(&mut client, partition, 0).await.values(3).await, ["a", "b", "c"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_sent_again_over_another_connection_is_stored_once() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut producer = Producer::open(&mut connect(&broker).await).await;
    producer.store(partition, &numbered(9, 0, ["a", "b"])).await;
    producer.store(partition, &numbered(9, 2, ["c"])).await;
    drop(producer);

    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    for (sequence, offset) in [(0, 0), (2, 2)] {
        let again = if sequence == 0 { numbered(9, 0, ["a", "b"]) } else { numbered(9, 2, ["c"]) };
        producer.send(partition, &again).await;
        let ack = producer.ack().await;
        assert_eq!((ack.base_offset, ack.duplicate, ack.error), (Some(offset), true, None));
    }
    assert_eq!(producer.store(partition, &numbered(9, 3, ["d"])).await, 3);
    let gap = producer.refused(request(partition, wire(&numbered(9, 7, ["x"])))).await;
    assert_eq!(kind(&gap), ErrorKind::OutOfOrder);
    assert_eq!(ends(&mut client, partition).await, (0, 4));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn each_bad_batch_is_refused_for_its_own_reason_and_none_is_stored() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;

    let good = wire(&batch(["hello"]));
    let header = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.header.to_vec();
        change(&mut bytes);
        pb::Batch { header: bytes.into(), records: good.records.clone() }
    };
    let mut flipped = good.records.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let large = "x".repeat(1 << 20);
    let control = {
        let mut header = Header::parse(&batch(["hello"]).header_bytes()).unwrap();
        header.attributes = Attributes(header.attributes.0 | 1 << 5);
        header.crc = header.checksum(&good.records);
        pb::Batch { header: Bytes::copy_from_slice(&header.to_bytes()), records: good.records.clone() }
    };
    let cases = [
        ("a flipped bit", pb::Batch { header: good.header.clone(), records: flipped.into() }, ErrorKind::Corrupt),
        ("another magic", header(&|bytes| bytes[16] = 1), ErrorKind::Unsupported),
        ("a length that lies", header(&|bytes| bytes[11] += 1), ErrorKind::Corrupt),
        ("a length without bounds", header(&|bytes| bytes[8] = 0x7f), ErrorKind::Corrupt),
        ("a negative length", header(&|bytes| bytes[8] = 0xff), ErrorKind::Corrupt),
        ("half a header", pb::Batch { header: good.header.slice(..30), records: Bytes::new() }, ErrorKind::Corrupt),
        ("nothing", pb::Batch::default(), ErrorKind::Corrupt),
        ("a record over the limit", wire(&batch([large.as_str()])), ErrorKind::TooLarge),
        ("a control batch", control, ErrorKind::Invalid),
    ];
    for (what, bad, expected) in cases {
        let error = producer.refused(request(partition, bad)).await;
        assert_eq!(kind(&error), expected, "{what}: {error:?}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{what}: {error:?}");
    }
    let error = producer.refused(pb::ProduceRequest { batch: None, ..request(partition, good.clone()) }).await;
    assert_eq!(kind(&error), ErrorKind::Invalid);
    let error = producer.refused(pb::ProduceRequest { acks: 77, ..request(partition, good.clone()) }).await;
    assert_eq!(kind(&error), ErrorKind::Invalid);
    let topic_id = Bytes::from_static(b"short");
    let error = producer.refused(pb::ProduceRequest { topic_id, ..request(partition, good.clone()) }).await;
    assert_eq!(kind(&error), ErrorKind::Invalid);

    assert_eq!(ends(&mut client, partition).await, (0, 0));
    // The stream has gone on all the while.
    assert_eq!(producer.store(partition, &batch(["hello"])).await, 0);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_over_the_limit_is_too_large_and_a_message_far_over_it_ends_the_stream() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let mut small = options(sentinel.address, dir.path());
    small.limits.batch_bytes_max = 1 << 10;
    let broker = start_with(small, Env::real()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    assert_eq!(producer.grant.batch_bytes_max, 1 << 10);

    let value = "x".repeat(2 << 10);
    let error = producer.refused(request(partition, wire(&batch([value.as_str()])))).await;
    assert_eq!(kind(&error), ErrorKind::TooLarge);
    assert!(error.message.contains("1024"), "{error:?}");

    let value = "x".repeat(1 << 20);
    producer.send(partition, &batch([value.as_str()])).await;
    assert!(producer.try_ack().await.is_err());
    assert_eq!(ends(&mut client, partition).await, (0, 0));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn who_does_not_lead_says_so_and_the_stream_goes_on() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut producer = Producer::open(&mut connect(&broker).await).await;
    let good = wire(&batch(["a"]));

    let elsewhere = PartitionId { index: PartitionIndex(7), ..partition };
    let unknown = PartitionId { topic: TopicId(404), ..partition };
    for other in [elsewhere, unknown] {
        let error = producer.refused(request(other, good.clone())).await;
        assert_eq!(kind(&error), ErrorKind::NotLeader);
    }
    let later = pb::ProduceRequest { leader_epoch: 9, ..request(partition, good.clone()) };
    let error = producer.refused(later).await;
    assert_eq!(kind(&error), ErrorKind::NotLeader);
    assert!(error.message.contains("t/0") && error.message.contains('9'), "{error:?}");
    assert_eq!(producer.store(partition, &batch(["a"])).await, 0);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn batches_beyond_the_grant_are_busy_and_the_others_are_stored_in_order() {
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let mut narrow = options(sentinel.address, dir.path());
    narrow.batches_in_flight = 2;
    let broker = start_with(narrow, gate.env()).await.unwrap();
    let (partition, other) = (sentinel.assign("t", 0).await, sentinel.assign("t", 1).await);
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;

    gate.shut();
    for sequence in 0..3 {
        producer.send(partition, &numbered(1, sequence, ["x"])).await;
    }
    // Another producer, and another partition, have windows of their own.
    producer.send(partition, &numbered(2, 0, ["y"])).await;
    producer.send(other, &numbered(1, 0, ["z"])).await;
    let busy = producer.ack().await;
    assert_eq!((busy.request_id, kind(&busy.error.unwrap())), (3, ErrorKind::Busy));
    gate.open();
    let mut offsets = Vec::new();
    for _ in 0..4 {
        let ack = producer.ack().await;
        assert_eq!(ack.error, None);
        offsets.push((ack.request_id, ack.base_offset.unwrap()));
    }
    assert_eq!(offsets, [(1, 0), (2, 1), (4, 2), (5, 0)]);
    assert_eq!(producer.store(partition, &numbered(1, 2, ["x"])).await, 3);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn acks_none_is_answered_while_the_disk_is_still_busy() {
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let broker = start_with(options(sentinel.address, dir.path()), gate.env()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;

    gate.shut();
    let none = pb::ProduceRequest { acks: pb::Acks::None.into(), ..request(partition, wire(&batch(["a"]))) };
    producer.request(none).await;
    let ack = producer.ack().await;
    assert_eq!((ack.base_offset, ack.acks(), &ack.error), (None, pb::Acks::None, &None));
    assert_eq!(ends(&mut client, partition).await, (0, 0));
    gate.open();
    assert_eq!(producer.store(partition, &batch(["b"])).await, 1);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_producer_faster_than_the_disk_is_held_back_within_the_byte_budget() {
    const BATCHES: usize = 64;
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let mut tight = options(sentinel.address, dir.path());
    tight.produce_bytes_max = 1 << 20;
    let broker = start_with(tight, gate.env()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producers = Vec::new();
    for _ in 0..4 {
        producers.push(Producer::open(&mut client).await);
    }

    gate.shut();
    let value = "x".repeat(200 << 10);
    for sent in 0..BATCHES {
        producers[sent % 4].send(partition, &batch([value.as_str()])).await;
    }
    // The budget has room for five of them; the sixth waits, and what is behind it stays in its socket.
    let mut admin = pb::admin_client::AdminClient::new(channel(broker.address()).await);
    let used = soon(async {
        loop {
            let info = admin.get_info(pb::GetInfoRequest {}).await.unwrap().into_inner();
            let used: u64 = info.details["produce_bytes_in_flight"].parse().unwrap();
            if used >= 5 * (200 << 10) {
                break used;
            }
        }
    })
    .await;
    assert!(used <= 1 << 20, "{used}");
    gate.open();
    for answered in 0..BATCHES {
        assert_eq!(producers[answered % 4].ack().await.error, None);
    }
    assert_eq!(ends(&mut client, partition).await, (0, BATCHES as u64));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_full_holds_the_producer_back_instead_of_leaving_a_gap() {
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let mut full = options(sentinel.address, dir.path());
    full.log.unflushed_bytes_max = 300 << 10;
    let broker = start_with(full, gate.env()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;

    gate.shut();
    let value = "x".repeat(100 << 10);
    for sequence in 0..10 {
        producer.send(partition, &numbered(1, sequence, [value.as_str()])).await;
    }
    gate.open();
    for offset in 0..10 {
        let ack = producer.ack().await;
        assert_eq!((ack.base_offset, ack.error), (Some(offset), None));
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn compressed_batches_pass_through_as_they_are() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    let mut sent = Vec::new();
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new(compression, Limits::default());
        for _ in 0..10 {
            builder.push(Some(b"key"), Some(&[7; 500]), &[], Timestamp(5)).unwrap();
        }
        let batch = builder.build();
        assert_eq!(batch.compression(), compression);
        producer.store(partition, &batch).await;
        sent.push(batch.records().clone());
    }
    let mut reader = Reader::from(&mut client, partition, 0).await;
    let mut read = Vec::new();
    while read.len() < sent.len() {
        read.extend(reader.frame().await.batches.into_iter().map(|batch| batch.records));
    }
    assert_eq!(read, sent);
    broker.stop().await.unwrap();
}

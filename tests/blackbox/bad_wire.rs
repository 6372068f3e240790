//! Batches that lie, sent past our own client: each is refused by its ack, the stream goes on, nothing is stored.

use bytes::{Bytes, BytesMut};
use goulette_proto::pb::{self, broker_client::BrokerClient, sentinel_client::SentinelClient};
use goulette_records::{Batch, BatchBuilder, Compression, HEADER_BYTES, Limits};
use goulette_types::{ErrorKind, Timestamp};
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::{Cluster, PATIENCE, text};

/// A valid batch of one record, in one piece.
fn valid(value: &[u8], compression: Compression) -> BytesMut {
    let mut builder = BatchBuilder::new(compression, Limits::WIDEST);
    builder.push(None, Some(value), &[], Timestamp(1)).expect("a record");
    BytesMut::from(&builder.build().to_bytes()[..])
}

/// Computes the CRC anew, so that only the lie itself is wrong.
fn seal(mut batch: BytesMut) -> BytesMut {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn patched(at: usize, bytes: &[u8]) -> BytesMut {
    let mut batch = valid(b"value", Compression::None);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_lie_are_refused_by_their_ack() {
    let cluster = Cluster::start();
    cluster.produce("wire", b"before\n");

    let lies: Vec<(&str, BytesMut, ErrorKind)> = vec![
        ("wrong CRC", patched(17, &[1, 2, 3, 4]), ErrorKind::Corrupt),
        ("a flipped bit", patched(HEADER_BYTES + 3, &[0xff]), ErrorKind::Corrupt),
        ("magic 1", seal(patched(16, &[1])), ErrorKind::Unsupported),
        ("a length that lies upwards", seal(patched(8, &i32::MAX.to_be_bytes())), ErrorKind::Corrupt),
        ("a length that lies downwards", seal(patched(8, &50i32.to_be_bytes())), ErrorKind::Corrupt),
        ("a negative length", seal(patched(8, &(-1i32).to_be_bytes())), ErrorKind::Corrupt),
        ("more records than there are", seal(patched(57, &2i32.to_be_bytes())), ErrorKind::Invalid),
        ("a negative count", seal(patched(57, &(-1i32).to_be_bytes())), ErrorKind::Invalid),
        ("a last offset beyond the count", seal(patched(23, &9i32.to_be_bytes())), ErrorKind::Invalid),
        ("a control batch", seal(patched(21, &[0, 0x20])), ErrorKind::Invalid),
        ("a record over the limit", valid(&vec![b'x'; 1024 * 1024 + 64], Compression::None), ErrorKind::TooLarge),
        ("a batch over the limit", valid(&vec![b'x'; 8 * 1024 * 1024 + 64], Compression::None), ErrorKind::TooLarge),
    ];

    let mut sentinel =
        SentinelClient::connect(format!("http://{}", cluster.sentinel_address)).await.expect("a connection");
    let route = sentinel
        .get_brokers(pb::GetBrokersRequest { topic: "wire".into(), ..Default::default() })
        .await
        .expect("the topic is known")
        .into_inner();
    let topic_id = route.topic.expect("a topic").id;
    let broker = BrokerClient::connect(format!("http://{}", cluster.broker_address)).await.expect("a connection");
    let mut broker = broker.max_encoding_message_size(64 << 20);
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    let mut answers = broker.produce(ReceiverStream::new(stream)).await.expect("a stream").into_inner();
    let first = answers.message().await.expect("an answer").expect("an answer");
    assert!(first.grant.is_some_and(|grant| grant.batches_in_flight > 0), "the first answer grants");

    let send = async |request_id: u64, batch: BytesMut| {
        let mut header: Bytes = batch.freeze();
        let records = header.split_off(HEADER_BYTES);
        let request = pb::ProduceRequest {
            request_id,
            topic_id: topic_id.clone(),
            partition: 0,
            batch: Some(pb::Batch { header, records }),
            ..Default::default()
        };
        requests.send(request).await.expect("the stream is open");
    };
    let mut pending = Vec::<pb::ProduceAck>::new();
    for (number, (what, batch, kind)) in lies.into_iter().enumerate() {
        send(number as u64, batch).await;
        let ack = loop {
            if let Some(ack) = pending.pop() {
                break ack;
            }
            let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time");
            pending =
                answer.unwrap_or_else(|status| panic!("{what}: the stream broke: {status}")).expect("an answer").acks;
        };
        assert_eq!(ack.request_id, number as u64, "{what}");
        let error = ack.error.unwrap_or_else(|| panic!("{what} was taken"));
        assert_eq!(ErrorKind::from(error.kind()), kind, "{what}: {}", error.message);
        assert!(!error.message.is_empty() && error.message.lines().count() == 1, "{what}: {:?}", error.message);
    }
    assert_eq!(cluster.committed("wire"), 1, "nothing was stored");

    // A bomb is opaque to the broker: 1 GiB of zeros in a few KiB. Whoever reads it is told, and can go past it.
    send(100, bomb()).await;
    let ack = tokio::time::timeout(PATIENCE, answers.message())
        .await
        .expect("in time")
        .expect("an answer")
        .expect("an answer");
    assert!(ack.acks[0].error.is_none(), "{:?}", ack.acks);
    cluster.produce("wire", b"after\n");
    let consume = |from: &str| {
        let arguments = ["-mode", "consumer", "-topic", "wire", "-group", "", "-from", from, "-until-end"];
        cluster.client(&arguments).output().expect("the binary runs")
    };
    let hurt = consume("beginning");
    assert_eq!(hurt.status.code(), Some(1), "{}", text(&hurt));
    assert_eq!(hurt.stdout, b"before\n");
    let said = String::from_utf8_lossy(&hurt.stderr);
    assert!(said.contains("offset 1") && said.lines().count() == 1, "{said}");
    assert_eq!(consume("2").stdout, b"after\n");
}

/// A batch whose gzip stream inflates to 1 GiB.
fn bomb() -> BytesMut {
    use std::io::Write;
    let mut inflated = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        inflated.write_all(&zeros).expect("memory");
    }
    let records = inflated.finish().expect("memory");
    let mut batch = valid(b"x", Compression::None);
    batch.truncate(HEADER_BYTES);
    batch[8..12].copy_from_slice(&((HEADER_BYTES - 12 + records.len()) as i32).to_be_bytes());
    batch[21..23].copy_from_slice(&1u16.to_be_bytes());
    batch.extend_from_slice(&records);
    seal(batch)
}

#[test]
fn the_batches_of_this_file_are_valid_without_their_lies() {
    assert!(Batch::from_bytes(valid(b"value", Compression::None).freeze(), &Limits::default()).is_ok());
    assert!(Batch::from_bytes(seal(valid(b"value", Compression::None)).freeze(), &Limits::default()).is_ok());
}

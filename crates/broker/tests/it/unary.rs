//! Publish, Pull, Admin.

use bytes::Bytes;
use goulette_proto::{
    pb::{self, admin_client::AdminClient, start::At},
    status::kind_of,
};
use goulette_records::{BatchBuilder, Compression, Limits, partition_for_key};
use goulette_types::{ErrorKind, Timestamp};
use tonic::Status;

use crate::{
    harness::{Client, Producer, Reader, at, channel, connect, ends, soon, start},
    sentinel::FakeSentinel,
};

fn record(key: Option<&'static str>, value: Option<&'static str>) -> pb::Record {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    pb::Record { key: key.map(bytes), value: value.map(bytes), ..Default::default() }
}

fn publish(topic: &str, records: Vec<pb::Record>) -> pb::PublishRequest {
    pb::PublishRequest { topic: topic.to_owned(), partition: None, records, acks: pb::Acks::All.into() }
}

fn pull(topic: &str, start: u64) -> pb::PullRequest {
    pb::PullRequest { topic: topic.to_owned(), start: at(At::Offset(start)), ..Default::default() }
}

async fn published(client: &mut Client, request: pb::PublishRequest) -> Result<pb::PublishResponse, Status> {
    soon(client.publish(request)).await.map(tonic::Response::into_inner)
}

async fn pulled(client: &mut Client, request: pb::PullRequest) -> Result<pb::PullResponse, Status> {
    soon(client.pull(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn what_is_published_is_pulled_with_key_headers_and_time() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let headers = vec![
        pb::Header { key: "a".to_owned(), value: Some(Bytes::from_static(b"1")) },
        pb::Header { key: "a".to_owned(), value: None },
    ];
    let sent = vec![
        pb::Record { headers, timestamp_ms: Some(77), ..record(Some("k"), Some("v")) },
        record(None, None),
        record(Some(""), Some("")),
    ];
    let response = published(&mut client, publish("t", sent.clone())).await.unwrap();
    assert_eq!((response.offsets, response.partitions), (vec![0, 1, 2], vec![0, 0, 0]));

    let response = pulled(&mut client, pull("t", 0)).await.unwrap();
    assert_eq!((response.next, response.committed), (3, 3));
    for (offset, (sent, got)) in sent.iter().zip(&response.records).enumerate() {
        assert_eq!((&got.key, &got.value, &got.headers), (&sent.key, &sent.value, &sent.headers));
        assert_eq!(got.offset, offset as u64);
    }
    assert_eq!(response.records[0].timestamp_ms, Some(77));
    assert!(response.records[1].timestamp_ms.unwrap() > 1_000_000_000_000, "the broker's time");
    // The same records, seen by a stream.
    assert_eq!(Reader::from(&mut client, partition, 0).await.frame().await.batches.len(), 1);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn records_of_one_key_stay_in_one_partition_and_in_order() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    for index in 0..3 {
        sentinel.assign("t", index).await;
    }
    let mut client = connect(&broker).await;
    let keys = ["a", "b", "c", "d", "a", "b", "c", "d"];
    let records = keys.iter().map(|key| record(Some(key), Some("v"))).collect();
    let response = published(&mut client, publish("t", records)).await.unwrap();
    for (place, key) in keys.iter().enumerate() {
        let expected = partition_for_key(key.as_bytes(), 3);
        assert_eq!(response.partitions[place], expected.0);
    }
    assert!((0..4).all(|place| response.offsets[place] < response.offsets[place + 4]));
    let chosen = pb::PublishRequest { partition: Some(2), ..publish("t", vec![record(Some("a"), None)]) };
    assert_eq!(published(&mut client, chosen).await.unwrap().partitions, [2]);
    let elsewhere = pb::PublishRequest { partition: Some(3), ..publish("t", vec![record(None, None)]) };
    assert_eq!(kind_of(&published(&mut client, elsewhere).await.unwrap_err()), ErrorKind::NotLeader);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_record_whose_key_belongs_to_another_brokers_partition_is_sent_to_the_sentinel() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let here = sentinel.assign_of("t", 1, 3).await;
    let mut client = connect(&broker).await;
    let keyed = |key: &str, value| pb::Record { key: Some(key.to_owned().into()), ..record(None, Some(value)) };
    let place = |key: &str, partitions| partition_for_key(key.as_bytes(), partitions).0;
    let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let ours = keys.iter().find(|key| place(key, 3) == 1).unwrap();
    // Another broker's, until the topic grows.
    let other = keys.iter().find(|key| place(key, 3) == 2 && place(key, 4) == 3).unwrap();

    let both = vec![keyed(ours, "here"), keyed(other, "elsewhere")];
    let status = published(&mut client, publish("t", both.clone())).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::NotLeader);
    assert!(status.message().contains("t/2") && status.message().contains("ask a sentinel"), "{status}");
    assert_eq!(ends(&mut client, here).await, (0, 0), "all or nothing");
    let fine = vec![keyed(ours, "here"), record(None, Some("anywhere"))];
    assert_eq!(published(&mut client, publish("t", fine)).await.unwrap().partitions, [1, 1]);

    sentinel.assign_of("t", 3, 4).await;
    assert_eq!(published(&mut client, publish("t", vec![keyed(other, "moved")])).await.unwrap().partitions, [3]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_publication_that_cannot_be_stored_as_a_whole_stores_nothing() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let large = pb::Record { value: Some(vec![0; (1 << 20) + 1].into()), ..Default::default() };
    let cases = [
        (publish("t", vec![record(None, Some("fine")), large]), ErrorKind::TooLarge, "record 1 "),
        (publish("t", vec![]), ErrorKind::Invalid, "no records"),
        (publish("../x", vec![record(None, None)]), ErrorKind::Invalid, "topic name"),
        (publish("unknown", vec![record(None, None)]), ErrorKind::NotLeader, "unknown"),
    ];
    for (request, kind, words) in cases {
        let status = published(&mut client, request).await.unwrap_err();
        assert_eq!(kind_of(&status), kind, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    assert_eq!(ends(&mut client, partition).await, (0, 0));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_pull_stops_at_its_limits_and_goes_on_from_there() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    for _ in 0..5 {
        let records = (0..10).map(|_| record(None, Some("0123456789"))).collect();
        published(&mut client, publish("t", records)).await.unwrap();
    }
    let offsets = |response: &pb::PullResponse| response.records.iter().map(|r| r.offset).collect::<Vec<_>>();
    let response = pulled(&mut client, pb::PullRequest { records_max: 13, ..pull("t", 7) }).await.unwrap();
    assert_eq!((offsets(&response), response.next), ((7..20).collect(), 20));
    // At least one record comes, however few bytes are allowed.
    let response = pulled(&mut client, pb::PullRequest { bytes_max: 1, ..pull("t", 20) }).await.unwrap();
    assert_eq!((offsets(&response), response.next), (vec![20], 21));
    let response = pulled(&mut client, pull("t", 0)).await.unwrap();
    assert_eq!((offsets(&response).len(), response.next), (50, 50));
    let response = pulled(&mut client, pull("t", 50)).await.unwrap();
    assert_eq!((offsets(&response), response.next), (vec![], 50));
    let status = pulled(&mut client, pull("t", 51)).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::OutOfRange);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_pull_at_the_end_waits_for_the_first_record() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move {
        pulled(&mut waiting, pb::PullRequest { wait_ms: 20_000, ..pull("t", 0) }).await.unwrap()
    });
    published(&mut client, publish("t", vec![record(None, Some("x"))])).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().records.len(), 1);
    let late = pulled(&mut client, pb::PullRequest { wait_ms: 1, ..pull("t", 1) }).await.unwrap();
    assert_eq!((late.records.len(), late.next), (0, 1));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_decompression_bomb_costs_the_broker_nothing_and_its_reader_an_error() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let mut options = crate::harness::options(sentinel.address, dir.path());
    options.limits.decompressed_bytes_max = 1 << 20;
    let broker = crate::harness::start_with(options, goulette_env::Env::real()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut builder = BatchBuilder::new(Compression::Zstd, Limits::WIDEST);
    let zeros = vec![0; 1 << 20];
    for _ in 0..32 {
        builder.push(None, Some(&zeros), &[], Timestamp(0)).unwrap();
    }
    let mut producer = Producer::open(&mut client).await;
    producer.store(partition, &builder.build()).await;
    published(&mut client, publish("t", vec![record(None, Some("after"))])).await.unwrap();
    let status = pulled(&mut client, pull("t", 0)).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::Corrupt);
    assert!(status.message().contains("offset 0") && status.message().contains("1048576 bytes"), "{status}");
    // Whoever steps over it reads on.
    assert_eq!(pulled(&mut client, pull("t", 32)).await.unwrap().records[0].offset, 32);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_running_broker_tells_of_itself_and_changes_its_log_level() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    sentinel.assign("t", 0).await;
    let mut admin = AdminClient::new(channel(broker.address()).await);
    let info = soon(admin.get_info(pb::GetInfoRequest {})).await.unwrap().into_inner();
    assert_eq!((info.role.as_str(), info.id.as_str(), info.state.as_str()), ("broker", "broker1", "serving"));
    assert_eq!(info.cluster_id, "000000000000000000000000000000c1");
    assert_eq!((info.details["partitions_led"].as_str(), info.details["incarnation"].len()), ("1", 32));

    let wrong = soon(admin.set_log_level(pb::SetLogLevelRequest { level: "loud".to_owned() })).await.unwrap_err();
    assert_eq!(kind_of(&wrong), ErrorKind::Invalid);
    soon(admin.set_log_level(pb::SetLogLevelRequest { level: "debug".to_owned() })).await.unwrap();
    broker.stop().await.unwrap();
}

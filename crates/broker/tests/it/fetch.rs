//! Batches out, and positions of groups.

use goulette_proto::{pb, status::kind_of};
use goulette_types::{ErrorKind, PartitionId};

use crate::{
    disk::Gate,
    harness::{
        Client, Producer, Reader, at, batch, connect, kind, open, options, soon, start, start_with, topic_bytes, values,
    },
    sentinel::FakeSentinel,
};

fn member(partition: PartitionId, group: &str, member: &str) -> pb::FetchOpen {
    pb::FetchOpen { group: group.to_owned(), member: member.to_owned(), ..open(partition, 0) }
}

async fn commit(client: &mut Client, partition: PartitionId, position: u64, member: &str) -> Result<(), tonic::Status> {
    let request = pb::CommitPositionRequest {
        group: "g".to_owned(),
        topic_id: topic_bytes(partition),
        partition: partition.index.0,
        position,
        member: member.to_owned(),
    };
    soon(client.commit_position(request)).await.map(drop)
}

async fn position(client: &mut Client, partition: PartitionId) -> Option<u64> {
    let request = pb::FetchPositionRequest {
        group: "g".to_owned(),
        topic_id: topic_bytes(partition),
        partition: partition.index.0,
    };
    soon(client.fetch_position(request)).await.unwrap().into_inner().position
}

#[tokio::test]
async fn a_reader_at_the_end_is_woken_by_the_next_batch() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut reader = Reader::from(&mut client, partition, 0).await;
    let mut producer = Producer::open(&mut client).await;
    for round in 0..20 {
        producer.store(partition, &batch(["x"])).await;
        let frame = reader.frame().await;
        assert_eq!((values(&frame.batches), frame.committed), (vec!["x".to_owned()], round + 1));
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_read_before_it_is_durable() {
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let broker = start_with(options(sentinel.address, dir.path()), gate.env()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    let mut reader = Reader::from(&mut client, partition, 0).await;
    gate.shut();
    producer.send(partition, &batch(["x"])).await;
    assert!(reader.is_silent().await);
    gate.open();
    assert_eq!(reader.values(1).await, ["x"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn no_more_is_sent_than_the_credit_and_the_batch_that_exceeds_it() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    let value = "x".repeat(1000);
    let bytes = batch([value.as_str()]).encoded_bytes() as u64;
    for _ in 0..10 {
        producer.store(partition, &batch([value.as_str()])).await;
    }
    let mut reader = Reader::open(&mut client, open(partition, 0), 0).await;
    assert_eq!(reader.frame().await.start, Some(0));
    assert!(reader.is_silent().await);
    reader.credit(3 * bytes).await;
    assert_eq!(reader.frame().await.batches.len(), 3);
    assert!(reader.is_silent().await);
    // A credit of one byte lets one batch through, whose rest is owed.
    reader.credit(1).await;
    assert_eq!(reader.frame().await.batches.len(), 1);
    reader.credit(bytes - 1).await;
    assert!(reader.is_silent().await);
    reader.credit(6 * bytes).await;
    assert_eq!(reader.frame().await.batches.len(), 6);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn reading_starts_where_it_was_asked_to() {
    use pb::start::At;
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    // Timestamps 1000, 1001, 1002.
    producer.store(partition, &batch(["a", "b", "c"])).await;
    let cases = [
        (At::Beginning(true), 0),
        (At::End(true), 3),
        (At::Offset(2), 2),
        (At::Offset(3), 3),
        (At::TimestampMs(-5), 0),
        (At::TimestampMs(1001), 1),
        (At::TimestampMs(5000), 3),
    ];
    for (start, expected) in cases {
        let open = pb::FetchOpen { start: at(start), ..open(partition, 0) };
        let first = Reader::open(&mut client, open, 0).await.frame().await;
        assert_eq!((first.start, first.committed), (Some(expected), 3), "{start:?}");
    }
    // The batch that holds the offset comes whole.
    let mut reader = Reader::from(&mut client, partition, 2).await;
    assert_eq!(reader.values(3).await, ["a", "b", "c"]);

    let error = Reader::open(&mut client, open(partition, 4), 0).await.error().await;
    assert_eq!(kind(&error), ErrorKind::OutOfRange);
    assert!(error.message.contains("0..=3"), "{error:?}");
    let unsaid = pb::FetchOpen { start: None, ..open(partition, 0) };
    assert_eq!(kind(&Reader::open(&mut client, unsaid, 0).await.error().await), ErrorKind::Invalid);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_has_left_the_memory_is_read_from_the_disk_and_runs_on_into_the_new() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let mut forgetful = options(sentinel.address, dir.path());
    forgetful.log.tail_cache_bytes = 0;
    forgetful.log.flush_bytes = 1;
    let broker = start_with(forgetful, goulette_env::Env::real()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    let value = "x".repeat(10_000);
    for _ in 0..300 {
        producer.send(partition, &batch([value.as_str()])).await;
        producer.ack().await;
    }
    let mut reader = Reader::from(&mut client, partition, 0).await;
    assert_eq!(reader.values(300).await.len(), 300);
    producer.store(partition, &batch(["last"])).await;
    assert_eq!(reader.values(1).await, ["last"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_ends_its_side_still_gets_what_it_has_granted() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    producer.store(partition, &batch(["a"])).await;
    producer.store(partition, &batch(["b"])).await;
    let request = pb::FetchRequest { open: Some(open(partition, 0)), credit_bytes: 1 };
    let mut answers = soon(client.fetch(tokio_stream::once(request))).await.unwrap().into_inner();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().start, Some(0));
    assert_eq!(values(&soon(answers.message()).await.unwrap().unwrap().batches), ["a"]);
    assert!(soon(answers.message()).await.unwrap().is_none());
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_member_is_refused_by_the_name_of_the_first_until_that_is_gone() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut first = Reader::open(&mut client, member(partition, "g", "ann"), 1 << 20).await;
    assert_eq!(first.frame().await.start, Some(0));

    let error = Reader::open(&mut client, member(partition, "g", "bob"), 1 << 20).await.error().await;
    assert_eq!(kind(&error), ErrorKind::Conflict);
    assert!(error.message.contains("\"ann\"") && error.message.contains("\"g\""), "{error:?}");
    let nameless = Reader::open(&mut client, member(partition, "g", ""), 1 << 20).await.error().await;
    assert_eq!(kind(&nameless), ErrorKind::Invalid);
    // Other groups do not mind.
    assert_eq!(Reader::open(&mut client, member(partition, "h", "bob"), 0).await.frame().await.start, Some(0));

    // The same member comes again, on a new connection: its older stream ends.
    let mut again = Reader::open(&mut connect(&broker).await, member(partition, "g", "ann"), 1 << 20).await;
    assert_eq!(again.frame().await.start, Some(0));
    assert_eq!(kind(&first.error().await), ErrorKind::Fenced);

    // Dropped without a word; the broker learns of it by the reset of the stream.
    drop(again);
    soon(async {
        while Reader::open(&mut client, member(partition, "g", "bob"), 0).await.frame().await.error.is_some() {}
    })
    .await;
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn positions_are_kept_over_a_restart_and_never_lie_beyond_the_end() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    producer.store(partition, &batch(["a", "b", "c"])).await;
    assert_eq!(position(&mut client, partition).await, None);
    commit(&mut client, partition, 2, "").await.unwrap();
    let beyond = commit(&mut client, partition, 4, "").await.unwrap_err();
    assert_eq!(kind_of(&beyond), ErrorKind::OutOfRange);

    let mut ann = Reader::open(&mut client, member(partition, "g", "ann"), 0).await;
    ann.frame().await;
    let other = commit(&mut client, partition, 1, "bob").await.unwrap_err();
    assert_eq!(kind_of(&other), ErrorKind::Conflict);
    assert!(other.message().contains("ann"), "{other}");
    commit(&mut client, partition, 3, "ann").await.unwrap();
    assert_eq!(position(&mut client, partition).await, Some(3));
    broker.stop().await.unwrap();

    let broker = start(&sentinel, dir.path()).await;
    assert_eq!(position(&mut connect(&broker).await, partition).await, Some(3));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_topic_ends_its_streams() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let (partition, other) = (sentinel.assign("t", 0).await, sentinel.assign("u", 0).await);
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    producer.store(partition, &batch(["a"])).await;
    let mut reader = Reader::from(&mut client, partition, 1).await;
    sentinel.delete("t").await;
    let error = reader.error().await;
    assert_eq!(kind(&error), ErrorKind::NotFound);
    assert!(error.message.contains("t/0"), "{error:?}");
    let refused = producer.refused(crate::harness::request(partition, crate::harness::wire(&batch(["b"])))).await;
    assert_eq!(kind(&refused), ErrorKind::NotLeader);
    assert_eq!(producer.store(other, &batch(["c"])).await, 0);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_damaged_fragment_is_told_and_what_is_behind_it_still_comes() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let small = || {
        let mut small = options(sentinel.address, dir.path());
        small.log.roll.bytes = 1 << 10;
        small
    };
    let broker = start_with(small(), goulette_env::Env::real()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut producer = Producer::open(&mut connect(&broker).await).await;
    let value = "x".repeat(400);
    for _ in 0..10 {
        producer.store(partition, &batch([value.as_str()])).await;
    }
    drop(producer);
    broker.stop().await.unwrap();

    let folder = dir.path().join("topics").join(format!("t.{}", partition.topic)).join("0");
    let mut fragments: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    fragments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    fragments.sort();
    assert!(fragments.len() > 3, "{fragments:?}");
    let mut bytes = std::fs::read(&fragments[1]).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&fragments[1], bytes).unwrap();

    let broker = start_with(small(), goulette_env::Env::real()).await.unwrap();
    let mut client = connect(&broker).await;
    let mut reader = Reader::from(&mut client, partition, 0).await;
    let (mut read, mut skipped_to) = (0, None);
    while skipped_to.unwrap_or(0) + read < 10 {
        let frame = reader.frame().await;
        read += values(&frame.batches).len() as u64;
        if let Some(error) = frame.error {
            assert_eq!(kind(&error), ErrorKind::Corrupt);
            assert!(error.message.contains(&format!("offset {read}")), "{error:?}");
            // From here on it is the offset that counts.
            (skipped_to, read) = (frame.skip_to, 0);
        }
    }
    assert_eq!(skipped_to, Some(3), "the next sound batch");
    broker.stop().await.unwrap();
}

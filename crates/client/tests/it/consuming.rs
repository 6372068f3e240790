//! A consumer and what may go wrong.

use std::time::Duration;

use goulette_client::{
    ConsumeError, Consumer, ConsumerOptions, Partitions, Producer, ProducerOptions, ProducerRecord, ResetPolicy, Start,
};
use goulette_types::{ErrorKind, Offset, PartitionIndex};
use tokio::time::timeout;

use crate::fake::{Cluster, Process, any_port, eventually, topic};

const SOON: Duration = Duration::from_secs(20);
const P0: PartitionIndex = PartitionIndex(0);

fn value(number: u32) -> String {
    format!("record {number:08}")
}

/// A cluster whose one partition holds so many records, in batches of about four.
async fn filled(count: u32) -> (Cluster, Process, Process) {
    let cluster = Cluster::new(1);
    let (sentinel, broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    fill(&cluster, &sentinel, 0..count).await;
    (cluster, sentinel, broker)
}

async fn fill(_: &Cluster, sentinel: &Process, numbers: std::ops::Range<u32>) {
    let client = Cluster::client(&[sentinel.address]);
    let options = ProducerOptions { batch_bytes: 100, ..ProducerOptions::default() };
    let producer = Producer::new(&client, &topic(), options).await.unwrap();
    for number in numbers {
        drop(producer.send(ProducerRecord::new(value(number))).await.unwrap());
    }
    producer.close().await.unwrap();
}

async fn consumer(sentinel: &Process, options: ConsumerOptions) -> Consumer {
    Consumer::new(&Cluster::client(&[sentinel.address]), &topic(), options).await.unwrap()
}

/// Takes the records of these numbers: each once, in order, at its offset.
async fn expect(consumer: &mut Consumer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let record = timeout(SOON, consumer.next()).await.expect("in time").unwrap().expect("a record");
        assert_eq!(record.offset, Offset(number.into()));
        assert_eq!(record.value.as_deref(), Some(value(number).as_bytes()));
    }
}

async fn expect_end(consumer: &mut Consumer) {
    assert_eq!(timeout(SOON, consumer.next()).await.expect("in time").unwrap(), None);
}

fn until_end() -> ConsumerOptions {
    ConsumerOptions { until_end: true, ..ConsumerOptions::default() }
}

#[tokio::test]
async fn records_come_in_order_until_the_end() {
    let (_cluster, sentinel, _broker) = filled(1000).await;
    let mut consumer = consumer(&sentinel, until_end()).await;
    assert_eq!(consumer.ends().await.unwrap()[&P0], Offset(1000));
    expect(&mut consumer, 0..1000).await;
    expect_end(&mut consumer).await;
    assert_eq!(consumer.positions()[&P0], Offset(1000));
    consumer.close().await;
}

#[tokio::test]
async fn what_stands_behind_the_end_in_the_same_frame_is_no_gap() {
    let (cluster, sentinel, _broker) = filled(1000).await;
    cluster.state().faults.end_told = Some(500);
    cluster.state().faults.more_per_frame = 2000;
    let mut consumer = consumer(&sentinel, until_end()).await;
    expect(&mut consumer, 0..500).await;
    expect_end(&mut consumer).await;
    assert_eq!(consumer.positions()[&P0], Offset(500));
}

#[tokio::test]
async fn the_end_of_an_empty_partition_is_reached_at_once() {
    let (_cluster, sentinel, _broker) = filled(0).await;
    let mut consumer = consumer(&sentinel, until_end()).await;
    expect_end(&mut consumer).await;
    assert_eq!(consumer.positions()[&P0], Offset(0));
}

#[tokio::test]
async fn new_records_are_pushed() {
    let (cluster, sentinel, _broker) = filled(10).await;
    let mut consumer = consumer(&sentinel, ConsumerOptions::default()).await;
    expect(&mut consumer, 0..10).await;
    fill(&cluster, &sentinel, 10..30).await;
    expect(&mut consumer, 10..30).await;
}

#[tokio::test]
async fn a_stream_that_breaks_loses_nothing_and_repeats_nothing() {
    let (cluster, sentinel, _broker) = filled(1000).await;
    cluster.state().faults.duplicate_batches = true;
    cluster.state().faults.cut_fetch_after = Some(7);
    let mut consumer = consumer(&sentinel, until_end()).await;
    expect(&mut consumer, 0..1000).await;
    expect_end(&mut consumer).await;
    assert!(cluster.state().seen.fetch_streams >= 10, "the test has met the case");
}

#[tokio::test]
async fn a_broker_that_dies_and_comes_back_costs_nothing() {
    let (cluster, sentinel, broker) = filled(500).await;
    let mut consumer = consumer(&sentinel, ConsumerOptions::default()).await;
    expect(&mut consumer, 0..500).await;
    let address = broker.kill();
    eventually("the broker is reported", || cluster.state().seen.unreachable.contains(&"b1".to_owned())).await;
    let _broker = cluster.broker("b1", address);
    fill(&cluster, &sentinel, 500..600).await;
    expect(&mut consumer, 500..600).await;
}

#[tokio::test]
async fn a_broker_that_dies_under_a_slow_consumer_costs_nothing_even_without_a_sentinel() {
    let (cluster, sentinel, broker) = filled(500).await;
    let mut consumer = consumer(&sentinel, ConsumerOptions { buffer_records: 10, ..until_end() }).await;
    expect(&mut consumer, 0..100).await;
    sentinel.kill();
    let _broker = cluster.broker("b1", broker.kill());
    expect(&mut consumer, 100..500).await;
    expect_end(&mut consumer).await;
}

#[tokio::test]
async fn a_consumer_follows_the_leader() {
    let (cluster, sentinel, _b1) = filled(100).await;
    let _b2 = cluster.broker("b2", any_port());
    let mut consumer = consumer(&sentinel, ConsumerOptions::default()).await;
    expect(&mut consumer, 0..100).await;
    cluster.lead(0, "b2");
    fill(&cluster, &sentinel, 100..200).await;
    expect(&mut consumer, 100..200).await;
}

#[tokio::test]
async fn no_more_is_buffered_than_allowed() {
    let (cluster, sentinel, _broker) = filled(5000).await;
    let mut consumer = consumer(&sentinel, ConsumerOptions { buffer_records: 1, ..until_end() }).await;
    expect(&mut consumer, 0..100).await;
    assert!(cluster.state().seen.overdrawn == 0, "within the credit of 16 MiB all the time");
    expect(&mut consumer, 100..5000).await;
    expect_end(&mut consumer).await;
}

#[tokio::test]
async fn credit_is_given_back_as_records_are_taken() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    for number in 0..64_u8 {
        drop(producer.send(ProducerRecord::new(vec![number; 200_000])).await.unwrap());
    }
    producer.close().await.unwrap();
    // 12.8 MB through a credit of 1 MiB.
    let mut consumer = consumer(&sentinel, ConsumerOptions { credit_bytes: 1 << 20, ..until_end() }).await;
    let mut count = 0_u8;
    while let Some(batch) = timeout(SOON, consumer.next_batch()).await.unwrap().unwrap() {
        for record in batch.records {
            assert_eq!(record.value.unwrap()[..], vec![count; 200_000]);
            count += 1;
        }
    }
    assert_eq!(count, 64);
    let overdrawn = cluster.state().seen.overdrawn;
    assert!((0..1 << 20).contains(&overdrawn), "{overdrawn} bytes beyond the credit: one batch at most");
}

#[tokio::test]
async fn reading_starts_where_it_is_told() {
    let (_cluster, sentinel, _broker) = filled(100).await;
    let from = |start| ConsumerOptions { start: Some(start), ..until_end() };
    let mut consumer_at = consumer(&sentinel, from(Start::Offset(Offset(42)))).await;
    expect(&mut consumer_at, 42..100).await;
    expect_end(&mut consumer_at).await;
    expect_end(&mut consumer(&sentinel, from(Start::End)).await).await;

    let mut seeking = consumer(&sentinel, ConsumerOptions::default()).await;
    expect(&mut seeking, 0..10).await;
    seeking.seek(P0, Start::Offset(Offset(90))).unwrap();
    expect(&mut seeking, 90..100).await;
    seeking.seek(P0, Start::Beginning).unwrap();
    expect(&mut seeking, 0..100).await;
    assert_eq!(seeking.seek(PartitionIndex(1), Start::End).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_group_goes_on_where_it_has_committed() {
    let (cluster, sentinel, _broker) = filled(100).await;
    let options = ConsumerOptions { group: Some("g".parse().unwrap()), member: "ann".into(), ..until_end() };
    let mut first = consumer(&sentinel, options.clone()).await;
    expect(&mut first, 0..33).await;
    first.commit_taken().await.unwrap();
    assert_eq!(cluster.state().positions[&("g".to_owned(), 0)], 33);
    first.close().await;
    let mut second = consumer(&sentinel, options).await;
    expect(&mut second, 33..100).await;
    expect_end(&mut second).await;
}

#[tokio::test]
async fn a_second_member_is_told_who_reads() {
    let (_cluster, sentinel, _broker) = filled(10).await;
    let options = |member: &str| ConsumerOptions {
        group: Some("g".parse().unwrap()),
        member: member.into(),
        ..ConsumerOptions::default()
    };
    let mut first = consumer(&sentinel, options("ann")).await;
    expect(&mut first, 0..10).await;
    let mut second = consumer(&sentinel, options("bob")).await;
    let error = timeout(SOON, second.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("ann"), "{error}");
    expect_end(&mut second).await;
}

#[tokio::test]
async fn an_offset_that_is_not_there_is_an_error_unless_wanted_otherwise() {
    let (_cluster, sentinel, _broker) = filled(100).await;
    let from = |reset| ConsumerOptions { start: Some(Start::Offset(Offset(500))), reset, ..until_end() };
    let error = timeout(SOON, consumer(&sentinel, from(ResetPolicy::Fail)).await.next()).await.unwrap().unwrap_err();
    let ConsumeError::OutOfRange { wanted, start, committed, .. } = error else { panic!("{error}") };
    assert_eq!((wanted, start, committed), (Offset(500), Offset(0), Offset(100)));
    expect(&mut consumer(&sentinel, from(ResetPolicy::Beginning)).await, 0..100).await;
    expect_end(&mut consumer(&sentinel, from(ResetPolicy::End)).await).await;
}

#[tokio::test]
async fn a_groups_position_that_retention_has_removed_starts_at_the_first_record_kept() {
    let (cluster, sentinel, _broker) = filled(100).await;
    let kept = {
        let mut state = cluster.state();
        state.positions.insert(("g".to_owned(), 0), 3);
        let log = &mut state.partitions[0];
        log.batches.drain(..5);
        log.start = log.batches[0].base_offset().0;
        log.start
    };
    let options = ConsumerOptions { group: Some("g".parse().unwrap()), ..until_end() };
    expect(&mut consumer(&sentinel, options).await, kept as u32..100).await;
}

#[tokio::test]
async fn a_damaged_batch_is_reported_and_can_be_passed_over() {
    let (cluster, sentinel, _broker) = filled(100).await;
    let (bad, next) = {
        let mut state = cluster.state();
        let batch = &state.partitions[0].batches[4];
        let range = (batch.base_offset(), batch.next_offset());
        state.faults.corrupt = Some(range.0.0);
        range
    };
    let mut consumer = consumer(&sentinel, until_end()).await;
    expect(&mut consumer, 0..bad.0 as u32).await;
    let error = timeout(SOON, consumer.next()).await.unwrap().unwrap_err();
    let ConsumeError::Corrupt { at, skip_to: Some(skip_to), .. } = error else { panic!("{error}") };
    assert_eq!((at, skip_to), (bad, next));
    consumer.seek(P0, Start::Offset(skip_to)).unwrap();
    expect(&mut consumer, next.0 as u32..100).await;
}

#[tokio::test]
async fn several_partitions_are_read_at_once() {
    let cluster = Cluster::new(3);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    for number in 0..300 {
        let partition = Some(PartitionIndex(number % 3));
        drop(producer.send(ProducerRecord { partition, ..ProducerRecord::new(value(number / 3)) }).await.unwrap());
    }
    producer.close().await.unwrap();
    let mut all = consumer(&sentinel, ConsumerOptions { buffer_records: 7, ..until_end() }).await;
    let mut next = [0; 3];
    while let Some(record) = timeout(SOON, all.next()).await.unwrap().unwrap() {
        let next = &mut next[record.partition.0 as usize];
        assert_eq!(record.value.as_deref(), Some(value(*next).as_bytes()));
        *next += 1;
    }
    assert_eq!(next, [100; 3]);

    let only = Partitions::Only(vec![PartitionIndex(2)]);
    let mut one = consumer(&sentinel, ConsumerOptions { partitions: only, ..until_end() }).await;
    expect(&mut one, 0..100).await;
    expect_end(&mut one).await;
    let absent = ConsumerOptions { partitions: Partitions::Only(vec![PartitionIndex(3)]), ..until_end() };
    let error = Consumer::new(&client, &topic(), absent).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_unknown_topic_is_an_error() {
    let (_cluster, sentinel, _broker) = filled(0).await;
    let client = Cluster::client(&[sentinel.address]);
    let error = Consumer::new(&client, &"other".parse().unwrap(), until_end()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_partition_that_is_added_is_read_from_its_first_record() {
    for start in [None, Some(Start::End), Some(Start::Offset(Offset(10)))] {
        let (cluster, sentinel, _broker) = filled(10).await;
        let client = Cluster::watchful_client(&[sentinel.address], Duration::from_millis(20));
        let options = ConsumerOptions { start, ..ConsumerOptions::default() };
        let mut consumer = Consumer::new(&client, &topic(), options).await.unwrap();
        if start.is_none() {
            expect(&mut consumer, 0..10).await;
        }
        cluster.add_partition();
        let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
        let record = ProducerRecord { partition: Some(PartitionIndex(1)), ..ProducerRecord::new("added") };
        producer.send(record).await.unwrap().await.unwrap();
        let record = timeout(SOON, consumer.next()).await.expect("in time").unwrap().expect("a record");
        assert_eq!((record.partition, record.offset), (PartitionIndex(1), Offset(0)));
    }
}

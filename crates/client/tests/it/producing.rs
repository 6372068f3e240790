//! A producer and what may go wrong.

use std::time::Duration;

use goulette_client::{Delivery, Producer, ProducerOptions, ProducerRecord, SendError, TopicSpec};
use goulette_types::{ErrorKind, PartitionIndex};
use tokio::time::timeout;

use crate::fake::{Cluster, any_port, eventually, topic};

const SOON: Duration = Duration::from_secs(20);

/// Batches of about four records.
fn small_batches() -> ProducerOptions {
    ProducerOptions { batch_bytes: 100, ..ProducerOptions::default() }
}

fn value(number: u32) -> String {
    format!("record {number:08}")
}

/// Sends `record <number>` for each of them, in order.
async fn send(producer: &Producer, numbers: std::ops::Range<u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for number in numbers {
        deliveries.push(producer.send(ProducerRecord::new(value(number))).await.unwrap());
    }
    deliveries
}

/// Every record is there once, in order, and where its delivery says.
async fn check(cluster: &Cluster, deliveries: Vec<Delivery>) {
    let count = deliveries.len();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        let delivered = timeout(SOON, delivery).await.expect("settled in time").unwrap();
        if let Some(offset) = delivered.offset {
            assert_eq!(offset.0, number as u64);
        }
    }
    let expected: Vec<_> = (0..count as u32).map(value).collect();
    assert_eq!(cluster.state().partitions[0].values(), expected);
}

#[tokio::test]
async fn records_arrive_in_order_at_the_offsets_told() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let deliveries = send(&producer, 0..1000).await;
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    assert!(deliveries.iter().all(|delivery| delivery.try_get().is_some()), "closed means settled");
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn a_lone_record_does_not_linger() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let options = ProducerOptions { linger: Duration::from_secs(3600), ..ProducerOptions::default() };
    let producer = Producer::new(&client, &topic(), options).await.unwrap();
    for number in 0..3 {
        let delivery = producer.send(ProducerRecord::new(value(number))).await.unwrap();
        timeout(SOON, delivery).await.expect("sent at once").unwrap();
    }
}

#[tokio::test]
async fn what_was_stored_on_a_broken_stream_is_not_stored_twice() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let mut deliveries = send(&producer, 0..100).await;
    producer.flush().await.unwrap();
    for round in 1..=3 {
        cluster.state().faults.cut_produce_after = Some(5);
        deliveries.extend(send(&producer, round * 100..round * 100 + 100).await);
        timeout(SOON, producer.flush()).await.unwrap().unwrap();
    }
    check(&cluster, deliveries).await;
    assert!(cluster.state().seen.duplicates > 0, "the test has met the case");
}

#[tokio::test]
async fn a_broker_that_dies_and_comes_back_costs_nothing() {
    let cluster = Cluster::new(1);
    let (sentinel, mut broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let mut deliveries = Vec::new();
    for round in 0..3 {
        deliveries.extend(send(&producer, round * 1000..round * 1000 + 1000).await);
        let address = broker.kill();
        deliveries.extend(send(&producer, deliveries.len() as u32..(round + 1) * 1000).await);
        eventually("the broker is reported", || cluster.state().seen.unreachable.contains(&"b1".to_owned())).await;
        cluster.lead(0, "b1");
        broker = cluster.broker("b1", address);
    }
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn a_producer_goes_on_without_a_sentinel() {
    let cluster = Cluster::new(1);
    let (sentinel, broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let mut deliveries = send(&producer, 0..100).await;
    producer.flush().await.unwrap();
    sentinel.kill();
    deliveries.extend(send(&producer, 100..200).await);
    timeout(SOON, producer.flush()).await.unwrap().unwrap();
    // Nor is one needed to find the same broker again.
    let address = broker.kill();
    deliveries.extend(send(&producer, 200..300).await);
    let _broker = cluster.broker("b1", address);
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn the_next_sentinel_is_asked_when_one_is_away() {
    let cluster = Cluster::new(1);
    let (first, second) = (cluster.sentinel(any_port()), cluster.sentinel(any_port()));
    let _broker = cluster.broker("b1", any_port());
    let client = Cluster::client(&[first.address, second.address]);
    first.kill();
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let deliveries = send(&producer, 0..10).await;
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn without_any_sentinel_the_error_names_all_of_them() {
    let cluster = Cluster::new(1);
    let first = cluster.sentinel(any_port()).kill();
    let second = cluster.sentinel(any_port()).kill();
    let client = Cluster::client(&[first, second]);
    let error = client.routes(&topic(), true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("{first},{second}")), "{error}");
}

#[tokio::test]
async fn records_follow_the_leader() {
    let cluster = Cluster::new(1);
    let sentinel = cluster.sentinel(any_port());
    let (_b1, _b2) = (cluster.broker("b1", any_port()), cluster.broker("b2", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let mut deliveries = send(&producer, 0..100).await;
    for (round, leader) in (1..).zip(["b2", "b1", "b2"]) {
        cluster.lead(0, leader);
        deliveries.extend(send(&producer, round * 100..round * 100 + 100).await);
    }
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn no_more_is_in_flight_than_granted() {
    for grant in [1, 3] {
        let cluster = Cluster::new(1);
        cluster.state().grant = grant;
        let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
        let client = Cluster::client(&[sentinel.address]);
        let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
        cluster.hold_acks(true);
        let deliveries = send(&producer, 0..200).await;
        eventually("the grant is used", || cluster.state().seen.produced == grant).await;
        cluster.hold_acks(false);
        timeout(SOON, producer.close()).await.unwrap().unwrap();
        check(&cluster, deliveries).await;
        assert_eq!(cluster.state().seen.in_flight_max, grant);
    }
}

#[tokio::test]
async fn the_window_makes_senders_wait() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let options = ProducerOptions { window_records: 10, ..ProducerOptions::default() };
    let producer = Producer::new(&client, &topic(), options).await.unwrap();
    cluster.hold_acks(true);
    let mut deliveries = send(&producer, 0..10).await;
    let refused = producer.send_nowait(&ProducerRecord::new("x"));
    assert!(matches!(refused, Err(SendError::WindowFull { records: 10 })), "{refused:?}");
    let mut late = Box::pin(producer.send(ProducerRecord::new(value(10))));
    assert!(timeout(Duration::from_millis(50), &mut late).await.is_err(), "it waits");
    cluster.hold_acks(false);
    deliveries.push(timeout(SOON, late).await.unwrap().unwrap());
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn refusals_that_pass_are_ridden_out() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    let passing = [ErrorKind::Busy, ErrorKind::StorageFull, ErrorKind::NotEnoughReplicas, ErrorKind::Unavailable];
    cluster.state().faults.refuse.extend(passing);
    cluster.state().faults.duplicate_acks = true;
    let deliveries = send(&producer, 0..200).await;
    timeout(SOON, producer.close()).await.unwrap().unwrap();
    check(&cluster, deliveries).await;
}

#[tokio::test]
async fn a_batch_that_can_never_be_stored_fails_alone() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), small_batches()).await.unwrap();
    cluster.state().faults.refuse.push_back(ErrorKind::Invalid);
    let deliveries = send(&producer, 0..100).await;
    let error = timeout(SOON, producer.flush()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("refused on purpose"));
    let mut kept = Vec::new();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(_) => kept.push(value(number as u32)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
        }
    }
    assert!(!kept.is_empty() && kept.len() < 100);
    assert_eq!(cluster.state().partitions[0].values(), kept);
    producer.flush().await.expect("a failure is told once");
}

#[tokio::test]
async fn what_no_broker_takes_expires() {
    let cluster = Cluster::new(1);
    let (sentinel, broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    broker.kill();
    let client = Cluster::client(&[sentinel.address]);
    let options = ProducerOptions { delivery_timeout: Duration::from_millis(300), ..ProducerOptions::default() };
    let producer = Producer::new(&client, &topic(), options).await.unwrap();
    let delivery = producer.send(ProducerRecord::new("x")).await.unwrap();
    let error = timeout(SOON, delivery).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("127.0.0.1"), "{error}: says whom it could not reach");
    assert_eq!(producer.stats().records_failed, 1);
}

#[tokio::test]
async fn keys_choose_partitions_and_the_caller_may() {
    let cluster = Cluster::new(4);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    for key in ["a", "b", "foobar", ""] {
        let delivery = producer.send(ProducerRecord::new("x").with_key(key)).await.unwrap();
        assert_eq!(delivery.await.unwrap().partition, goulette_records::partition_for_key(key.as_bytes(), 4));
    }
    let chosen = ProducerRecord { partition: Some(PartitionIndex(3)), ..ProducerRecord::new("x") };
    assert_eq!(producer.send(chosen).await.unwrap().await.unwrap().partition, PartitionIndex(3));
    let absent = ProducerRecord { partition: Some(PartitionIndex(4)), ..ProducerRecord::new("x") };
    assert_eq!(producer.send(absent).await.unwrap_err().kind(), ErrorKind::NotFound);
    let large = producer.send(ProducerRecord::new(vec![0; 2 << 20])).await;
    assert_eq!(large.unwrap_err().kind(), ErrorKind::TooLarge);
    // A record that was refused leaves nothing behind.
    timeout(SOON, producer.close()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_topic_that_is_deleted_fails_what_is_sent_to_it() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    cluster.make_anew();
    let delivery = producer.send(ProducerRecord::new("x")).await.unwrap();
    assert_eq!(timeout(SOON, delivery).await.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_dropped_producer_leaves_nobody_waiting() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    cluster.hold_acks(true);
    let delivery = producer.send(ProducerRecord::new("x")).await.unwrap();
    eventually("it is stored", || cluster.state().partitions[0].end() == 1).await;
    drop(producer);
    assert_eq!(timeout(SOON, delivery).await.unwrap().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
}

#[tokio::test]
async fn a_running_producer_learns_of_partitions_that_are_added() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::watchful_client(&[sentinel.address], Duration::from_millis(20));
    let producer = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    let second = ProducerRecord { partition: Some(PartitionIndex(1)), ..ProducerRecord::new("second") };
    assert!(matches!(producer.send_nowait(&second), Err(SendError::NoPartition { .. })));
    cluster.add_partition();
    eventually("the partition is known", || producer.send_nowait(&second).is_ok()).await;
    producer.close().await.unwrap();
    assert_eq!(cluster.state().partitions[1].values(), ["second"]);
}

#[tokio::test]
async fn all_users_of_a_topic_share_the_calls_that_look_for_news() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let interval = Duration::from_millis(100);
    let client = Cluster::watchful_client(&[sentinel.address], interval);
    let mut producers = Vec::new();
    for _ in 0..10 {
        producers.push(Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap());
    }
    let before = cluster.state().seen.get_brokers;
    tokio::time::sleep(8 * interval).await;
    let calls = cluster.state().seen.get_brokers - before;
    // Pauses are shorter than the interval by up to a half; ten users on their own would come to some hundred calls.
    assert!((1..=24).contains(&calls), "{calls} calls");
}

#[tokio::test]
async fn a_client_that_knew_a_topic_finds_the_one_that_has_its_name_now() {
    let cluster = Cluster::new(1);
    let (sentinel, _broker) = (cluster.sentinel(any_port()), cluster.broker("b1", any_port()));
    let client = Cluster::client(&[sentinel.address]);
    let old = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    old.send(ProducerRecord::new("old")).await.unwrap().await.unwrap();
    cluster.make_anew();
    let new = Producer::new(&client, &topic(), ProducerOptions::default()).await.unwrap();
    new.send(ProducerRecord::new("new")).await.unwrap().await.unwrap();
    let late = timeout(SOON, old.send(ProducerRecord::new("late")).await.unwrap()).await.unwrap();
    assert!(matches!(late, Err(SendError::Refused { kind: ErrorKind::NotFound, .. })), "{late:?}");
    assert_eq!(cluster.state().partitions[0].values(), ["new"]);
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_asked_for_again_and_succeeds() {
    let cluster = Cluster::new(1);
    let sentinel = cluster.sentinel(any_port());
    let client = Cluster::client(&[sentinel.address]);
    cluster.state().faults.lose_creations = 2;
    let (admin, name) = (client.admin(), topic());
    assert_eq!(admin.create_topic(&name, TopicSpec::default()).await.unwrap().name, "t");
    let seen = cluster.state().seen.creations.clone();
    assert!(seen.len() == 3 && seen.iter().all(|id| *id == seen[0] && !id.is_empty()), "{seen:?}");
    // Another caller's creation is another request.
    let other = admin.create_topic(&name, TopicSpec::default()).await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

//! Brokers that register, beat, leave and come back.

use bytes::Bytes;
use goulette_proto::pb;
use goulette_types::{ClusterId, ErrorKind, StorageId};

use crate::harness::{FakeBroker, ask, bytes, eventually, options, refusal, start};

#[tokio::test]
async fn a_broker_of_another_cluster_is_refused_and_both_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let mut broker = FakeBroker::new("b1").await;
    broker.cluster_id = bytes(ClusterId(0xbad).to_bytes());
    let (kind, text) = refusal(client.register_broker(broker.registration()).await);
    assert_eq!(kind, ErrorKind::Conflict);
    assert!(
        text.contains(&ClusterId(0xbad).to_string()) && text.contains(&sentinel.cluster_id().to_string()),
        "{text}"
    );
    broker.cluster_id = bytes(sentinel.cluster_id().to_bytes());
    broker.register(&mut client).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn a_broker_of_a_newer_protocol_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    let newer = pb::RegisterBrokerRequest { protocol_version: 2, ..broker.registration() };
    let (kind, text) = refusal(client.register_broker(newer).await);
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("b1 speaks protocol 2"), "{text}");
    sentinel.stop().await;
}

#[tokio::test]
async fn a_broker_of_several_sentinels_is_refused_where_each_would_know_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    let several = pb::RegisterBrokerRequest { sentinels: 2, ..broker.registration() };
    let (kind, text) = refusal(client.register_broker(several).await);
    assert_eq!(kind, ErrorKind::Conflict);
    assert!(text.contains("b1") && text.contains("2 sentinels") && text.contains("etcd"), "{text}");
    broker.register(&mut client).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn nonsense_in_a_registration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let good = FakeBroker::new("b1").await.registration();
    let held = |leader_epoch, topic_id: &'static [u8]| {
        vec![pb::Held { leader_epoch, topic_id: Bytes::from_static(topic_id), ..Default::default() }]
    };
    for bad in [
        pb::RegisterBrokerRequest { id: "../b".to_owned(), ..good.clone() },
        pb::RegisterBrokerRequest { address: "nowhere".to_owned(), ..good.clone() },
        pb::RegisterBrokerRequest { address: ":1".to_owned(), ..good.clone() },
        pb::RegisterBrokerRequest { address: "host:0".to_owned(), ..good.clone() },
        pb::RegisterBrokerRequest { incarnation: Bytes::from_static(b"short"), ..good.clone() },
        pb::RegisterBrokerRequest { storage_id: Bytes::new(), ..good.clone() },
        pb::RegisterBrokerRequest { held: held(1, b"short"), ..good.clone() },
        pb::RegisterBrokerRequest { held: held(u32::MAX, &[1; 16]), ..good.clone() },
        pb::RegisterBrokerRequest { producer_id_max: u64::MAX, ..good.clone() },
    ] {
        let (kind, text) = refusal(client.register_broker(bad.clone()).await);
        assert_eq!(kind, ErrorKind::Invalid, "{bad:?}: {text}");
    }
    client.register_broker(good).await.unwrap();
    sentinel.stop().await;
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let first = FakeBroker::new("b1").await;
    let _pulse = first.live(&mut client).await;
    let second = FakeBroker::with_disk("b1", first.storage).await;
    let (kind, text) = refusal(client.register_broker(second.registration()).await);
    assert_eq!(kind, ErrorKind::Conflict);
    assert!(text.contains(&first.address), "{text}");
    first.die();
    second.register(&mut client).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn a_restarted_broker_leads_in_a_new_epoch_and_its_old_start_is_told_to_register() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let first = FakeBroker::new("b1").await;
    let storage = first.storage;
    let pulse = first.live(&mut client).await;
    let topic = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    first.die();
    let mut second = FakeBroker::with_disk("b1", storage).await;
    second.held = vec![pb::Held {
        topic_id: topic.id.clone(),
        topic: "orders".to_owned(),
        partition: 0,
        leader_epoch: 9,
        end: 5,
        ..Default::default()
    }];
    let registered = second.register(&mut client).await;
    assert_eq!(registered.assignments[0].leader_epoch, 10, "above all that the broker has seen");
    assert!(registered.assignments[0].partition_epoch >= 2);
    assert!(pulse.sees(|seen| seen.told_to_register).await.told_to_register);
    let again = second.register(&mut client).await;
    assert_eq!(again.assignments, registered.assignments, "the same start keeps its epochs");
    let topic = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((topic.partitions[0].leader.as_str(), topic.partitions[0].leader_epoch), ("b1", 10));
    sentinel.stop().await;
}

#[tokio::test]
async fn an_empty_disk_does_not_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let first = FakeBroker::new("b1").await;
    first.register(&mut client).await;
    client.get_brokers(ask("orders")).await.unwrap();
    first.die();
    let second = FakeBroker::with_disk("b1", StorageId(99)).await;
    assert_eq!(second.register(&mut client).await.assignments, []);
    let topic = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    assert!(topic.partitions[0].offline.contains("it came back with disk"), "{topic:?}");
    sentinel.stop().await;
}

#[tokio::test]
async fn a_broker_that_leaves_is_awaited_and_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    broker.register(&mut client).await;
    client.get_brokers(ask("orders")).await.unwrap();
    let leave = |incarnation| pb::UnregisterBrokerRequest { id: "b1".to_owned(), incarnation };
    let (kind, _) = refusal(client.unregister_broker(leave(bytes([9; 16]))).await);
    assert_eq!(kind, ErrorKind::Fenced);
    client.unregister_broker(leave(bytes(broker.incarnation.to_bytes()))).await.unwrap();
    let topic = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    assert!(topic.partitions[0].offline.contains("has been stopped"), "{topic:?}");
    sentinel.stop().await;
}

#[tokio::test]
async fn two_brokers_share_the_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let (one, two) = (FakeBroker::new("b1").await, FakeBroker::new("b2").await);
    let (first, second) = (one.live(&mut client).await, two.live(&mut client).await);
    let request = pb::CreateTopicRequest { name: "orders".to_owned(), partitions: 5, ..Default::default() };
    client.create_topic(request).await.unwrap();
    // The topic's id is random, and with it the places; but nobody carries more than a quarter over the mean.
    let (ones, twos) = (first.seen().leads.len(), second.seen().leads.len());
    assert!([(3, 2), (2, 3)].contains(&(ones, twos)), "{ones} and {twos}");
    one.die();
    drop(first);
    let led_by = |topic: &pb::Topic, broker: &str| topic.partitions.iter().filter(|p| p.leader == broker).count();
    let topic = eventually(&mut client, "orders", |topic| led_by(topic, "") == ones).await;
    assert_eq!(led_by(&topic, "b2"), twos);
    sentinel.stop().await;
}

//! Who leads what, as clients are told.

use std::time::Instant;

use goulette_proto::pb;
use goulette_types::ErrorKind;

use crate::harness::{FakeBroker, PATIENCE, ask, eventually, options, refusal, start};

#[tokio::test]
async fn a_topic_that_a_client_asks_for_is_made_and_led() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    let pulse = broker.live(&mut client).await;
    let answer = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    let topic = answer.topic.unwrap();
    assert_eq!((topic.partitions.len(), topic.replication_factor_wanted), (1, 3));
    assert_eq!((topic.partitions[0].leader.as_str(), topic.partitions[0].leader_epoch), ("b1", 1));
    assert_eq!(topic.partitions[0].replicas, ["b1"], "one replica, whatever is wanted");
    assert_eq!(answer.brokers, [pb::BrokerAddress { id: "b1".to_owned(), address: broker.address.clone() }]);
    assert_eq!(pulse.seen().leads[&("orders".to_owned(), 0)], 1, "the leader knew before the client");
    sentinel.stop().await;
}

#[tokio::test]
async fn a_topic_is_not_made_unless_the_client_asks_and_the_sentinel_allows() {
    let folder = tempfile::tempdir().unwrap();
    let mut closed = options(folder.path());
    closed.auto_create_topics = false;
    let (sentinel, mut client) = start(closed).await;
    let _pulse = FakeBroker::new("b1").await.live(&mut client).await;
    let (kind, text) = refusal(client.get_brokers(ask("orders")).await);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("auto-creation is off") && text.contains("goulette topic create orders"), "{text}");
    sentinel.stop().await;

    let (sentinel, mut client) = start(options(folder.path())).await;
    let (kind, text) = refusal(client.get_brokers(pb::GetBrokersRequest { create: false, ..ask("orders") }).await);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("goulette topic create orders"), "{text}");
    sentinel.stop().await;
}

#[tokio::test]
async fn without_a_broker_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let (kind, text) = refusal(client.get_brokers(ask("orders")).await);
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("no broker is registered"), "{text}");
    assert!(client.list_topics(pb::ListTopicsRequest {}).await.unwrap().into_inner().topics.is_empty());
    let (kind, _) = refusal(client.get_brokers(ask("../x")).await);
    assert_eq!(kind, ErrorKind::Invalid);
    sentinel.stop().await;
}

#[tokio::test]
async fn a_dead_broker_is_noticed_at_once_and_awaited_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut patient = options(folder.path());
    patient.session = std::time::Duration::from_secs(60);
    let (sentinel, mut client) = start(patient).await;
    let broker = FakeBroker::new("b1").await;
    let pulse = broker.live(&mut client).await;
    client.get_brokers(ask("orders")).await.unwrap();
    broker.die();
    drop(pulse);
    let topic = eventually(&mut client, "orders", |topic| topic.partitions[0].leader.is_empty()).await;
    assert!(topic.partitions[0].offline.contains("awaiting broker b1"), "{}", topic.partitions[0].offline);
    let (kind, text) = refusal(client.get_brokers(ask("another")).await);
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("no broker is live: b1 awaited"), "{text}");
    sentinel.stop().await;
}

#[tokio::test]
async fn a_silent_broker_that_answers_no_probe_is_down_after_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    broker.register(&mut client).await;
    client.get_brokers(ask("orders")).await.unwrap();
    broker.die();
    eventually(&mut client, "orders", |topic| topic.partitions[0].leader.is_empty()).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn a_healthy_broker_stays_whatever_a_client_says() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    let _pulse = broker.live(&mut client).await;
    let before = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    let report =
        pb::GetBrokersRequest { unreachable_brokers: vec!["b1".to_owned(), "nobody".to_owned()], ..ask("orders") };
    assert_eq!(client.get_brokers(report).await.unwrap().into_inner(), before);
    sentinel.stop().await;
}

#[tokio::test]
async fn a_reported_broker_is_probed_before_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut patient = options(folder.path());
    patient.session = std::time::Duration::from_secs(60);
    let (sentinel, mut client) = start(patient).await;
    let broker = FakeBroker::new("b1").await;
    broker.register(&mut client).await;
    client.get_brokers(ask("orders")).await.unwrap();
    broker.die();
    // For two heartbeats the sentinel believes what it has heard itself; a session takes much longer.
    let noticed = async {
        loop {
            let report = pb::GetBrokersRequest { unreachable_brokers: vec!["b1".to_owned()], ..ask("orders") };
            let answer = client.get_brokers(report).await.unwrap().into_inner().topic.unwrap();
            if answer.partitions[0].offline.contains("b1") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("the answer tells what the probe has found");
    sentinel.stop().await;
}

#[tokio::test]
async fn a_client_that_has_seen_more_waits_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let _pulse = FakeBroker::new("b1").await.live(&mut client).await;
    let present = client.get_brokers(ask("orders")).await.unwrap().into_inner().revision;
    client.get_brokers(pb::GetBrokersRequest { revision_min: present, ..ask("orders") }).await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "measures the wait from outside")]
    let asked = Instant::now();
    let (kind, text) =
        refusal(client.get_brokers(pb::GetBrokersRequest { revision_min: present + 100, ..ask("orders") }).await);
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("not yet at"), "{text}");
    assert!(asked.elapsed().as_secs() >= 4);
    sentinel.stop().await;
}

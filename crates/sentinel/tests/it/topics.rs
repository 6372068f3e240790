//! Topics as an administrator handles them.

use bytes::Bytes;
use goulette_proto::pb;
use goulette_types::ErrorKind;

use crate::harness::{Client, FakeBroker, ask, options, refusal, start};

fn create(name: &str) -> pb::CreateTopicRequest {
    pb::CreateTopicRequest { name: name.to_owned(), ..Default::default() }
}

async fn describe(client: &mut Client, name: &str) -> pb::DescribeTopicResponse {
    client.describe_topic(pb::DescribeTopicRequest { name: name.to_owned() }).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_created_topic_is_listed_described_and_kept_apart_from_others() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let _pulse = FakeBroker::new("b1").await.live(&mut client).await;
    let request = pb::CreateTopicRequest {
        partitions: 3,
        replication_factor: 2,
        config: [("fragment_ms".to_owned(), "60000".to_owned())].into(),
        ..create("orders")
    };
    let topic = client.create_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((topic.partitions.len(), topic.replication_factor_wanted), (3, 2));
    assert!(topic.created_at_ms > 0);
    let described = describe(&mut client, "orders").await;
    assert_eq!((described.topic.as_ref(), described.brokers.len()), (Some(&topic), 1));
    client.create_topic(create("another")).await.unwrap();
    let topics = client.list_topics(pb::ListTopicsRequest {}).await.unwrap().into_inner().topics;
    assert_eq!(topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["another", "orders"]);
    assert_ne!(topics[0].id, topics[1].id);
    let (kind, _) = refusal(client.create_topic(create("orders")).await);
    assert_eq!(kind, ErrorKind::AlreadyExists);
    sentinel.stop().await;
}

#[tokio::test]
async fn a_request_to_create_that_is_repeated_is_answered_again() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let _pulse = FakeBroker::new("b1").await.live(&mut client).await;
    let request = pb::CreateTopicRequest { request_id: Bytes::from_static(b"once"), ..create("orders") };
    let first = client.create_topic(request.clone()).await.unwrap().into_inner();
    assert_eq!(client.create_topic(request).await.unwrap().into_inner(), first);
    sentinel.stop().await;
}

#[tokio::test]
async fn nonsense_is_refused_and_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let _pulse = FakeBroker::new("b1").await.live(&mut client).await;
    let config = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    for (bad, expected) in [
        (create(""), "topic name is empty"),
        (create("../x"), "is not allowed"),
        (create(&"x".repeat(250)), "at most 249"),
        (pb::CreateTopicRequest { partitions: 10_001, ..create("t") }, "1 to 10000"),
        (pb::CreateTopicRequest { replication_factor: 16, ..create("t") }, "1 to 15"),
        (pb::CreateTopicRequest { config: config("fragments", "1"), ..create("t") }, "known are fragment_bytes"),
        (pb::CreateTopicRequest { config: config("fragment_bytes", "0"), ..create("t") }, "from 65536"),
        (pb::CreateTopicRequest { request_id: vec![0; 65].into(), ..create("t") }, "more than 64 bytes"),
    ] {
        let (kind, text) = refusal(client.create_topic(bad).await);
        assert_eq!(kind, ErrorKind::Invalid, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    assert!(client.list_topics(pb::ListTopicsRequest {}).await.unwrap().into_inner().topics.is_empty());
    sentinel.stop().await;
}

#[tokio::test]
async fn an_alteration_reaches_the_leader() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let pulse = FakeBroker::new("b1").await.live(&mut client).await;
    client.create_topic(create("orders")).await.unwrap();
    let set = |name: &str| pb::AlterTopicRequest {
        name: name.to_owned(),
        set: [("fragment_ms".to_owned(), "60000".to_owned())].into(),
        partitions: 2,
        ..Default::default()
    };
    let topic = client.alter_topic(set("orders")).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((topic.partitions.len(), topic.config["fragment_ms"].as_str()), (2, "60000"));
    pulse.sees(|seen| seen.leads.len() == 2 && seen.configs["orders"].contains_key("fragment_ms")).await;
    assert_eq!(pulse.seen().partitions["orders"], 2);
    let unset = vec!["fragment_ms".to_owned()];
    let both = pb::AlterTopicRequest { unset: unset.clone(), ..set("orders") };
    assert_eq!(refusal(client.alter_topic(both).await).0, ErrorKind::Invalid);
    let shrink = pb::AlterTopicRequest { partitions: 1, ..set("orders") };
    assert_eq!(refusal(client.alter_topic(shrink).await).0, ErrorKind::Invalid);
    assert_eq!(refusal(client.alter_topic(set("absent")).await).0, ErrorKind::NotFound);
    let unset = pb::AlterTopicRequest { name: "orders".to_owned(), unset, ..Default::default() };
    assert!(client.alter_topic(unset).await.unwrap().into_inner().topic.unwrap().config.is_empty());
    pulse.sees(|seen| seen.configs["orders"].is_empty()).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn a_deleted_topic_is_told_to_brokers_now_and_to_those_who_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let here = FakeBroker::new("b1").await;
    let pulse = here.live(&mut client).await;
    let id = client.create_topic(create("orders")).await.unwrap().into_inner().topic.unwrap().id;
    let delete = pb::DeleteTopicRequest { name: "orders".to_owned() };
    assert_eq!(client.delete_topic(delete.clone()).await.unwrap().into_inner().topic_id, id);
    pulse.sees(|seen| seen.deleted == [id.clone()]).await;
    assert_eq!(refusal(client.delete_topic(delete).await).0, ErrorKind::NotFound);
    assert_eq!(
        refusal(client.describe_topic(pb::DescribeTopicRequest { name: "orders".to_owned() }).await).0,
        ErrorKind::NotFound
    );

    let mut away = FakeBroker::new("b2").await;
    let held = |topic_id: &Bytes| pb::Held { topic_id: topic_id.clone(), leader_epoch: 1, ..Default::default() };
    let unknown = Bytes::from_static(&[9; 16]);
    away.held = vec![held(&id), held(&unknown)];
    assert_eq!(away.register(&mut client).await.deleted_topics, vec![id.clone()], "what is unknown is not deleted");

    let again = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    assert_ne!(again.id, id, "a topic of the same name is another topic");
    sentinel.stop().await;
}

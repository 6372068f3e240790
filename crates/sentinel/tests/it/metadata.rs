//! What people ask of the metadata as a whole: its status, the log, export and import, adoption.

use goulette_proto::pb::{self, cluster_client::ClusterClient};
use goulette_sentinel::Sentinel;
use goulette_types::ErrorKind;
use tonic::transport::Channel;

use crate::harness::{FakeBroker, ask, bytes, eventually, options, refusal, start};

async fn cluster(sentinel: &Sentinel) -> ClusterClient<Channel> {
    ClusterClient::connect(format!("http://{}", sentinel.address())).await.unwrap()
}

async fn export(client: &mut ClusterClient<Channel>) -> Vec<pb::MetadataChunk> {
    let mut stream = client.export_metadata(pb::ExportMetadataRequest {}).await.unwrap().into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        chunks.push(chunk);
    }
    chunks
}

async fn create(client: &mut crate::harness::Client, name: &str, partitions: u32) {
    let request = pb::CreateTopicRequest { name: name.to_owned(), partitions, ..Default::default() };
    client.create_topic(request).await.unwrap();
}

#[tokio::test]
async fn the_status_tells_of_brokers_partitions_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let mut people = cluster(&sentinel).await;
    let broker = FakeBroker::new("b1").await;
    let pulse = broker.live(&mut client).await;
    create(&mut client, "orders", 4).await;
    let ask_status = pb::GetClusterStatusRequest {};
    let status = people.get_cluster_status(ask_status).await.unwrap().into_inner();
    assert_eq!(status.cluster_id, sentinel.cluster_id().to_string());
    assert_eq!((status.topics, status.partitions, status.offline_count), (1, 4, 0));
    assert_eq!(status.under_replicated_count, 4, "three are wanted");
    assert!(status.sentinels.len() == 1 && status.sentinels[0].leader, "{:?}", status.sentinels);
    let store = status.store.unwrap();
    assert!(store.mode == "local" && store.healthy && store.size_bytes > 0, "{store:?}");
    let [told] = &status.brokers[..] else { panic!("one broker: {:?}", status.brokers) };
    assert_eq!((told.state(), told.partitions_held, told.partitions_led), (pb::BrokerState::Healthy, 4, 4));
    broker.die();
    drop(pulse);
    eventually(&mut client, "orders", |topic| topic.partitions[0].leader.is_empty()).await;
    let status = people.get_cluster_status(ask_status).await.unwrap().into_inner();
    assert_eq!((status.offline_count, status.brokers[0].state()), (4, pb::BrokerState::Down));
    assert!(status.offline[0].problem.contains("awaiting broker b1"), "{}", status.offline[0].problem);
    sentinel.stop().await;
}

#[tokio::test]
async fn the_operation_log_is_told_in_pages_and_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let mut people = cluster(&sentinel).await;
    let broker = FakeBroker::new("b1").await;
    let _pulse = broker.live(&mut client).await;
    create(&mut client, "orders", 1).await;
    let page = |from, newest| pb::ListOperationsRequest { from, limit: 2, newest };
    let first = people.list_operations(page(0, false)).await.unwrap().into_inner();
    let names = |page: &pb::ListOperationsResponse| {
        page.operations.iter().map(|operation| operation.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&first), ["createCluster", "addBrokerToHashRing"]);
    let second = people.list_operations(page(first.next, false)).await.unwrap().into_inner();
    assert_eq!(names(&second), ["registerBroker", "createTopic"]);
    let last = people.list_operations(page(0, true)).await.unwrap().into_inner();
    assert_eq!(names(&last), ["createTopic", "generateTopicReplicas"]);
    assert!(last.operations[0].json.contains("orders") && last.next == 0);
    sentinel.stop().await;
}

#[tokio::test]
async fn metadata_moves_to_another_store_with_topics_operations_and_numbers() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sentinel, mut client) = start(options(here.path())).await;
    let id = sentinel.cluster_id();
    let mut broker = FakeBroker::new("b1").await;
    broker.register(&mut client).await;
    create(&mut client, "orders", 120).await;
    let producer = client.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner().producer_id;
    let before = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    let chunks = export(&mut cluster(&sentinel).await).await;
    sentinel.stop().await;

    let mut other = options(there.path());
    other.cluster_id = Some(id);
    let (sentinel, mut client) = start(other).await;
    let mut people = cluster(&sentinel).await;
    // It comes first, as in a checkout where the sentinel was exchanged under a running broker.
    let held = |partition: &pb::Partition| pb::Held {
        topic_id: before.id.clone(),
        topic: "orders".to_owned(),
        partition: partition.index,
        leader_epoch: partition.leader_epoch,
        end: 7,
        ..Default::default()
    };
    broker.held = before.partitions.iter().map(held).collect();
    broker.cluster_id = bytes(id.to_bytes());
    let pulse = broker.live(&mut client).await;
    let status = people.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.unknown_count, 120);

    let done = people.import_metadata(tokio_stream::iter(chunks.clone())).await.unwrap().into_inner();
    assert_eq!((done.topics, done.partitions, done.generation), (1, 120, 1));
    assert!(done.operations >= 5);
    assert!(pulse.sees(|seen| seen.told_to_register).await.told_to_register, "it is to tell what it has seen");
    let registered = broker.register(&mut client).await;
    assert_eq!(registered.assignments.len(), 120);
    let after = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    let topic = after.topic.unwrap();
    assert_eq!((topic.id, topic.partitions.len(), after.generation), (before.id.clone(), 120, 1));
    assert!(topic.partitions.iter().all(|partition| partition.leader == "b1" && partition.leader_epoch > 1));
    let next = client.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner().producer_id;
    assert!(next > producer, "no number is given twice");
    let log = people.list_operations(pb::ListOperationsRequest { limit: 1_000, ..Default::default() }).await.unwrap();
    let names: Vec<_> = log.into_inner().operations.into_iter().map(|operation| operation.name).collect();
    assert!(names.contains(&"createTopic".to_owned()) && names.contains(&"importMetadata".to_owned()), "{names:?}");
    let (kind, text) = refusal(people.import_metadata(tokio_stream::iter(chunks)).await);
    assert!(kind == ErrorKind::Invalid && text.contains("orders"), "{text}");
    sentinel.stop().await;
}

#[tokio::test]
async fn what_brokers_hold_and_nobody_knows_is_adopted_by_order() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let mut people = cluster(&sentinel).await;
    let mut broker = FakeBroker::new("b1").await;
    let held = |partition| pb::Held {
        topic_id: bytes([7; 16]),
        topic: "lost".to_owned(),
        partition,
        leader_epoch: 5,
        end: 100,
        ..Default::default()
    };
    broker.held = vec![held(0), held(2)];
    let pulse = broker.live(&mut client).await;
    let adopt = |missing_may_be_empty| pb::AdoptPartitionsRequest { missing_may_be_empty, ..Default::default() };
    let (kind, text) = refusal(people.adopt_partitions(adopt(false)).await);
    assert!(kind == ErrorKind::Invalid && text.contains("partition 1"), "{text}");
    let adopted = people.adopt_partitions(adopt(true)).await.unwrap().into_inner().topics;
    assert_eq!((adopted.len(), adopted[0].name.as_str(), adopted[0].partitions.len()), (1, "lost", 3));
    let seen = pulse.sees(|seen| seen.leads.len() == 3).await;
    assert_eq!(seen.leads[&("lost".to_owned(), 2)], 6, "above what the broker has stored");
    let status = people.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.unknown_count, 0);
    sentinel.stop().await;
}

#[tokio::test]
async fn what_a_broker_keeps_of_partitions_that_are_elsewhere_is_said_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let mut people = cluster(&sentinel).await;
    let one = FakeBroker::new("b1").await;
    let _pulse = one.live(&mut client).await;
    create(&mut client, "orders", 2).await;
    let topic = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    let held = |partition, end| pb::Held {
        topic_id: topic.id.clone(),
        topic: "orders".to_owned(),
        partition,
        leader_epoch: 1,
        end,
        ..Default::default()
    };
    // It comes back from before the topic moved; of the second partition it has nothing.
    let mut other = FakeBroker::new("b2").await;
    other.held = vec![held(0, 7), held(1, 0)];
    let _other_pulse = other.live(&mut client).await;
    let status = people.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.unknown_count, 0);
    assert!(status.warnings[0].contains("b2 keeps 1 partitions that are elsewhere"), "{:?}", status.warnings);
    assert!(status.warnings[0].ends_with(": orders/0"), "{:?}", status.warnings);
    sentinel.stop().await;
}

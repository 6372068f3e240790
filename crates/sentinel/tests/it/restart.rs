//! What a new start of a sentinel keeps, and what it refuses.

use goulette_env::Env;
use goulette_proto::pb::{self, admin_client::AdminClient};
use goulette_sentinel::{Sentinel, StartError};
use goulette_types::{ClusterId, ErrorKind};
use tokio::time::{Instant, timeout};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{FakeBroker, PATIENCE, ask, eventually, options, start};

async fn refused(options: goulette_sentinel::SentinelOptions) -> StartError {
    match Sentinel::start(options, Env::real()).await {
        Ok(_) => panic!("a start that is refused"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_restart_keeps_ids_epochs_and_counters() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let cluster = sentinel.cluster_id();
    let broker = FakeBroker::new("b1").await;
    let pulse = broker.live(&mut client).await;
    let before = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    let producer = client.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner();
    drop(pulse);
    sentinel.stop().await;

    let (sentinel, mut client) = start(options(folder.path())).await;
    assert_eq!(sentinel.cluster_id(), cluster);
    let after = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    let told = |answer: pb::GetBrokersResponse| (answer.topic, answer.brokers);
    assert_eq!(told(after), told(before), "the broker is granted a session, so its clients notice nothing");
    let registered = broker.register(&mut client).await;
    assert_eq!(registered.assignments[0].leader_epoch, 1, "the same start of the broker leads on");
    let next = client.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner();
    assert_eq!(next.producer_id, producer.producer_id + 1);
    let again = pb::InitProducerRequest { producer_id: Some(producer.producer_id), producer_epoch: 0 };
    assert_eq!(client.init_producer(again).await.unwrap().into_inner().producer_epoch, 1);
    sentinel.stop().await;
}

#[tokio::test]
async fn a_broker_that_does_not_come_back_after_a_restart_is_down_after_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    broker.register(&mut client).await;
    client.get_brokers(ask("orders")).await.unwrap();
    sentinel.stop().await;
    broker.die();
    let (sentinel, mut client) = start(options(folder.path())).await;
    eventually(&mut client, "orders", |topic| topic.partitions[0].leader.is_empty()).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn a_broker_whose_stream_survives_nothing_is_told_to_register() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let broker = FakeBroker::new("b1").await;
    let pulse = broker.beat(&mut client, pb::RegisterBrokerResponse { heartbeat_ms: 50, ..Default::default() }).await;
    pulse.sees(|seen| seen.told_to_register).await;
    sentinel.stop().await;
}

#[tokio::test]
async fn two_sentinels_on_one_folder_are_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, _client) = start(options(folder.path())).await;
    let error = refused(options(folder.path())).await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("two sentinels on one data folder"), "{error}");
    sentinel.stop().await;
    start(options(folder.path())).await.0.stop().await;
}

#[tokio::test]
async fn the_folder_of_another_sentinel_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    start(options(folder.path())).await.0.stop().await;
    let mut other = options(folder.path());
    other.id = "s2".parse().unwrap();
    let error = refused(other).await;
    assert!(error.to_string().contains("the data folder of sentinel s1, not of s2"), "{error}");
}

#[tokio::test]
async fn a_damaged_identity_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    start(options(folder.path())).await.0.stop().await;
    let path = folder.path().join("sentinel.json");
    for (content, expected) in [("{\"version\":9,\"sentinel_id\":\"s1\"}", "format 9"), ("", "EOF"), ("[]", "invalid")]
    {
        #[allow(clippy::disallowed_methods, reason = "damages the file behind the sentinel's back")]
        std::fs::write(&path, content).unwrap();
        let error = refused(options(folder.path())).await;
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().contains("sentinel.json") && cause.contains(expected), "{error}: {cause}");
    }
}

#[tokio::test]
async fn a_given_cluster_id_is_taken_once_and_insisted_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut given = options(folder.path());
    given.cluster_id = Some(ClusterId(5));
    let (sentinel, _client) = start(given.clone()).await;
    assert_eq!(sentinel.cluster_id(), ClusterId(5));
    sentinel.stop().await;
    given.cluster_id = Some(ClusterId(6));
    let error = refused(given).await;
    assert!(matches!(error, StartError::OtherCluster { .. }), "{error}");
}

#[tokio::test]
async fn a_busy_port_is_an_error_that_names_it() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sentinel, _client) = start(options(folder.path())).await;
    let mut same_port = options(other.path());
    same_port.address = sentinel.address();
    let error = refused(same_port).await;
    assert!(matches!(error, StartError::Bind { .. }), "{error}");
    assert!(error.to_string().contains(&sentinel.address().to_string()), "{error}");
    sentinel.stop().await;
}

#[tokio::test]
async fn options_without_sense_are_refused_all_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut bad = options(folder.path());
    bad.default_partitions = 0;
    bad.default_replication_factor = 16;
    bad.session = bad.heartbeat;
    let text = refused(bad).await.to_string();
    assert_eq!(text.matches("; ").count(), 2, "{text}");
}

#[tokio::test]
async fn it_is_serving_and_says_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, _client) = start(options(folder.path())).await;
    let url = format!("http://{}", sentinel.address());
    let channel = Endpoint::from_shared(url.clone()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    for service in ["", "goulette.v1.Sentinel"] {
        let check = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(check).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let mut admin = AdminClient::connect(url).await.unwrap();
    let info = admin.get_info(pb::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.role.as_str(), info.id.as_str(), info.state.as_str()), ("sentinel", "s1", "serving"));
    assert_eq!(info.cluster_id, sentinel.cluster_id().to_string());
    assert!(admin.set_log_level(pb::SetLogLevelRequest { level: "loud".to_owned() }).await.is_err());
    sentinel.stop().await;
}

#[tokio::test]
async fn it_stops_while_brokers_beat_and_clients_are_connected() {
    let folder = tempfile::tempdir().unwrap();
    let (sentinel, mut client) = start(options(folder.path())).await;
    let _pulse = FakeBroker::new("b1").await.live(&mut client).await;
    let began = Instant::now();
    timeout(PATIENCE, sentinel.stop()).await.unwrap();
    assert!(began.elapsed().as_secs() < 3, "nobody was cut off");
    assert!(client.get_brokers(ask("orders")).await.is_err());
}

//! Starting, stopping, and the sentinel's coming and going.

use std::sync::Arc;

use goulette_broker::{Broker, StartError, StopReason};
use goulette_env::Env;
use goulette_proto::{pb, status::kind_of};
use goulette_types::ErrorKind;
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    disk::Gate,
    harness::{
        Producer, Reader, batch, channel, connect, ends, kind, numbered, options, request, soon, start, start_with,
        wire,
    },
    sentinel::FakeSentinel,
};

/// Waits for a health.
async fn health(broker: &Broker, expected: ServingStatus) {
    let mut client = HealthClient::new(channel(broker.address()).await);
    let request = HealthCheckRequest { service: "goulette.v1.Broker".to_owned() };
    let mut statuses = soon(client.watch(request)).await.unwrap().into_inner();
    while soon(statuses.message()).await.unwrap().unwrap().status() != expected {}
}

#[tokio::test]
async fn a_broker_whose_session_has_just_ended_takes_leave_all_the_same() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    sentinel.assign("t", 0).await;
    // As from one that does not lead any more, and knows of nobody who does.
    sentinel.dismiss(tonic::Status::unavailable("not now")).await;
    soon(broker.stop()).await.unwrap();
    assert_eq!(sentinel.unregistered(), 1);
}

#[tokio::test]
async fn a_broker_stops_in_time_where_no_sentinel_hears_it() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    sentinel.kill().await;
    tokio::time::timeout(std::time::Duration::from_secs(5), broker.stop()).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn a_restarted_broker_has_its_data_and_leads_again_in_a_new_epoch() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut producer = Producer::open(&mut connect(&broker).await).await;
    producer.store(partition, &numbered(5, 0, ["a", "b"])).await;
    let first = sentinel.registration(1).await;
    assert!(first.held.is_empty() && first.cluster_id.is_empty());
    broker.stop().await.unwrap();
    assert_eq!(sentinel.unregistered(), 1);

    let broker = start(&sentinel, dir.path()).await;
    let second = sentinel.registration(2).await;
    assert_ne!(second.incarnation, first.incarnation);
    assert_eq!(second.storage_id, first.storage_id);
    assert_eq!(second.cluster_id.len(), 16);
    assert_eq!(second.producer_id_max, 5);
    assert_eq!(second.held.len(), 1);
    let held = &second.held[0];
    assert_eq!((held.topic.as_str(), held.partition, held.leader_epoch, held.end), ("t", 0, 1, 2));

    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    // Its producers are remembered too.
    producer.send(partition, &numbered(5, 0, ["a", "b"])).await;
    assert!(producer.ack().await.duplicate);
    assert_eq!(producer.store(partition, &numbered(5, 2, ["c"])).await, 2);
    let old = pb::ProduceRequest { leader_epoch: 1, ..request(partition, wire(&batch(["x"]))) };
    assert_eq!(kind(&producer.refused(old).await), ErrorKind::NotLeader);
    assert_eq!(Reader::from(&mut client, partition, 0).await.values(3).await, ["a", "b", "c"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_is_finished_before_the_broker_stops() {
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let broker = start_with(options(sentinel.address, dir.path()), gate.env()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    let mut reader = Reader::from(&mut client, partition, 0).await;
    gate.shut();
    producer.send(partition, &batch(["a"])).await;
    producer
        .request(pb::ProduceRequest { acks: pb::Acks::None.into(), ..request(partition, wire(&batch(["b"]))) })
        .await;
    // The second is answered at once: so both have been accepted.
    assert_eq!(producer.ack().await.request_id, 2);
    let stopping = tokio::spawn(broker.stop());
    let error = loop {
        match reader.frame().await.error {
            Some(error) => break error,
            None => continue,
        }
    };
    assert_eq!(kind(&error), ErrorKind::Unavailable);
    gate.open();
    assert_eq!(producer.ack().await.base_offset, Some(0));
    assert_eq!(kind_of(&producer.try_ack().await.unwrap_err()), ErrorKind::Unavailable);
    drop((producer, reader, client));
    soon(stopping).await.unwrap().unwrap();

    let broker = start(&sentinel, dir.path()).await;
    assert_eq!(ends(&mut connect(&broker).await, partition).await, (0, 2));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_watcher_of_its_health_does_not_keep_a_broker_from_stopping() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let mut patient = options(sentinel.address, dir.path());
    patient.stop_deadline = std::time::Duration::from_secs(3600);
    let broker = start_with(patient, Env::real()).await.unwrap();
    let mut client = HealthClient::new(channel(broker.address()).await);
    let request = HealthCheckRequest { service: String::new() };
    let mut statuses = soon(client.watch(request)).await.unwrap().into_inner();
    assert_eq!(soon(statuses.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    soon(broker.stop()).await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_ends_everything_with_an_unknown_outcome() {
    let (sentinel, dir, gate) = (FakeSentinel::start().await, tempfile::tempdir().unwrap(), Gate::default());
    let broker = start_with(options(sentinel.address, dir.path()), gate.env()).await.unwrap();
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    health(&broker, ServingStatus::Serving).await;
    gate.break_disk();
    producer.send(partition, &batch(["a"])).await;
    let ack = producer.ack().await;
    assert_eq!(kind(&ack.error.unwrap()), ErrorKind::OutcomeUnknown);
    let reason = soon(broker.stopped()).await;
    assert!(matches!(&reason, StopReason::Poisoned(_)) && reason.to_string().contains("the test broke this disk"));
    assert!(soon(broker.stop()).await.is_err());
}

#[tokio::test]
async fn a_broker_that_no_sentinel_knows_yet_is_unavailable_until_one_does() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let partition = {
        let broker = start(&sentinel, dir.path()).await;
        let partition = sentinel.assign("t", 0).await;
        broker.stop().await.unwrap();
        partition
    };
    let address = sentinel.address;
    let stored = sentinel.kill().await;

    let broker = start_with(options(address, dir.path()), Env::real()).await.unwrap();
    let mut client = connect(&broker).await;
    health(&broker, ServingStatus::NotServing).await;
    let mut producer = Producer::open(&mut client).await;
    let early = producer.refused(request(partition, wire(&batch(["a"])))).await;
    assert_eq!(kind(&early), ErrorKind::Unavailable);
    let early = Reader::open(&mut client, crate::harness::open(partition, 0), 0).await.error().await;
    assert_eq!(kind(&early), ErrorKind::Unavailable);

    let sentinel = FakeSentinel::serve(address, stored).await;
    health(&broker, ServingStatus::Serving).await;
    assert_eq!(producer.store(partition, &batch(["a"])).await, 0);
    broker.stop().await.unwrap();
    drop(sentinel);
}

#[tokio::test]
async fn a_broker_serves_on_while_its_sentinel_is_away_and_registers_again() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut producer = Producer::open(&mut client).await;
    let address = sentinel.address;
    let stored = sentinel.kill().await;
    assert_eq!(producer.store(partition, &batch(["a"])).await, 0);

    let sentinel = FakeSentinel::serve(address, Arc::clone(&stored)).await;
    let again = sentinel.registration(2).await;
    assert_eq!(again.held.len(), 1);
    // What it led it leads on, and new orders reach it.
    assert_eq!(producer.store(partition, &batch(["b"])).await, 1);
    let other = sentinel.assign("t", 1).await;
    assert_eq!(producer.store(other, &batch(["c"])).await, 0);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn the_next_sentinel_is_tried_when_one_does_not_answer() {
    let (gone, sentinel) = (FakeSentinel::start().await, FakeSentinel::start().await);
    let dir = tempfile::tempdir().unwrap();
    let mut several = options(sentinel.address, dir.path());
    several.sentinels.insert(0, gone.address.to_string());
    gone.kill().await;
    let broker = start_with(several, Env::real()).await.unwrap();
    health(&broker, ServingStatus::Serving).await;
    broker.stop().await.unwrap();
}

async fn start_error(sentinel: &FakeSentinel, dir: &std::path::Path) -> StartError {
    start_with(options(sentinel.address, dir), Env::real()).await.err().unwrap()
}

#[tokio::test]
async fn a_data_directory_that_gets_free_in_a_moment_is_waited_for() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let ending = start(&sentinel, dir.path()).await;
    let (stopped, next) = tokio::join!(
        async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await; // The next one meets the lock meanwhile.
            ending.stop().await
        },
        start_with(options(sentinel.address, dir.path()), Env::real()),
    );
    stopped.unwrap();
    next.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn what_a_retry_does_not_mend_is_said_at_the_start() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;

    let locked = start_error(&sentinel, dir.path()).await;
    assert!(matches!(locked, StartError::Open(_)) && locked.kind() == ErrorKind::Conflict, "{locked}");
    assert!(locked.to_string().contains("in use by another process"), "{locked}");

    let other_dir = tempfile::tempdir().unwrap();
    let mut busy = options(sentinel.address, other_dir.path());
    busy.listen = broker.address();
    let busy = start_with(busy, Env::real()).await.err().unwrap();
    assert!(busy.to_string().contains(&broker.address().to_string()), "{busy}");
    broker.stop().await.unwrap();

    let mut renamed = options(sentinel.address, dir.path());
    renamed.id = "broker2".parse().unwrap();
    let renamed = start_with(renamed, Env::real()).await.err().unwrap();
    assert!(renamed.to_string().contains("belongs to broker broker1"), "{renamed}");

    sentinel.set_cluster(0xc2);
    let foreign = start_error(&sentinel, dir.path()).await;
    assert_eq!(foreign.kind(), ErrorKind::Conflict);
    assert!(foreign.to_string().contains("000000c1") && foreign.to_string().contains("000000c2"), "{foreign}");
    sentinel.set_cluster(0xc1);

    sentinel.refuse(goulette_proto::status::to_status(ErrorKind::Conflict, "broker1 lives at 10.0.0.1:50051"));
    let taken = start_error(&sentinel, dir.path()).await;
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    assert!(taken.to_string().contains("broker1 lives at 10.0.0.1:50051"), "{taken}");

    let mut wrong = options(sentinel.address, dir.path());
    wrong.sentinels = vec!["nowhere".to_owned()];
    let wrong = start_with(wrong, Env::real()).await.err().unwrap();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    assert!(wrong.to_string().contains("\"nowhere\""), "{wrong}");
    for error in [locked, busy, renamed, foreign, taken, wrong] {
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn a_broker_that_is_refused_later_stops_by_itself() {
    let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
    let broker = start(&sentinel, dir.path()).await;
    let partition = sentinel.assign("t", 0).await;
    let mut client = connect(&broker).await;
    let mut reader = Reader::from(&mut client, partition, 0).await;
    let address = sentinel.address;
    let stored = sentinel.kill().await;
    let fenced: Status = goulette_proto::status::to_status(ErrorKind::Fenced, "a newer incarnation has registered");
    let refusing = FakeSentinel::serve(address, stored).await;
    refusing.refuse(fenced);
    let reason = soon(broker.stopped()).await;
    assert_eq!(reason.kind(), ErrorKind::Fenced);
    reader.error().await;
    soon(broker.stop()).await.unwrap();
}

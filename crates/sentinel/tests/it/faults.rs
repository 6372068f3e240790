//! A sentinel whose disk fails.

use std::path::Path;

use goulette_env::{
    Env,
    sim::{Faults, SimDisk},
};
use goulette_proto::pb;
use goulette_sentinel::Sentinel;
use goulette_types::ErrorKind;
use tokio::time::timeout;

use crate::harness::{FakeBroker, PATIENCE, ask, connect, options, refusal};

#[tokio::test]
async fn a_failed_sync_is_an_unknown_outcome_and_the_sentinel_asks_to_be_stopped() {
    let disk = SimDisk::from_seed(1);
    let start = |disk: &SimDisk| Sentinel::start(options(Path::new("data")), disk.env());
    let sentinel = start(&disk).await.unwrap();
    let mut client = connect(&sentinel).await;
    let broker = FakeBroker::new("b1").await;
    broker.register(&mut client).await;
    client.init_producer(pb::InitProducerRequest::default()).await.unwrap();
    disk.set_faults(Faults { fail_sync_at: Some(disk.syncs() + 1), ..Faults::default() });
    let (kind, text) = refusal(client.init_producer(pb::InitProducerRequest::default()).await);
    assert_eq!(kind, ErrorKind::OutcomeUnknown, "{text}");
    let failure = timeout(PATIENCE, sentinel.failed()).await.unwrap();
    assert!(failure.to_string().contains("commit"), "{failure}");
    assert_eq!(refusal(client.get_brokers(ask("orders")).await).0, ErrorKind::Unavailable);
    sentinel.stop().await;

    let sentinel = start(&disk.restart()).await.unwrap();
    let mut client = connect(&sentinel).await;
    let next = client.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner();
    assert!(next.producer_id >= 2, "an id that was answered is never given again");
    sentinel.stop().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("below/a/file");
    let error = Sentinel::start(options(&folder), Env::real()).await.err().expect("a start that is refused");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("below/a/file"), "{error}: {cause}");
}

//! Proposals and reads, with members that stop and come back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use goulette_env::Env;
use goulette_etcd::{
    consensus::{Consensus, ProposeError, ReadError},
    raft::{RaftNode, RaftOptions},
};

use super::cluster::{Cluster, eventually};

async fn propose(cluster: &Cluster, through: u64, numbers: std::ops::Range<usize>) {
    let node = cluster.node(through);
    let all = numbers.map(|number| {
        let node = node.clone();
        async move { node.propose(Bytes::from(number.to_string())).await }
    });
    for done in join_all(all).await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_keeps_its_requests_over_a_crash() {
    let mut cluster = Cluster::start(1).await;
    let own = cluster.leader().await;
    propose(&cluster, own, 0..100).await;
    cluster.agree_on(100).await;
    let before = cluster.recorder(own).requests();
    let groups = cluster.node(own).log_stats().groups;
    assert!(groups < 60, "100 requests at once took {groups} groups: they share writes");

    cluster.crash(own).await;
    assert!(cluster.recorder(own).requests().is_empty(), "the state itself was never synced");
    cluster.run(own).await.unwrap();
    cluster.leader().await;
    cluster.node(own).read_index().await.unwrap();
    assert_eq!(cluster.recorder(own).requests(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_whoever_is_asked_and_whoever_stops() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    propose(&cluster, leader, 0..20).await;
    propose(&cluster, follower, 20..40).await;
    cluster.node(follower).read_index().await.unwrap();
    assert_eq!(cluster.recorder(follower).requests().len(), 40, "a linearizable read sees all that was answered");

    let term = cluster.node(leader).status().leadership.term;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert!(cluster.node(next).status().leadership.term > term);
    propose(&cluster, next, 40..60).await;

    cluster.run(leader).await.unwrap();
    cluster.agree_on(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_is_elected_anew_before_it_answers() {
    for size in [1, 3] {
        let mut cluster = Cluster::start(size).await;
        let leader = cluster.leader().await;
        propose(&cluster, leader, 0..10).await;
        let term = cluster.node(leader).status().leadership.term;
        cluster.crash(leader).await;
        // At once: the others have not noticed yet.
        cluster.run(leader).await.unwrap();
        cluster.node(leader).read_index().await.unwrap();
        assert!(cluster.node(leader).status().leadership.term > term, "it does not know what was committed last");
        assert_eq!(cluster.recorder(leader).requests().len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_too_far_is_sent_the_whole_state() {
    let mut cluster = Cluster::start_with(3, 40).await;
    let slow = cluster.follower().await;
    cluster.crash(slow).await;
    let leader = cluster.leader().await;
    for batch in 0..10 {
        propose(&cluster, leader, batch * 50..(batch + 1) * 50).await;
    }
    eventually("a cut log", || (cluster.node(leader).log_start() > 200).then_some(())).await;
    cluster.run(slow).await.unwrap();
    cluster.agree_on(500).await;
    assert!(*cluster.recorder(slow).installed.lock().unwrap() > 0, "the log before was cut");
    // And once more over a crash: the log of the member that got the state begins behind it.
    propose(&cluster, leader, 500..510).await;
    cluster.agree_on(510).await;
    cluster.crash(slow).await;
    cluster.run(slow).await.unwrap();
    cluster.agree_on(510).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_in_time() {
    let mut cluster = Cluster::start(3).await;
    let last = cluster.leader().await;
    propose(&cluster, last, 0..1).await;
    for id in cluster.ids().into_iter().filter(|id| *id != last) {
        cluster.crash(id).await;
    }
    #[allow(clippy::disallowed_methods, reason = "it is about real time")]
    let start = Instant::now();
    let node = cluster.node(last);
    let (written, read) = tokio::join!(node.propose(Bytes::from_static(b"lost")), node.read_index());
    assert!(matches!(written, Err(ProposeError::Unknown | ProposeError::NoLeader)), "{written:?}");
    assert!(matches!(read, Err(ReadError::Timeout | ReadError::NoLeader)), "{read:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_with_what_to_do() {
    let mut cluster = Cluster::start(1).await;
    let own = cluster.leader().await;
    propose(&cluster, own, 0..1).await;
    for number in 1..50 {
        propose(&cluster, own, number..number + 1).await;
    }
    let dir = cluster.dir(own);
    cluster.crash(own).await;
    let segment = dir.join("wal").join(goulette_wal::segment_name(1));
    #[allow(clippy::disallowed_methods, reason = "a test damages a file")]
    {
        let mut bytes = std::fs::read(&segment).unwrap();
        // In the middle of what was synced long before the end.
        let at = bytes.windows(2).position(|pair| pair == b"20").unwrap();
        bytes[at] ^= 0xff;
        std::fs::write(&segment, bytes).unwrap();
    }
    let error = cluster.run(own).await.unwrap_err().to_string();
    assert!(error.contains("Remove the member from the cluster"), "{error}");
}

#[tokio::test]
async fn an_election_timeout_below_five_heartbeats_is_refused() {
    let cluster = Cluster::start(1).await;
    let own = cluster.leader().await;
    let options = RaftOptions { election_timeout: Duration::from_millis(100), ..cluster.options(own) };
    let error = RaftNode::start(Env::real(), options, cluster.recorder(own)).await.err().unwrap();
    assert!(error.to_string().contains("--election-timeout[100ms]"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_hands_over_on_request() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.node(leader).transfer_leader(follower).await.unwrap();
    assert_eq!(
        eventually("the new leader", || {
            let leader = cluster.node(leader).status().leadership.leader?;
            (leader == follower).then_some(leader)
        })
        .await,
        follower
    );
    let refused = cluster.node(leader).transfer_leader(follower).await.unwrap_err();
    assert_eq!(refused.to_string(), "etcdserver: not leader");
    let refused = cluster.node(follower).transfer_leader(12345).await.unwrap_err();
    assert_eq!(refused.to_string(), "etcdserver: bad leader transferee");
    propose(&cluster, leader, 0..5).await;
    cluster.agree_on(5).await;
}

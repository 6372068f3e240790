//! Members that come and go.

use std::sync::Arc;

use bytes::Bytes;
use goulette_etcd::{
    consensus::{Consensus, LogPosition, MemberChange, MemberRaft},
    raft::{RaftEnd, initial_configuration},
};

use super::{
    cluster::{Cluster, TestMember, describe, eventually},
    recorder::{Recorder, State},
};

async fn add(cluster: &mut Cluster, is_learner: bool) -> u64 {
    let raft = MemberRaft { is_learner, ..describe("test").await };
    let id = raft.id;
    let through = cluster.leader().await;
    cluster.node(through).change_members(MemberChange::Add(raft.clone())).await.unwrap();
    cluster.members.insert(id, TestMember { raft, recorder: Arc::default(), running: None });
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_three_and_shrinks_again() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.leader().await;
    cluster.node(first).propose(Bytes::from_static(b"a")).await.unwrap();

    let second = add(&mut cluster, false).await;
    let shown = cluster.node(first).members();
    assert!(shown.iter().all(|member| !member.is_learner), "to clients a new voter is one at once: {shown:?}");
    // It is not started yet, and the cluster goes on: its vote does not count so far.
    cluster.node(first).propose(Bytes::from_static(b"b")).await.unwrap();
    cluster.run(second).await.unwrap();
    eventually("a vote for the second", || (!cluster.node(second).status().is_learner).then_some(())).await;
    let third = add(&mut cluster, false).await;
    cluster.run(third).await.unwrap();
    eventually("a vote for the third", || (!cluster.node(third).status().is_learner).then_some(())).await;
    let leader = cluster.leader().await;
    eventually("the end of the change", || (!cluster.node(leader).is_changing_members()).then_some(())).await;
    cluster.agree_on(2).await;

    // Now one of three may be missing.
    cluster.crash(second).await;
    let leader = cluster.leader().await;
    cluster.node(leader).propose(Bytes::from_static(b"c")).await.unwrap();
    cluster.run(second).await.unwrap();
    cluster.agree_on(3).await;

    let leader = cluster.leader().await;
    let mut end = cluster.node(leader).ended();
    cluster.node(leader).change_members(MemberChange::Remove(leader)).await.unwrap();
    let ended = tokio::time::timeout(super::cluster::PATIENCE, end.wait_for(Option::is_some)).await.unwrap();
    assert_eq!(*ended.unwrap(), Some(RaftEnd::Removed), "a removed member stops");
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    cluster.node(next).propose(Bytes::from_static(b"d")).await.unwrap();
    cluster.agree_on(4).await;
    assert_eq!(cluster.node(next).members().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_has_no_vote_until_it_is_promoted() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.leader().await;
    for number in 0..50 {
        cluster.node(first).propose(Bytes::from(number.to_string())).await.unwrap();
    }
    let learner = add(&mut cluster, true).await;
    let promote = MemberChange::Promote(learner);
    let refused = cluster.node(first).change_members(promote.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "etcdserver: can only promote a learner member which is in sync with leader");
    cluster.run(learner).await.unwrap();
    cluster.agree_on(50).await;
    assert!(cluster.node(learner).status().is_learner);

    // Through the learner: it takes the change to the leader.
    eventually("caught up", || cluster.node(first).progress(learner).filter(|progress| progress.matched > 50)).await;
    cluster.node(learner).change_members(promote.clone()).await.unwrap();
    eventually("a vote", || (!cluster.node(learner).status().is_learner).then_some(())).await;
    let refused = cluster.node(first).change_members(promote).await.unwrap_err();
    assert_eq!(refused.to_string(), "etcdserver: can only promote a learner member");

    cluster.node(learner).change_members(MemberChange::Remove(first)).await.unwrap();
    eventually("the other leads", || (cluster.node(learner).status().leadership.leader == Some(learner)).then_some(()))
        .await;
    cluster.node(learner).propose(Bytes::from_static(b"alone")).await.unwrap();
    let unknown = cluster.node(learner).change_members(MemberChange::Remove(first)).await.unwrap_err();
    assert_eq!(unknown.to_string(), "etcdserver: member not found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_with_a_restored_state_and_hands_it_to_whoever_joins() {
    let restored = |members: &[MemberRaft]| {
        let applied = LogPosition { term: 0, index: 1 };
        let configuration = Some((applied, initial_configuration(members)));
        Recorder::holding(State { applied, configuration, requests: vec![Bytes::from_static(b"restored")] })
    };
    let mut cluster = Cluster::start_from(3, restored).await;
    let leader = cluster.leader().await;
    cluster.node(leader).propose(Bytes::from_static(b"new")).await.unwrap();
    cluster.agree_on(2).await;

    let joiner = add(&mut cluster, true).await;
    cluster.run(joiner).await.unwrap();
    cluster.agree_on(2).await;
    assert_eq!(cluster.recorder(joiner).requests()[0], "restored", "no log has it: it came with the state");
    for id in cluster.ids() {
        cluster.crash(id).await;
        cluster.run(id).await.unwrap();
    }
    cluster.leader().await;
    cluster.agree_on(2).await;
}

//! Three members: what a client of one of them sees when the others are gone.

use std::time::{Duration, Instant};

use goulette_etcd::EtcdError as E;
use goulette_proto::etcd::etcdserverpb as pb;
use tonic::Request;

use super::member::{Member, Plan, get, is_refused, put};

const FLAGS: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_every_answer_comes_in_time() {
    let plan = Plan::new(3, &FLAGS);
    let mut members = plan.start_all().await;
    members[0].put("a", b"v").await.unwrap();
    let last = members.remove(0);
    assert_eq!(last.get("a").await.unwrap().kvs.len(), 1);
    for member in members {
        member.server.stop().await;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = last.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        if status.leader == 0 {
            assert_eq!(status.errors, [E::NoLeader.to_string()]);
            break;
        }
        assert!(Instant::now() < deadline, "it still believes in a leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What this member knows, it tells.
    let local = pb::RangeRequest { serializable: true, ..get("a") };
    assert_eq!(last.kv().range(local).await.unwrap().into_inner().kvs.len(), 1);
    let mut impatient = Request::new(put("a", b"w"));
    impatient.metadata_mut().insert("hasleader", "true".parse().unwrap());
    is_refused(last.kv().put(impatient).await, E::NoLeader);

    // The request timeout: five seconds and two election timeouts.
    let asked = Instant::now();
    let (read, written) = tokio::join!(last.get("a"), last.put("a", b"w"));
    let waited = asked.elapsed();
    for status in [read.unwrap_err(), written.unwrap_err()] {
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
        assert!(status.message().starts_with("etcdserver: request timed out"), "{status}");
    }
    assert!(waited < Duration::from_secs(8), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_hands_its_leadership_over() {
    let plan = Plan::new(3, &[]);
    let mut members = plan.start_all().await;
    let status = members[0].maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
    let mut leader = None;
    for (place, member) in members.iter().enumerate() {
        let own = member.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        if own.header.unwrap().member_id == status.leader {
            leader = Some(place);
        }
    }
    let leader = members.remove(leader.unwrap());
    leader.server.stop().await;
    // Nobody has to wait for an election timeout (a second) first.
    let asked = Instant::now();
    members[0].put("a", b"v").await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_agree_over_encrypted_connections() {
    let plan = Plan::new(3, &["--peer-auto-tls", FLAGS[0], FLAGS[1]]);
    let members = plan.start_all().await;
    for (place, member) in members.iter().enumerate() {
        member.put(&format!("k{place}"), b"v").await.unwrap();
    }
    assert_eq!(members[0].get("k2").await.unwrap().kvs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_cluster_takes_no_part_in_this_one() {
    // A cluster of one whose folder comes to stand where the third member's was.
    let (other, stranger) = Member::alone(&[]).await;
    stranger.put("a", b"of another cluster").await.unwrap();
    stranger.server.stop().await;
    let plan = Plan::new(3, &FLAGS);
    let mut members = plan.start_all().await;
    let revision = members[0].put("a", b"v").await.unwrap();
    members.remove(2).server.stop().await;
    std::fs::rename(plan.data_dir(2), plan.path().join("away")).unwrap();
    std::fs::rename(other.data_dir(0), plan.data_dir(2)).unwrap();

    let third = plan.start(2).await.unwrap();
    // As with etcd, what the folder says counts, and not the flags. The members of this cluster do not listen to it: they
    // agree without it, and it learns nothing from them.
    for round in 1..20 {
        assert_eq!(members[0].put("a", b"v").await.unwrap(), revision + round);
    }
    let local = pb::RangeRequest { serializable: true, ..get("a") };
    let known = third.kv().range(local).await.unwrap().into_inner();
    let own = members[0].get("a").await.unwrap();
    assert_ne!(known.header.unwrap().cluster_id, own.header.unwrap().cluster_id);
    assert_eq!(known.kvs[0].value, "of another cluster");
}

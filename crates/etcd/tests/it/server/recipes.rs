//! Locks and elections by the server's own services.

use std::time::Duration;

use goulette_proto::etcd::{
    etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, lease_client::LeaseClient},
    v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest, election_client::ElectionClient},
    v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
};
use tokio::time::timeout;

use super::member::Member;

/// Long enough for anything that happens here at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to see that nothing happens.
const MOMENT: Duration = Duration::from_millis(200);

async fn grant(member: &Member, id: i64) {
    LeaseClient::new(member.channel.clone()).lease_grant(LeaseGrantRequest { id, ttl: 100 }).await.unwrap();
}

fn lock(lease: i64) -> LockRequest {
    LockRequest { name: "l".into(), lease }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_one_callers_at_a_time_and_goes_to_who_waits() {
    let (_plan, member) = Member::alone(&[]).await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    let mut client = LockClient::new(member.channel.clone());
    let held = client.lock(lock(1)).await.unwrap().into_inner();
    assert_eq!(held.key, "l/1");
    assert_eq!(client.lock(lock(1)).await.unwrap().into_inner().key, "l/1", "who holds it gets it again");
    let mut other = client.clone();
    let mut waiting = tokio::spawn(async move { other.lock(lock(2)).await });
    assert!(timeout(MOMENT, &mut waiting).await.is_err(), "it is held");
    client.unlock(UnlockRequest { key: held.key }).await.unwrap();
    let next = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!(next.key, "l/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_waiting_leaves_no_place_behind() {
    let (_plan, member) = Member::alone(&[]).await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    grant(&member, 3).await;
    let mut client = LockClient::new(member.channel.clone());
    let held = client.lock(lock(1)).await.unwrap().into_inner();
    // The deadline ends the call, and with it the place.
    assert!(timeout(MOMENT, client.lock(lock(2))).await.is_err());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !member.get("l/2").await.unwrap().kvs.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "its key is still there");
    }
    client.unlock(UnlockRequest { key: held.key }).await.unwrap();
    timeout(PATIENCE, client.lock(lock(3))).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_gives_its_lock_away() {
    let (_plan, member) = Member::alone(&[]).await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    let mut client = LockClient::new(member.channel.clone());
    client.lock(lock(1)).await.unwrap();
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.lock(lock(2)).await });
    let revoke = LeaseRevokeRequest { id: 1 };
    LeaseClient::new(member.channel.clone()).lease_revoke(revoke).await.unwrap();
    timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    let own = client.lock(LockRequest { name: "o".into(), lease: 0 }).await.unwrap().into_inner();
    assert!(own.key.len() > "o/".len(), "who brings no lease is given one");
    let refused = client.lock(lock(9)).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: requested lease not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_has_one_leader_and_observers_see_each() {
    let (_plan, member) = Member::alone(&[]).await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    let mut client = ElectionClient::new(member.channel.clone());
    let ask = || LeaderRequest { name: "e".into() };
    assert_eq!(client.leader(ask()).await.unwrap_err().message(), "election: no leader");
    let campaign = |lease, value: &'static str| CampaignRequest { name: "e".into(), lease, value: value.into() };
    let mut observed = client.observe(ask()).await.unwrap().into_inner();
    let first = client.campaign(campaign(1, "one")).await.unwrap().into_inner().leader.unwrap();
    let mut other = client.clone();
    let mut waiting = tokio::spawn(async move { other.campaign(campaign(2, "two")).await });
    assert!(timeout(MOMENT, &mut waiting).await.is_err(), "another one leads");
    let proclaim = |leader, value: &'static str| ProclaimRequest { leader, value: value.into() };
    client.proclaim(proclaim(Some(first.clone()), "one more")).await.unwrap();
    assert_eq!(client.leader(ask()).await.unwrap().into_inner().kv.unwrap().value, "one more");
    client.resign(ResignRequest { leader: Some(first.clone()) }).await.unwrap();
    timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    let late = client.proclaim(proclaim(Some(first), "late")).await.unwrap_err();
    assert_eq!(late.message(), "election: not leader");
    let nobody = client.resign(ResignRequest { leader: None }).await.unwrap_err();
    assert_eq!(nobody.message(), "\"leader\" field must be provided");
    let mut values = Vec::new();
    while values.last().is_none_or(|last| last != "two") {
        let told = timeout(PATIENCE, observed.message()).await.unwrap().unwrap().unwrap();
        values.push(told.kv.unwrap().value);
    }
    assert!(["one", "one more", "two"].iter().filter(|&value| values.iter().any(|told| told == value)).count() >= 2);
}

//! What must be refused, with the codes and texts by which clients tell refusals apart, or at least without harm.

use goulette_etcd::EtcdError as E;
use goulette_proto::etcd::{
    authpb::Permission,
    etcdserverpb::{
        self as pb, auth_client::AuthClient, cluster_client::ClusterClient, lease_client::LeaseClient,
        request_op::Request as Op,
    },
};
use tonic::{Code, Request, metadata::AsciiMetadataValue};

use super::member::{Member, get, is_refused, put};

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values() {
    let (_plan, member) = Member::alone(&[]).await;
    let mut kv = member.kv();
    for revision in 2..6 {
        assert_eq!(member.put("a", b"v").await.unwrap(), revision);
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();

    is_refused(kv.put(put("", b"v")).await, E::EmptyKey);
    is_refused(kv.put(pb::PutRequest { ignore_value: true, ..put("a", b"v") }).await, E::ValueProvided);
    is_refused(kv.put(pb::PutRequest { ignore_lease: true, lease: 7, ..put("a", b"v") }).await, E::LeaseProvided);
    is_refused(kv.put(pb::PutRequest { ignore_value: true, ..put("none", b"") }).await, E::KeyNotFound);
    is_refused(kv.put(pb::PutRequest { ignore_lease: true, ..put("none", b"") }).await, E::KeyNotFound);
    is_refused(kv.put(pb::PutRequest { lease: 7, ..put("a", b"v") }).await, E::LeaseNotFound);
    is_refused(kv.delete_range(pb::DeleteRangeRequest::default()).await, E::EmptyKey);
    is_refused(kv.range(get("")).await, E::EmptyKey);
    is_refused(kv.range(pb::RangeRequest { revision: 99, ..get("a") }).await, E::FutureRev);
    is_refused(kv.range(pb::RangeRequest { revision: 3, ..get("a") }).await, E::Compacted);
    is_refused(kv.range(pb::RangeRequest { sort_order: 9, ..get("a") }).await, E::InvalidSortOption);
    is_refused(kv.range(pb::RangeRequest { sort_target: 9, ..get("a") }).await, E::InvalidSortOption);
    is_refused(kv.compact(pb::CompactionRequest { revision: 99, physical: false }).await, E::FutureRev);
    is_refused(kv.compact(pb::CompactionRequest { revision: 2, physical: false }).await, E::Compacted);

    let mut old = Request::new(get("a"));
    old.metadata_mut().insert("client-api-version", AsciiMetadataValue::try_from(&b"\xff"[..]).unwrap());
    is_refused(kv.range(old).await, E::InvalidClientApiVersion);

    // A range that ends before it begins holds nothing, and that is no error.
    let backwards = pb::RangeRequest { range_end: "A".into(), ..get("a") };
    assert_eq!(kv.range(backwards).await.unwrap().into_inner().count, 0);
    let backwards = pb::DeleteRangeRequest { key: "b".into(), range_end: "a".into(), prev_kv: true };
    assert_eq!(kv.delete_range(backwards).await.unwrap().into_inner().deleted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions() {
    let (_plan, member) = Member::alone(&["--max-txn-ops=8"]).await;
    let mut kv = member.kv();
    let puts = |count: usize| (0..count).map(|n| op(Op::RequestPut(put(&format!("k{n}"), b"v")))).collect::<Vec<_>>();
    let txn = |success| pb::TxnRequest { success, ..pb::TxnRequest::default() };

    kv.txn(txn(puts(8))).await.unwrap();
    is_refused(kv.txn(txn(puts(9))).await, E::TooManyOps);
    is_refused(kv.txn(txn([puts(1), puts(1)].concat())).await, E::DuplicateKey);
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    is_refused(kv.txn(txn([puts(1), vec![op(Op::RequestDeleteRange(delete))]].concat())).await, E::DuplicateKey);
    is_refused(kv.txn(txn(vec![op(Op::RequestTxn(txn(puts(8))))])).await, E::TooManyOps);
    is_refused(kv.txn(txn(vec![pb::RequestOp { request: None }])).await, E::KeyNotFound);
    is_refused(kv.txn(txn(vec![op(Op::RequestRange(get("")))])).await, E::EmptyKey);
    let compare = vec![pb::Compare::default()];
    is_refused(kv.txn(pb::TxnRequest { compare, ..pb::TxnRequest::default() }).await, E::EmptyKey);
    let later = pb::RangeRequest { revision: 99, ..get("k0") };
    is_refused(kv.txn(txn([puts(1), vec![op(Op::RequestRange(later))]].concat())).await, E::FutureRev);
    assert_eq!(member.get("k0").await.unwrap().header.unwrap().revision, 2, "nothing of a refused one is done");

    for depth in [8, 40, 60, 500] {
        is_refused(kv.txn(nested(depth, txn(puts(1)))).await, E::TooManyOps);
    }
    member.put("alive", b"").await.unwrap();
}

/// A transaction `depth` levels around another.
fn nested(depth: usize, within: pb::TxnRequest) -> pb::TxnRequest {
    (0..depth).fold(within, |within, _| pb::TxnRequest {
        success: vec![op(Op::RequestTxn(within))],
        ..pb::TxnRequest::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_nest_deep() {
    let (_plan, member) = Member::alone(&[]).await;
    let mut kv = member.kv();
    let one_put = |value: &[u8]| pb::TxnRequest {
        success: vec![op(Op::RequestPut(put("deep", value)))],
        ..pb::TxnRequest::default()
    };
    // Each level is an operation; etcd takes 128 of them.
    for depth in [48, 49, 50, 127] {
        let value = depth.to_string();
        kv.txn(nested(depth, one_put(value.as_bytes()))).await.unwrap();
        assert_eq!(member.get("deep").await.unwrap().kvs[0].value, value);
    }
    for depth in [128, 129, 500, 1000] {
        is_refused(kv.txn(nested(depth, one_put(b"never"))).await, E::TooManyOps);
    }
    assert_eq!(member.get("deep").await.unwrap().kvs[0].version, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large() {
    let (_plan, member) = Member::alone(&[]).await;
    is_refused(member.put("a", &vec![0; 1600 << 10]).await, E::RequestTooLarge);
    let refused = member.put("a", &vec![0; 3 << 20]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().starts_with("grpc: received message larger than max"), "{refused}");
    member.put("a", &vec![0; 1500 << 10]).await.unwrap();
    assert_eq!(member.get("a").await.unwrap().kvs[0].value.len(), 1500 << 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_members_and_maintenance() {
    let (_plan, member) = Member::alone(&[]).await;
    let mut leases = LeaseClient::new(member.channel.clone());
    let grant = |id, ttl| pb::LeaseGrantRequest { id, ttl };
    leases.lease_grant(grant(7, 100)).await.unwrap();
    is_refused(leases.lease_grant(grant(7, 100)).await, E::LeaseExist);
    is_refused(leases.lease_grant(grant(8, 9_000_000_001)).await, E::LeaseTtlTooLarge);
    is_refused(leases.lease_revoke(pb::LeaseRevokeRequest { id: 8 }).await, E::LeaseNotFound);
    let gone = leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 8, keys: true }).await.unwrap();
    assert_eq!(gone.into_inner().ttl, -1);
    let renewal = tokio_stream::once(pb::LeaseKeepAliveRequest { id: 8 });
    let mut answers = leases.lease_keep_alive(renewal).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 0);

    let mut members = ClusterClient::new(member.channel.clone());
    let bad_url = vec!["ftp://h:1".to_owned()];
    let add = |peer_ur_ls, is_learner| pb::MemberAddRequest { peer_ur_ls, is_learner };
    is_refused(members.member_add(add(bad_url, false)).await, E::MemberBadUrls);
    is_refused(members.member_add(add(Vec::new(), false)).await, E::MemberBadUrls);
    is_refused(members.member_remove(pb::MemberRemoveRequest { id: 9 }).await, E::MemberNotFound);
    is_refused(members.member_promote(pb::MemberPromoteRequest { id: 9 }).await, E::MemberNotFound);
    let update = pb::MemberUpdateRequest { id: 9, peer_ur_ls: vec!["http://h:1".to_owned()] };
    is_refused(members.member_update(update).await, E::MemberNotFound);
    let list = members.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    let own = &list.members[0];
    is_refused(members.member_promote(pb::MemberPromoteRequest { id: own.id }).await, E::MemberNotLearner);
    is_refused(members.member_add(add(own.peer_ur_ls.clone(), false)).await, E::PeerUrlExist);
    members.member_add(add(vec!["http://127.0.0.1:1".to_owned()], true)).await.unwrap();
    is_refused(members.member_add(add(vec!["http://127.0.0.1:2".to_owned()], true)).await, E::TooManyLearners);
    let list = members.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    let learner = list.members.iter().find(|member| member.is_learner).unwrap().id;
    is_refused(members.member_promote(pb::MemberPromoteRequest { id: learner }).await, E::LearnerNotReady);

    let mut maintenance = member.maintenance();
    is_refused(maintenance.move_leader(pb::MoveLeaderRequest { target_id: 9 }).await, E::BadLeaderTransferee);
    is_refused(maintenance.hash_kv(pb::HashKvRequest { revision: 99 }).await, E::FutureRev);
    let downgrade = |version: &str| pb::DowngradeRequest { action: 0, version: version.to_owned() };
    is_refused(maintenance.downgrade(downgrade("x")).await, E::WrongDowngradeVersionFormat);
    is_refused(maintenance.downgrade(downgrade("3.2.0")).await, E::InvalidDowngradeTargetVersion);
    maintenance.downgrade(downgrade("3.5.0")).await.unwrap();
    let enable = |action| pb::DowngradeRequest { action, version: "3.5.0".to_owned() };
    maintenance.downgrade(enable(1)).await.unwrap();
    is_refused(maintenance.downgrade(enable(1)).await, E::DowngradeInProcess);
    maintenance.downgrade(enable(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles() {
    let (_plan, member) = Member::alone(&["--bcrypt-cost=4"]).await;
    let mut auth = AuthClient::new(member.channel.clone());
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.to_owned(),
        password: "p".to_owned(),
        ..pb::AuthUserAddRequest::default()
    };
    let login =
        |name: &str, password: &str| pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
    let role = |name: &str| pb::AuthRoleAddRequest { name: name.to_owned() };
    is_refused(auth.authenticate(login("root", "p")).await, E::AuthNotEnabled);
    is_refused(auth.auth_enable(pb::AuthEnableRequest {}).await, E::RootUserNotExist);
    auth.user_add(user("root")).await.unwrap();
    is_refused(auth.auth_enable(pb::AuthEnableRequest {}).await, E::RootRoleNotExist);
    is_refused(auth.user_add(user("root")).await, E::UserAlreadyExist);
    is_refused(auth.user_add(user("")).await, E::UserEmpty);
    is_refused(auth.role_add(role("")).await, E::RoleEmpty);
    auth.role_add(role("reader")).await.unwrap();
    is_refused(auth.role_add(role("reader")).await, E::RoleAlreadyExist);
    is_refused(auth.user_grant_role(grant("root", "none")).await, E::RoleNotFound);
    is_refused(auth.user_grant_role(grant("none", "reader")).await, E::UserNotFound);
    let revoke = pb::AuthUserRevokeRoleRequest { name: "root".to_owned(), role: "reader".to_owned() };
    is_refused(auth.user_revoke_role(revoke).await, E::RoleNotGranted);
    let nothing = pb::AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: None };
    is_refused(auth.role_grant_permission(nothing).await, E::PermissionNotGiven);
    let perm = Permission { perm_type: 0, key: "b".into(), range_end: "a".into() };
    let backwards = pb::AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: Some(perm) };
    is_refused(auth.role_grant_permission(backwards).await, E::InvalidAuthMgmt);
    let never = pb::AuthRoleRevokePermissionRequest {
        role: "reader".to_owned(),
        key: "a".into(),
        ..pb::AuthRoleRevokePermissionRequest::default()
    };
    is_refused(auth.role_revoke_permission(never).await, E::PermissionNotGranted);
    auth.user_grant_role(grant("root", "root")).await.unwrap();
    auth.user_add(user("ann")).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();

    is_refused(member.get("a").await, E::UserEmpty);
    is_refused(auth.authenticate(login("ann", "wrong")).await, E::AuthFailed);
    is_refused(auth.authenticate(login("nobody", "p")).await, E::AuthFailed);
    let token = auth.authenticate(login("ann", "p")).await.unwrap().into_inner().token;
    let with = |token: &str, message| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("token", token.parse().unwrap());
        request
    };
    is_refused(member.kv().range(with(&token, get("a"))).await, E::PermissionDenied);
    is_refused(member.kv().range(with("made.up", get("a"))).await, E::InvalidAuthToken);
    let delete = pb::AuthUserDeleteRequest { name: "root".to_owned() };
    let root = auth.authenticate(login("root", "p")).await.unwrap().into_inner().token;
    let mut delete = Request::new(delete);
    delete.metadata_mut().insert("token", root.parse().unwrap());
    is_refused(auth.user_delete(delete).await, E::InvalidAuthMgmt);
}

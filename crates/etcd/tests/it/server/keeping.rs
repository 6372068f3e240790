//! What a member does to keep itself well: quota, compaction by itself, many streams; and folders that it must not take.

use std::time::Duration;

use goulette_env::Env;
use goulette_etcd::{EtcdError as E, server::restore};
use goulette_proto::etcd::etcdserverpb::{
    self as pb, alarm_request::AlarmAction, watch_client::WatchClient, watch_request::RequestUnion,
};
use redb::TableDefinition;
use tokio::time::{Instant, sleep};

use super::member::{Member, Plan, get, is_refused};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_takes_no_writes_until_there_is_room_again() {
    let (_plan, member) = Member::alone(&["--quota-backend-bytes=8000000"]).await;
    let value = vec![b'x'; 500 << 10];
    let mut written = 0;
    let refused = loop {
        match member.put(&format!("k{}", written % 4), &value).await {
            Ok(_) => written += 1,
            Err(refused) => break refused,
        }
        assert!(written < 100, "8 MB do not hold 50 MB");
    };
    is_refused::<()>(Err(refused), E::NoSpace);
    is_refused(member.put("small", b"").await, E::NoSpace);
    let alarm = |action: AlarmAction| pb::AlarmRequest {
        action: action.into(),
        alarm: pb::AlarmType::Nospace.into(),
        ..pb::AlarmRequest::default()
    };
    let mut maintenance = member.maintenance();
    let raised = maintenance.alarm(alarm(AlarmAction::Get)).await.unwrap().into_inner().alarms;
    assert_eq!(raised.len(), 1);

    let revision = member.get("k0").await.unwrap().header.unwrap().revision;
    let all = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    member.kv().delete_range(all).await.unwrap();
    member.kv().compact(pb::CompactionRequest { revision: revision + 1, physical: true }).await.unwrap();
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    is_refused(member.put("small", b"").await, E::NoSpace);
    let off = pb::AlarmRequest { member_id: raised[0].member_id, ..alarm(AlarmAction::Deactivate) };
    maintenance.alarm(off).await.unwrap();
    member.put("small", b"").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_history_goes_by_itself() {
    let (_plan, member) = Member::alone(&["--auto-compaction-mode=periodic", "--auto-compaction-retention=1s"]).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        member.put("a", b"v").await.unwrap();
        match member.kv().range(pb::RangeRequest { revision: 2, ..get("a") }).await {
            Ok(_) => assert!(Instant::now() < deadline, "nothing was compacted"),
            Err(refused) => return is_refused::<()>(Err(refused), E::Compacted),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_drops_a_thousand_watches_is_no_attack() {
    let (_plan, member) = Member::alone(&[]).await;
    // One connection for all of them: the same channel.
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let create = pb::WatchCreateRequest { key: "a".into(), ..pb::WatchCreateRequest::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(request).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = WatchClient::new(member.channel.clone()).watch(stream).await.unwrap().into_inner();
        streams.push((sender, answers));
    }
    for (_, answers) in &mut streams {
        assert!(answers.message().await.unwrap().unwrap().created);
    }
    let (_kept, mut kept) = streams.pop().unwrap();
    drop(streams);
    for _ in 0..50 {
        member.put("a", b"v").await.unwrap();
    }
    // The connection is the one from before: the watch on it goes on.
    let mut seen = 0;
    while seen < 50 {
        seen += kept.message().await.unwrap().unwrap().events.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_later_version_is_refused_and_left_alone() {
    let (plan, member) = Member::alone(&[]).await;
    member.put("a", b"v").await.unwrap();
    member.server.stop().await;
    let path = plan.data_dir(0).join("member/store/etcd.redb");
    let set = |version: u64| {
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("goulette");
        write.open_table(table).unwrap().insert(&b"format"[..], &version.to_be_bytes()[..]).unwrap();
        write.commit().unwrap();
    };
    set(2);
    let refused = plan.start(0).await.err().unwrap().to_string();
    assert!(refused.contains("etcd.redb") && refused.contains('2'), "{refused}");
    set(1);
    let member = plan.start_all().await.remove(0);
    assert_eq!(member.get("a").await.unwrap().kvs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_etcd_is_refused_and_left_alone() {
    let plan = Plan::new(1, &[]);
    std::fs::create_dir_all(plan.data_dir(0).join("member/snap")).unwrap();
    std::fs::write(plan.data_dir(0).join("member/snap/db"), b"bbolt").unwrap();
    let refused = plan.start(0).await.err().unwrap();
    assert!(refused.to_string().contains("goulette etcd restore"), "{refused}");
    assert!(!plan.data_dir(0).join("member/store").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused() {
    let (plan, _member) = Member::alone(&[]).await;
    let refused = plan.start(0).await.err().unwrap();
    assert!(refused.to_string().contains("in use"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_begins_a_cluster_of_three() {
    let (plan, member) = Member::alone(&[]).await;
    for n in 0..20 {
        member.put(&format!("k{n}"), b"v").await.unwrap();
    }
    let mut blobs = member.maintenance().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut snapshot = Vec::new();
    while let Some(part) = blobs.message().await.unwrap() {
        snapshot.extend_from_slice(&part.blob);
    }
    let path = plan.path().join("snapshot.db");
    std::fs::write(&path, &snapshot).unwrap();
    let before = member.get("k7").await.unwrap();

    let three = Plan::new(3, &[]);
    let disk = Env::real().disk;
    for each in 0..3 {
        let file = disk.open(&path, goulette_env::OpenMode::Read).unwrap();
        restore(&*disk, &*file, &three.config(each), false, None).unwrap();
    }
    let again =
        restore(&*disk, &*disk.open(&path, goulette_env::OpenMode::Read).unwrap(), &three.config(0), false, None);
    assert!(again.is_err(), "the folder is somebody's now");
    let members = three.start_all().await;
    for member in &members {
        assert_eq!(member.get("k7").await.unwrap().kvs, before.kvs);
    }
    let revision = members[1].put("new", b"v").await.unwrap();
    assert_eq!(revision, before.header.unwrap().revision + 1);
    assert_eq!(members[2].get("new").await.unwrap().kvs.len(), 1);
}

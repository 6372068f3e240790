//! What a member does of itself: it tells its name, and, while it leads, ends leases and drops old history.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use goulette_logging::{info, warn};
use goulette_proto::etcd::{
    etcdserverpb::{CompactionRequest, InternalRaftRequest, LeaseCheckpointRequest, LeaseRevokeRequest},
    membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest},
};
use tokio::{sync::watch, task::JoinSet};

use super::stopped;
use crate::{
    EtcdError,
    auth::Caller,
    config::{AutoCompaction, CLUSTER_VERSION},
    node::Node,
};

/// Between two looks at leases, as in etcd.
const LEASE_TICK: Duration = Duration::from_millis(500);
/// Leases revoked or recorded in one look: 1,000 a second, as in etcd.
const LEASES_PER_TICK: usize = 500;
/// Revocations under way at a time, as in etcd.
const REVOCATIONS_MAX: usize = 16;
/// Between two looks at the revision in revision mode, as in etcd.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Samples of the revision in one period, as in etcd; a period above an hour is sampled as an hour is.
const SAMPLES: u32 = 10;
const HOUR: Duration = Duration::from_secs(3600);
/// Between two attempts of a new leader to know that it leads.
const BARRIER_RETRY: Duration = Duration::from_millis(20);
/// Between two attempts to tell the name.
const PUBLISH_RETRY: Duration = Duration::from_millis(500);

/// Lets leases end while this member leads, and only then; sets the cluster's version as a new cluster's first leader.
pub(super) async fn lead(node: Arc<Node>, stopping: watch::Receiver<bool>) {
    let mut leadership = node.consensus.leadership();
    let (mut term_led, mut leader_seen) = (None, None);
    let follow = async {
        loop {
            let now = *leadership.borrow_and_update();
            if now.leader.is_some() && leader_seen != Some(now) {
                leader_seen = Some(now);
                node.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            let leads = now.leader == Some(node.member_id);
            if leads && term_led != Some(now.term) {
                // Everything that was granted before must be known before clocks start.
                if node.read_barrier().await.is_err() {
                    tokio::time::sleep(BARRIER_RETRY).await;
                    continue;
                }
                info!("member {:x} leads in term {}", node.member_id, now.term);
                node.state.lessor.promote(node.now(), node.config.election_timeout);
                term_led = Some(now.term);
                set_version(&node).await;
            } else if !leads && term_led.take().is_some() {
                node.state.lessor.demote();
            }
            if leadership.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = stopped(stopping) => {}
    }
    node.state.lessor.demote();
}

async fn set_version(node: &Node) {
    if node.state.members.version().is_some() {
        return;
    }
    let cluster_version_set = Some(ClusterVersionSetRequest { ver: CLUSTER_VERSION.to_owned() });
    let request = InternalRaftRequest { cluster_version_set, ..InternalRaftRequest::default() };
    if let Err(error) = node.request(&Caller::default(), request).await {
        warn!("the cluster's version is not set: {error}");
    }
}

/// Revokes leases whose time is over, and records how much time long ones have left.
pub(super) async fn end_leases(node: Arc<Node>, stopping: watch::Receiver<bool>) {
    let mut revocations = JoinSet::new();
    let work = async {
        loop {
            tokio::time::sleep(LEASE_TICK).await;
            for id in node.state.lessor.expired(node.now(), LEASES_PER_TICK) {
                if revocations.len() >= REVOCATIONS_MAX {
                    revocations.join_next().await;
                }
                revocations.spawn(revoke(Arc::clone(&node), id));
            }
            while revocations.try_join_next().is_some() {}
            let checkpoints = node.state.lessor.due_checkpoints(node.now(), LEASES_PER_TICK);
            if !checkpoints.is_empty() {
                let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
                let request = InternalRaftRequest { lease_checkpoint, ..InternalRaftRequest::default() };
                if let Err(error) = node.request(&Caller::default(), request).await {
                    warn!("the remaining time of leases is not recorded: {error}");
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stopped(stopping) => {}
    }
}

async fn revoke(node: Arc<Node>, id: i64) {
    // The server itself may revoke, whoever else may.
    let root = node.state.auth.root_caller();
    let lease_revoke = Some(LeaseRevokeRequest { id });
    let request = InternalRaftRequest { lease_revoke, ..InternalRaftRequest::default() };
    match node.request(&root, request).await {
        Ok(_) | Err(EtcdError::LeaseNotFound) => {}
        // It is told again after a while.
        Err(error) => warn!("lease {id:x} is over and not revoked yet: {error}"),
    }
}

/// Drops old history by itself, as its flags say.
pub(super) async fn compact(node: Arc<Node>, stopping: watch::Receiver<bool>) {
    let work = async {
        match node.config.auto_compaction {
            AutoCompaction::Off => std::future::pending().await,
            AutoCompaction::Periodic(period) => compact_periodically(&node, period).await,
            AutoCompaction::Revision(kept) => compact_by_revision(&node, kept).await,
        }
    };
    tokio::select! {
        () = work => {}
        () = stopped(stopping) => {}
    }
}

/// Every period (at most an hour), compacts at the revision that was current a period ago.
async fn compact_periodically(node: &Node, period: Duration) {
    let interval = period.min(HOUR) / SAMPLES;
    let samples = (period.as_secs_f64() / interval.as_secs_f64()).ceil() as usize;
    let mut revisions = VecDeque::new();
    let mut since_compaction = 0;
    loop {
        revisions.push_back(node.state.store.revision());
        if revisions.len() > samples {
            revisions.pop_front();
        }
        tokio::time::sleep(interval).await;
        since_compaction += 1;
        let is_due = revisions.len() >= samples && since_compaction >= SAMPLES;
        if is_due && let Some(&revision) = revisions.front() {
            compact_at(node, revision).await;
            since_compaction = 0;
        }
    }
}

async fn compact_by_revision(node: &Node, kept: i64) {
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        compact_at(node, node.state.store.revision() - kept).await;
    }
}

async fn compact_at(node: &Node, revision: i64) {
    if !node.leads() || revision <= 0 || revision <= node.state.store.compacted() {
        return;
    }
    let compaction = Some(CompactionRequest { revision, physical: false });
    let request = InternalRaftRequest { compaction, ..InternalRaftRequest::default() };
    match node.request(&Caller::default(), request).await {
        Ok(_) => info!("compacted at revision {revision}"),
        Err(EtcdError::Compacted) => {}
        Err(error) => warn!("not compacted at revision {revision}: {error}"),
    }
}

/// Tells the cluster this member's name and client URLs; then it is ready.
pub(super) async fn publish(node: Arc<Node>, ready: watch::Sender<bool>, stopping: watch::Receiver<bool>) {
    let client_urls: Vec<String> = node.config.advertise_client_urls.iter().map(|url| url.text.clone()).collect();
    let tell = async {
        loop {
            let attributes = Attributes { name: node.config.name.clone(), client_urls: client_urls.clone() };
            let cluster_member_attr_set =
                Some(ClusterMemberAttrSetRequest { member_id: node.member_id, member_attributes: Some(attributes) });
            let request = InternalRaftRequest { cluster_member_attr_set, ..InternalRaftRequest::default() };
            match node.request(&Caller::default(), request).await {
                Ok(_) => return,
                Err(EtcdError::Stopped) => std::future::pending().await,
                Err(error) => {
                    warn!("member {:x} is not published yet: {error}", node.member_id);
                    tokio::time::sleep(PUBLISH_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = tell => ready.send_replace(true),
        () = stopped(stopping.clone()) => return,
    };
    // The receiver learns of the end by our leaving.
    stopped(stopping).await;
}

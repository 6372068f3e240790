//! The streams between brokers, and what the partitions' shells ask of them.
//!
//! [`Hub`] is the place where a partition's orders become messages: `pull` holds a follower's two streams to each leader,
//! `push` the leader's ends of them, `propose` takes changes of in-sync replicas to the sentinels, `hand_over` gives
//! leaderships away before a planned stop, `repair` fetches what the disk has damaged. Nothing here decides anything about a partition.

mod feed;
mod hand_over;
mod hub;
mod outbox;
mod propose;
mod pull;
mod push;
mod repair;
mod wire;

pub(crate) use feed::Feed;
pub(crate) use hand_over::hand_over;
pub(crate) use hub::{Hub, PeerAddress};
pub(crate) use propose::propose;
pub(crate) use push::push;
pub(crate) use repair::repair;

use std::{sync::Arc, time::Duration};

use goulette_proto::pb;

use crate::node::Node;

/// How often followers repeat their ends, and leaders look who lags.
const TICK: Duration = Duration::from_millis(500);

/// The two streams of a pair of brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StreamKind {
    /// Served from memory alone.
    InSync,
    /// Served from fragments, at a bounded rate.
    CatchUp,
}

impl From<StreamKind> for pb::ReplicationStream {
    fn from(kind: StreamKind) -> Self {
        match kind {
            StreamKind::InSync => pb::ReplicationStream::InSync,
            StreamKind::CatchUp => pb::ReplicationStream::CatchUp,
        }
    }
}

impl From<pb::ReplicationStream> for StreamKind {
    fn from(kind: pb::ReplicationStream) -> Self {
        match kind {
            pb::ReplicationStream::InSync => StreamKind::InSync,
            pb::ReplicationStream::CatchUp => StreamKind::CatchUp,
        }
    }
}

/// Tells all partitions that time passes, until the broker stops.
pub(crate) async fn tick(node: Arc<Node>) {
    let mut stop = node.lifecycle.signal();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.stopping() => return,
            _ = ticks.tick() => node.registry.all().iter().for_each(|partition| partition.tick()),
        }
    }
}

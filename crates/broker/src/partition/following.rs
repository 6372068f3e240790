//! What a partition does that follows a leader: it takes the leader's batches, on one of two streams.

use std::sync::Arc;

use goulette_log::AppendError;
use goulette_records::Batch;
use goulette_replication::{BatchFacts, Effect, FollowError, Stream, ToFollower};
use goulette_types::{BrokerId, LeaderEpoch, Offset};

use super::Partition;
use crate::{replication::StreamKind, sync::lock};

/// Why a leader's batch is not taken.
#[derive(Debug)]
pub(crate) enum Untaken {
    /// By the partition's place in the protocol.
    Follow(FollowError),
    /// By the log.
    Append(AppendError),
}

impl Partition {
    /// Whether it follows this broker.
    pub(crate) fn follows(&self, leader: &BrokerId) -> bool {
        lock(&self.core).replica.follows().is_some_and(|follows| follows.broker == *leader)
    }

    /// On which of the two streams it follows, or would.
    pub(crate) fn stream_kind(&self) -> StreamKind {
        lock(&self.core).kind
    }

    /// Follows on the other stream from now on, if it follows at all.
    pub(crate) fn change_stream(&self, leader: &BrokerId, closed: Stream, kind: StreamKind) {
        self.act(|core, _, effects| {
            core.replica.stream_closed(leader, closed);
            core.kind = kind;
            if let Some(leader) = core.replica.follows() {
                effects.push(Effect::Follow { leader: leader.broker.clone() });
            }
        });
    }

    pub(crate) fn stream_opened(&self, stream: Stream) {
        self.act(|core, _, effects| core.replica.stream_opened(stream, effects));
    }

    /// A stream broke, whoever followed on it.
    pub(crate) fn stream_closed(&self, peer: &BrokerId, stream: Stream) {
        self.act(|core, _, _| {
            core.replica.stream_closed(peer, stream);
            core.feeds.retain(|feed| feed.stream() != stream);
        });
    }

    /// The leader says something.
    pub(crate) fn hear_leader(&self, message: ToFollower) {
        self.act(|core, _, effects| core.replica.from_leader(message, effects));
    }

    /// Takes batches from the leader, one after the other; returns how many were taken, and why not the next one.
    pub(crate) fn follow(&self, stream: Stream, epoch: LeaderEpoch, batches: &[Batch]) -> (usize, Option<Untaken>) {
        let mut core = lock(&self.core);
        for (taken, batch) in batches.iter().enumerate() {
            let (base, end) = (batch.base_offset(), batch.next_offset());
            let facts = BatchFacts { base, end, epoch: batch.leader_epoch().unwrap_or_default() };
            if let Err(error) = core.replica.takes(stream, epoch, &facts) {
                return (taken, Some(Untaken::Follow(error)));
            }
            if let Err(error) = self.log.append_replica(batch.clone()) {
                return (taken, Some(Untaken::Append(error)));
            }
            if let Err(error) = core.replica.offer(stream, epoch, &facts) {
                unreachable!("asked under the same lock: {error}");
            }
        }
        (batches.len(), None)
    }

    /// The leader's log starts at `start`: so does this one, as far as whole fragments go.
    pub(crate) fn follow_start(self: &Arc<Self>, start: Offset) {
        if self.log.start() < start {
            let partition = Arc::clone(self);
            self.hub.run_blocking(move || {
                // Said again with the next frame.
                let _ = partition.log.advance_start(start);
            });
        }
    }
}

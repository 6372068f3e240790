//! What a partition does that is led here: it takes producers' batches and groups' positions, and knows what is fresh.

use std::{sync::Arc, time::Duration};

use goulette_log::Placed;
use goulette_records::Batch;
use goulette_replication::{ProduceRefusal, ToLeader};
use goulette_types::{Acks, BrokerId, GroupName, LeaderEpoch, Offset};
use tokio::{sync::oneshot, time::timeout};

use super::{Answer, Core, Partition, Snapshot, Waiting, positions};
use crate::{budget::Charge, error::RequestError, replication::Feed, sync::lock};

/// How long a request waits for a new leader to know what is committed, or to hear that it leads still.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

impl Partition {
    /// The epoch in which the partition is led here.
    ///
    /// # Errors
    /// Not led here, or deleted.
    pub(crate) fn led(&self) -> Result<LeaderEpoch, RequestError> {
        self.view.borrow().led(self)
    }

    /// As [`led`](Self::led), for a caller that believes in an epoch; 0 believes in any.
    ///
    /// # Errors
    /// As [`led`](Self::led); and when the epoch is another one, as the caller's route is old (or ours is).
    pub(crate) fn led_in(&self, believed: LeaderEpoch) -> Result<LeaderEpoch, RequestError> {
        let current = self.led()?;
        if believed != LeaderEpoch(0) && believed != current {
            return Err(RequestError::OtherEpoch { partition: self.to_string(), believed, current });
        }
        Ok(current)
    }

    /// Appends a producer's batch as the leader, and has `answer` told when `acks` is reached; at once, if nothing is to be
    /// reached. `charge` is held until the batch is durable here.
    ///
    /// # Errors
    /// Nothing was stored; the answer comes back untold.
    pub(crate) fn append(
        &self,
        believed: LeaderEpoch,
        acks: Acks,
        batch: Batch,
        charge: Arc<Charge>,
        answer: Answer,
    ) -> Result<(), (Answer, RequestError)> {
        let mut core = lock(&self.core);
        let epoch = match self.admit(&core, acks == Acks::All).and_then(|_| self.led_in(believed)) {
            Ok(epoch) => epoch,
            Err(refusal) => return Err((answer, refusal)),
        };
        // A batch that fails on its way has poisoned the engine, and that ends the leadership and all who wait.
        let placed = self.log.place(epoch, batch, Box::new(move |_| drop(charge)));
        let (end, waiting) = match placed {
            Ok(Placed::New(offsets)) => {
                let noted = core.replica.appended(offsets.start, offsets.end);
                assert!(noted, "the core knows of all that was appended");
                let waiting = Waiting { base_offset: Some(offsets.start), duplicate: false, answer };
                (offsets.end, waiting)
            }
            Ok(Placed::Duplicate { base_offset, durable_with }) => {
                (durable_with.plus(1), Waiting { base_offset, duplicate: true, answer })
            }
            Err(refusal) => return Err((answer, refusal.into())),
        };
        match core.waiters.wait(epoch, acks, end, waiting) {
            Ok(()) if core.replica.log().durable >= end => self.tell_reached(&mut core),
            Ok(()) => {}
            Err((outcome, waiting)) => waiting.tell(outcome, self),
        }
        Ok(())
    }

    fn admit(&self, core: &Core, all: bool) -> Result<LeaderEpoch, RequestError> {
        let epoch = core.replica.admit(all).map_err(|refusal| match refusal {
            ProduceRefusal::NotLeader => self.led().err().unwrap_or_else(|| self.not_leader()),
            ProduceRefusal::NotEnoughReplicas { in_sync, minimum } => {
                RequestError::NotEnoughReplicas { partition: self.to_string(), in_sync, minimum }
            }
        })?;
        let succeeded = core.replica.leader().is_some_and(|leader| leader.state().isr.len() > 1);
        if self.hub.hands_over() && succeeded {
            return Err(self.not_leader());
        }
        Ok(epoch)
    }

    fn not_leader(&self) -> RequestError {
        RequestError::NotLeader { partition: self.to_string() }
    }

    /// How many batches wait for their level.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.core).waiters.len()
    }

    /// All below is durable on every in-sync replica: the end that consumers see. Never behind an ack of level `all`.
    pub(crate) fn committed(&self) -> Offset {
        self.view.borrow().committed
    }

    /// Waits until the leader knows all that earlier leaders may have acknowledged, and nobody else can have been elected
    /// since the call: then what it says of its end and of positions is fresh.
    ///
    /// # Errors
    /// Not led here, or not known in time.
    pub(crate) async fn fresh(&self) -> Result<(), RequestError> {
        let fresh = self.act(|core, _, effects| {
            // Alone it is the only one who could be elected.
            if core.replica.leader().is_some_and(|leader| leader.state().replicas.len() == 1) {
                return Ok(None);
            }
            let read = core.replica.fresh_read(effects).ok_or_else(|| self.not_leader())?;
            let (tell, fresh) = oneshot::channel();
            core.fresh.push((read, tell));
            Ok::<_, RequestError>(Some(fresh))
        })?;
        let Some(fresh) = fresh else { return Ok(()) };
        match timeout(SETTLE_DEADLINE, fresh).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.not_leader()),
            Err(_) => Err(RequestError::NotFresh { partition: self.to_string() }),
        }
    }

    /// Stores a group's position on every in-sync replica.
    ///
    /// # Errors
    /// Not led here, too few in sync, or the outcome is unknown.
    pub(crate) async fn commit_position(
        self: &Arc<Self>,
        group: &GroupName,
        position: Offset,
    ) -> Result<(), RequestError> {
        let epoch = self.admit(&lock(&self.core), true)?;
        let (tell, outcome) = oneshot::channel();
        let (partition, named) = (Arc::clone(self), group.clone());
        self.log.commit_position(
            group,
            position,
            Box::new(move |stored| {
                // Whoever asked may have gone away; the position is stored all the same.
                match stored {
                    Ok(()) => partition.position_stored(epoch, named, tell),
                    Err(error) => _ = tell.send(Err(error.into())),
                }
            }),
        );
        outcome.await.unwrap_or_else(|_| Err(self.leadership_lost()))
    }

    fn position_stored(&self, epoch: LeaderEpoch, group: GroupName, tell: positions::Tell) {
        self.act(|core, _, _| {
            if core.replica.leader().is_some_and(|leader| leader.epoch() == epoch) {
                core.positions.stored(group, tell);
                core.feeds.iter().for_each(Feed::mark);
            }
        });
    }

    pub(super) fn leadership_lost(&self) -> RequestError {
        RequestError::LeadershipLost { partition: self.to_string() }
    }

    /// What a follower must know of the groups' positions that has those of version `since`.
    pub(crate) fn positions_since(&self, since: u64) -> Snapshot {
        lock(&self.core).positions.since(since, &self.log)
    }

    /// A follower has the positions up to a version.
    pub(crate) fn positions_reported(&self, feed: &Feed, version: u64) {
        if feed.report_positions(version) {
            self.act(|_, _, _| {});
        }
    }

    /// A follower says something.
    pub(crate) fn hear_follower(&self, broker: &BrokerId, message: ToLeader) {
        self.act(|core, now, effects| core.replica.from_follower(now, broker, message, effects));
    }
}

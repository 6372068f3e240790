//! Carries out what a partition's core orders. Under the partition's lock: nothing here waits.

use std::{sync::Arc, time::Duration};

use goulette_log::Retention;
use goulette_logging::{debug, error, info, warn};
use goulette_replication::{Effect, FromLeader, StopReason as Reason};
use goulette_types::{LeaderEpoch, Offset};

use super::{Core, Partition, Waiting};
use crate::{
    lifecycle::StopReason,
    replication::{Feed, StreamKind},
};

/// The pause before a truncation that failed is tried again.
const CUT_RETRY: Duration = Duration::from_secs(1);
/// The pause before a leader that refused a follower is asked again; doubled with each refusal up to the other.
const FOLLOW_AGAIN_FIRST: Duration = Duration::from_millis(5);
const FOLLOW_AGAIN: Duration = Duration::from_millis(200);

impl Partition {
    pub(super) fn carry_out(&self, core: &mut Core, effect: Effect) {
        match effect {
            Effect::ToFollower { message, .. } => match message.body {
                // It goes with the next frame.
                FromLeader::Committed(_) => {
                    core.feeds.iter().filter(|feed| feed.stream() == message.stream).for_each(Feed::mark);
                }
                _ => self.hub.say_to_follower(self.id(), message),
            },
            Effect::ToLeader { message, .. } => self.hub.say_to_leader(self.id(), message),
            Effect::Feed { broker, stream, from } => {
                core.feeds.retain(|feed| *feed.broker() != broker);
                if let (Some(partition), Some(feed)) = (self.me.upgrade(), self.hub.feed(self.id(), broker, stream)) {
                    core.feeds.push(Arc::clone(&feed));
                    feed.begin(partition, from);
                }
            }
            Effect::Follow { leader } => {
                let state = core.replica.state();
                let in_sync = state.is_some_and(|state| state.in_sync(self.hub.member()));
                if in_sync {
                    core.kind = StreamKind::InSync;
                }
                self.log.set_retention(Retention::FOREVER);
                core.refusals = 0;
                if let Some(partition) = self.me.upgrade() {
                    self.hub.follow(partition, &leader, core.kind);
                }
            }
            Effect::Truncate { to, restart } => self.truncate(core, to, restart),
            Effect::Committed(committed) => self.commit(core, committed),
            Effect::Leads(epoch) => {
                debug!("leads {self} in epoch {epoch}");
                core.waiters.end_epoch(epoch).into_iter().for_each(|(outcome, waiting)| waiting.tell(outcome, self));
                core.positions.begin(&self.log);
                self.log.set_retention(core.retention);
                let committed = core.replica.log().committed;
                self.view.send_modify(|view| {
                    view.raise(committed);
                    view.show(Some(epoch));
                });
            }
            Effect::Resigned(epoch) => {
                info!("leads {self} no longer, since epoch {epoch}");
                self.log.set_retention(Retention::FOREVER);
                self.view.send_if_modified(|view| view.show(None));
                let ended: Vec<(_, Waiting)> = core.waiters.end_epoch(epoch);
                ended.into_iter().for_each(|(outcome, waiting)| waiting.tell(outcome, self));
                core.positions.end();
                core.feeds.clear();
                core.fresh.clear();
            }
            Effect::Propose(proposal) => {
                // A new member must have every position that somebody was told to be stored, as it must have the records.
                let told = core.positions.told();
                let state = core.replica.state();
                let ready = proposal.isr.iter().all(|member| {
                    let known = member == self.hub.member() || state.is_some_and(|state| state.in_sync(member));
                    let feed = core.feeds.iter().find(|feed| *feed.broker() == member.broker);
                    known || feed.is_some_and(|feed| feed.positions() >= told)
                });
                if ready && let Some(partition) = self.me.upgrade() {
                    self.hub.propose(partition, proposal);
                }
            }
            Effect::Fresh { below } => {
                for (_, tell) in core.fresh.extract_if(.., |(read, _)| *read < below) {
                    // Whoever asked may have gone away.
                    let _ = tell.send(());
                }
            }
            Effect::Refused { why, .. } => {
                debug!("the leader of {self} refuses it as a follower, and is asked again: {why}");
                // At first it only hears a moment later than this broker that it leads.
                let pause = (FOLLOW_AGAIN_FIRST * 2_u32.pow(core.refusals.min(16))).min(FOLLOW_AGAIN);
                core.refusals = core.refusals.saturating_add(1);
                if let (Some(partition), Some(leader)) = (self.me.upgrade(), core.replica.follows()) {
                    self.hub.follow_later(partition, leader.broker.clone(), pause);
                }
            }
            Effect::Stopped(reason) => {
                error!("stops to replicate {self}: {reason}");
                if reason == Reason::LostData {
                    self.hub.fail(StopReason::LostData(self.to_string()));
                }
            }
            Effect::ReportWanted => {
                warn!(
                    "the sentinels' metadata of {self} is doubted or has gone back: registers anew, and says what it holds"
                );
                self.hub.register_anew();
            }
            Effect::Stale { given, seen } => {
                warn!(
                    "refuses a role in {self} in leader epoch {given}: its log, or this broker, has seen epoch {seen}"
                );
            }
        }
    }

    fn commit(&self, core: &Core, committed: Offset) {
        // With one replica all that is durable is committed, and nothing need be noted.
        if core.replica.state().is_some_and(|state| state.replicas.len() > 1) {
            self.log.set_committed(committed);
        }
        self.view.send_if_modified(|view| view.raise(committed));
        core.feeds.iter().for_each(Feed::mark);
    }

    fn truncate(&self, core: &Core, to: Offset, restart: bool) {
        let Some(partition) = self.me.upgrade() else { return };
        let epoch = core.replica.state().map(|state| state.leader_epoch).unwrap_or_default();
        info!("cuts {self} to offset {to}, as its leader in epoch {epoch} has it");
        self.hub.run_blocking(move || partition.cut(to, restart, epoch));
    }

    /// Cuts the log, if need be again and again: nothing is taken from the leader before.
    fn cut(self: Arc<Self>, to: Offset, restart: bool, epoch: LeaderEpoch) {
        let cut = match restart {
            true => self.log.restart(to, epoch).map(|()| to),
            false => self.log.truncate(to, epoch),
        };
        match cut {
            Ok(end) => self.act(|core, now, effects| core.replica.truncated(now, end, restart, effects)),
            Err(error) => {
                error!("cannot cut {self} to offset {to} yet: {error}");
                let again = Arc::clone(&self);
                self.hub.later(CUT_RETRY, move || {
                    let hub = Arc::clone(&again.hub);
                    hub.run_blocking(move || again.cut(to, restart, epoch));
                });
            }
        }
    }
}

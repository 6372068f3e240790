//! What a leading sentinel does by itself: it completes what was begun, and brings partitions to where they should be.
//!
//! Nothing here is remembered: each step is found from the metadata alone, so any sentinel goes on where another stopped.

use std::time::Duration;

use goulette_meta::{
    Key,
    keys::{BrokerState, Operation, PartitionRecord},
};
use goulette_replication::{
    PartitionState,
    controller::{self, Live},
};
use goulette_types::{BrokerId, PartitionId, Timestamp};

use super::{Draft, Step};
use crate::{
    catalog::Catalog,
    placement::{Load, Ring},
};

/// Partitions that move at once, on sentinels' own account.
const MOVES_MAX: usize = 64;
/// How long a preferred leader has to live before it leads again.
const PREFERRED_AFTER: Duration = Duration::from_secs(10);

/// The next step, if there is anything to do.
pub(crate) fn next(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    settle(catalog, now)
        .or_else(|| finish(catalog, now))
        .or_else(|| remove(catalog, now))
        .or_else(|| vacate(catalog, now))
        .or_else(|| raise(catalog, now))
        .or_else(|| lower(catalog, now))
        .or_else(|| prefer(catalog, now))
}

/// Partitions whose leader is not live, or whose in-sync replicas are not: an earlier sentinel stopped half-way.
fn settle(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let live = catalog.live();
    let elect = |partitions| Operation::ElectLeaders { partitions };
    change(catalog, now, elect, |_, state| controller::settle(state, &live).ok())
}

/// Moves whose target is in sync.
fn finish(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let live = catalog.live();
    let moved = |partitions| Operation::ReassignPartitions { partitions };
    change(catalog, now, moved, |_, state| {
        state.moving.as_ref()?;
        controller::finish_move(state, &live).ok()
    })
}

fn change(
    catalog: &Catalog,
    now: Timestamp,
    recorded: impl Fn(u32) -> Operation,
    change: impl Fn(PartitionId, &PartitionState) -> Option<PartitionState>,
) -> Option<Step> {
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    let ids = catalog.all_partitions().map(|(id, _)| id).filter(|id| catalog.topic_name(id.topic).is_some());
    let changed = draft.change_partitions(ids, operation, change);
    if changed == 0 {
        return None;
    }
    draft.record(recorded(changed));
    Some(draft.finish())
}

/// A broker that is to be removed, has stopped, and holds nothing any more.
fn remove(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let (broker, _) = catalog.brokers().find(|(id, record)| {
        record.leaving.as_ref().is_some_and(|leaving| leaving.remove)
            && record.state != BrokerState::Live
            && catalog.held_by(id).next().is_none()
    })?;
    let mut draft = Draft::new(catalog, now, None);
    draft.record(Operation::RemoveBrokerFromHashRing { broker: broker.clone() });
    draft.delete(Key::Broker(broker.clone()));
    Some(draft.finish())
}

/// Replicas on brokers that an operator wants empty go to others; where fewer brokers than replicas are left, they go.
fn vacate(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let leaving = |broker: &BrokerId| catalog.broker(broker).and_then(|record| record.leaving.as_ref());
    if !catalog.brokers().any(|(broker, _)| leaving(broker).is_some()) {
        return None;
    }
    let live = catalog.live();
    let mover = Mover::new(catalog);
    mover.start(catalog, now, |id, record, mover, load| {
        let goes = record.replicas.iter().find(|broker| leaving(broker).is_some())?;
        let kept: Vec<_> = record.replicas.iter().filter(|broker| *broker != goes).cloned().collect();
        let replacement = leaving(goes).and_then(|leaving| leaving.replacement.clone());
        let mut to = match replacement.filter(|other| !kept.contains(other)) {
            // It is waited for: somebody else was not asked for.
            Some(other) if live.live(&other).is_none() => return None,
            Some(other) => [&kept[..], &[other]].concat(),
            None => mover.ring.place_beside(id, &kept, record.replicas.len(), &mover.ring.bounds(1, load), load),
        };
        if to.len() < record.replicas.len().min(catalog.open_brokers()).max(1) {
            // Nobody is there to take it yet.
            return None;
        }
        if record.replicas.first() == Some(goes) && to.len() > kept.len() {
            // Its place as the preferred leader goes with it.
            to.rotate_right(1);
        }
        Some(to)
    })
}

/// Partitions get the replicas that their topic wants, when there are brokers for them.
fn raise(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let mover = Mover::new(catalog);
    mover.start(catalog, now, |id, record, mover, load| {
        let topic = catalog.topic(catalog.topic_name(id.topic)?)?;
        let wanted = catalog.possible_replicas(topic.replication_factor);
        let follow = |broker: &BrokerId| catalog.broker(broker).is_some_and(|known| known.replicates);
        if record.replicas.len() >= wanted || !record.replicas.iter().all(follow) {
            return None;
        }
        let to = mover.ring.place_beside(id, &record.replicas, wanted, &mover.ring.bounds(wanted, load), load);
        (to.len() > record.replicas.len()).then_some(to)
    })
}

/// Partitions give up replicas beyond those that their topic wants: those that lag first, then the last ones.
fn lower(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    Mover::new(catalog).start(catalog, now, |id, record, _, _| {
        let wanted = catalog.topic(catalog.topic_name(id.topic)?)?.replication_factor as usize;
        let replicas = &record.replicas;
        if replicas.len() <= wanted {
            return None;
        }
        let in_sync = |broker: &BrokerId| record.isr.iter().any(|member| member.broker == *broker);
        let mut kept: Vec<usize> = (0..replicas.len()).collect();
        kept.sort_by_key(|&place| !in_sync(&replicas[place]));
        kept.truncate(wanted);
        kept.sort_unstable();
        Some(kept.into_iter().map(|place| replicas[place].clone()).collect())
    })
}

/// Starts moves, so many at once.
struct Mover {
    ring: Ring,
    load: Load,
    room: usize,
}

impl Mover {
    fn new(catalog: &Catalog) -> Self {
        let moving = catalog.all_partitions().filter(|(_, record)| record.moving.is_some()).count();
        Self { ring: catalog.ring(), load: catalog.live_load(), room: MOVES_MAX.saturating_sub(moving) }
    }

    fn start(
        mut self,
        catalog: &Catalog,
        now: Timestamp,
        target: impl Fn(PartitionId, &PartitionRecord, &Self, &mut Load) -> Option<Vec<BrokerId>>,
    ) -> Option<Step> {
        let mut load = std::mem::take(&mut self.load);
        let mut draft = Draft::new(catalog, now, None);
        let operation = draft.upcoming();
        let mut started = 0;
        for (id, record) in catalog.all_partitions() {
            if self.room == started || draft.room() == 0 {
                break;
            }
            let stands = record.moving.is_none() && record.doubt.is_none() && catalog.leader(record).is_ok();
            if !stands || catalog.topic_name(id.topic).is_none() {
                continue;
            }
            let Some(to) = target(id, record, &self, &mut load) else { continue };
            if let Ok(next) = controller::start_move(&crate::partition_state::state(record), &to) {
                draft.put_partition(id, next, operation);
                started += 1;
            }
        }
        if started == 0 {
            return None;
        }
        draft.record(Operation::ReassignPartitions { partitions: started as u32 });
        Some(draft.finish())
    }
}

/// Preferred leaders that are back for a while lead again.
fn prefer(catalog: &Catalog, now: Timestamp) -> Option<Step> {
    let live = catalog.live();
    let is_settled = |broker: &BrokerId| {
        let since = catalog.broker(broker).map(|record| record.since.0);
        since.is_some_and(|since| now.0.saturating_sub(since) >= PREFERRED_AFTER.as_millis() as i64)
    };
    let elect = |partitions| Operation::ElectLeaders { partitions };
    change(catalog, now, elect, |_, state| {
        let preferred = state.replicas.first().filter(|_| state.moving.is_none())?;
        let leads = state.leader.as_ref().is_some_and(|leader| leader.broker == *preferred);
        if leads || !is_settled(preferred) {
            return None;
        }
        controller::elect(state, preferred, &live).ok()
    })
}

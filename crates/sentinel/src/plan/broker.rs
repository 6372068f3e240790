//! Brokers that come, go and fall silent, and what that means for the partitions that they hold.

use std::collections::{BTreeMap, HashMap};

use goulette_meta::{
    Entry,
    keys::{BrokerRecord, BrokerState, Leaving, Operation},
};
use goulette_replication::{
    LogEnd, Member, PartitionState,
    controller::{self, LiveBroker, Refusal, Reported},
};
use goulette_types::{BrokerId, Incarnation, LeaderEpoch, Offset, PartitionEpoch, PartitionId, StorageId, Timestamp};

use super::{Draft, Step, producer};
use crate::{
    RequestError,
    catalog::{Catalog, live_broker},
};

/// A broker's registration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) broker: BrokerId,
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) storage: StorageId,
    pub(crate) release: String,
    pub(crate) weight: u32,
    pub(crate) rack: Option<String>,
    pub(crate) replicates: bool,
    /// What it holds.
    pub(crate) held: HashMap<PartitionId, Holding>,
    /// The highest producer id that it has stored; 0 for none.
    pub(crate) producer_id_max: u64,
}

/// What a broker has stored and seen of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The highest leader epoch.
    pub(crate) leader_epoch: LeaderEpoch,
    /// The highest partition epoch; 0: not known.
    pub(crate) partition_epoch: PartitionEpoch,
    /// The epoch of the last batch.
    pub(crate) log_epoch: LeaderEpoch,
    pub(crate) end: Offset,
    /// The version of the doubt that this answers: what is said here stays true.
    pub(crate) answers: Option<(LeaderEpoch, PartitionEpoch)>,
}

/// The next step of a registration; `None` once the broker's partitions are settled.
///
/// The first step makes the broker live, so its older starts lead nothing from then on. Where it has seen later epochs
/// than the metadata, that has gone back: nobody leads before all replicas have told what they hold.
pub(crate) fn register(
    catalog: &Catalog,
    now: Timestamp,
    registration: &Registration,
) -> Result<Option<Step>, RequestError> {
    let mut draft = Draft::new(catalog, now, None);
    let broker = &registration.broker;
    let known = catalog.broker(broker);
    if known.is_none_or(|known| (known.weight, &known.rack) != (registration.weight, &registration.rack)) {
        let (weight, rack) = (registration.weight, registration.rack.clone());
        draft.record(Operation::AddBrokerToHashRing { broker: broker.clone(), weight, rack });
    }
    let operation = draft.upcoming();
    let same_start = known.filter(|known| known.incarnation == registration.incarnation);
    let wanted = |since, operation| BrokerRecord {
        address: registration.address.clone(),
        incarnation: registration.incarnation,
        storage: registration.storage,
        state: BrokerState::Live,
        since,
        release: registration.release.clone(),
        weight: registration.weight,
        rack: registration.rack.clone(),
        replicates: registration.replicates,
        hands_over: same_start.is_some_and(|known| known.hands_over),
        hangs: same_start.is_some_and(|known| known.hangs),
        leaving: known.and_then(|known| known.leaving.clone()),
        operation,
    };
    if known.is_none_or(|known| *known != wanted(known.since, known.operation)) {
        draft.put(Entry::Broker(broker.clone(), wanted(now, operation)));
    }
    draft.changes.extend(producer::raise(catalog, registration.producer_id_max)?);

    let mut live = catalog.live();
    live.insert(broker.clone(), live_broker(&wanted(now, operation)));
    let change = |id, state: &PartitionState| Some(registered(id, state, registration, &live));
    let changed = draft.change_partitions(concerned(catalog, registration), operation, change);
    if draft.changes.is_empty() {
        return Ok(None);
    }
    draft.record(Operation::RegisterBroker {
        broker: broker.clone(),
        incarnation: registration.incarnation,
        storage: registration.storage,
        elected: changed,
    });
    Ok(Some(draft.finish()))
}

/// The partitions that a registration concerns: those that the broker is to hold, and those of which it has seen later
/// metadata although it is no replica (any more): there as well the metadata has gone back.
fn concerned(catalog: &Catalog, registration: &Registration) -> impl Iterator<Item = PartitionId> {
    let has_seen_more = |(id, holding): &(&PartitionId, &Holding)| {
        catalog.partition(**id).is_some_and(|record| {
            let elsewhere = !record.replicas.contains(&registration.broker);
            let later = holding.leader_epoch > record.leader_epoch || holding.partition_epoch > record.partition_epoch;
            elsewhere && later && !catalog.is_deleted(id.topic)
        })
    };
    let mut others: Vec<_> = registration.held.iter().filter(has_seen_more).map(|(id, _)| *id).collect();
    others.sort_unstable();
    catalog.held_by(&registration.broker).chain(others)
}

/// The partition's state once a broker has registered that is one of its replicas, or has seen more of it.
fn registered(
    id: PartitionId,
    state: &PartitionState,
    registration: &Registration,
    live: &BTreeMap<BrokerId, LiveBroker>,
) -> PartitionState {
    let mut next = state.clone();
    let holding = registration.held.get(&id).copied().unwrap_or_default();
    if let Ok(doubted) = controller::suspect(&next, holding.leader_epoch, holding.partition_epoch) {
        next = doubted;
    }
    // Whoever has not heard of the doubt may lead or follow on, also in a start that these metadata do not know: what it
    // holds now is not what it will hold. One that has no peers decides for itself.
    let stays_true = holding.answers.is_some() || next.replicas.len() == 1;
    if let Some(doubt) = next.doubt.as_ref().filter(|_| stays_true) {
        let member = Member { broker: registration.broker.clone(), storage: registration.storage };
        let log = LogEnd { epoch: holding.log_epoch, end: holding.end };
        let answers = holding.answers.unwrap_or(doubt.version());
        if let Ok(told) = controller::report(&next, &Reported { member, answers, log }, live) {
            next = told;
        }
    }
    controller::settle(&next, live).unwrap_or(next)
}

/// The next step that records a planned stop and elects others; `None` once nothing is left to do.
///
/// # Errors
/// [`RequestError::BrokerFenced`] if another start of it has registered since.
pub(crate) fn unregister(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    incarnation: Incarnation,
) -> Result<Option<Step>, RequestError> {
    let known = current(catalog, broker, incarnation)?;
    let operation = Operation::UnregisterBroker { broker: broker.clone(), incarnation };
    Ok(gone(catalog, now, broker, known, BrokerState::Left, operation))
}

/// The next step that records a broker which does not answer and elects others; `None` once nothing is left to do, or
/// if this start of it is not live.
pub(crate) fn mark_down(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    incarnation: Incarnation,
) -> Option<Step> {
    let known = current(catalog, broker, incarnation).ok().filter(|known| known.state != BrokerState::Left)?;
    let operation = Operation::HandleUnreachableBrokers { brokers: vec![broker.clone()] };
    gone(catalog, now, broker, known, BrokerState::Down, operation)
}

fn current<'a>(
    catalog: &'a Catalog,
    broker: &BrokerId,
    incarnation: Incarnation,
) -> Result<&'a BrokerRecord, RequestError> {
    let known = catalog.broker(broker).filter(|known| known.incarnation == incarnation);
    known.ok_or_else(|| RequestError::BrokerFenced { broker: broker.clone() })
}

/// The first step makes the broker's record say so; each settles as many of its partitions as fit.
fn gone(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    known: &BrokerRecord,
    state: BrokerState,
    recorded: Operation,
) -> Option<Step> {
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    if known.state != state {
        let record = BrokerRecord { state, since: now, operation, hangs: false, ..known.clone() };
        draft.put(Entry::Broker(broker.clone(), record));
    }
    let mut live = catalog.live();
    live.remove(broker);
    draft.change_partitions(catalog.held_by(broker), operation, |_, state| controller::settle(state, &live).ok());
    if draft.changes.is_empty() {
        return None;
    }
    draft.record(recorded);
    Some(draft.finish())
}

/// Why a broker gives its leaderships away though it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yields {
    /// It is about to stop.
    Stops,
    /// Its disk does not confirm what is written.
    Hangs,
}

/// The next step that gives a broker's leaderships to others; `None` once nobody else can take any more of them.
///
/// # Errors
/// [`RequestError::BrokerFenced`] if another start of it has registered since.
pub(crate) fn hand_over(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    incarnation: Incarnation,
    why: Yields,
) -> Result<Option<Step>, RequestError> {
    let known = current(catalog, broker, incarnation)?;
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.upcoming();
    let mut record = known.clone();
    match why {
        Yields::Stops => record.hands_over = true,
        Yields::Hangs => record.hangs = true,
    }
    let mut live = catalog.live();
    if known.state == BrokerState::Live {
        live.insert(broker.clone(), live_broker(&record));
    }
    if record != *known {
        draft.put(Entry::Broker(broker.clone(), BrokerRecord { operation, ..record }));
    }
    let change = |_, state: &PartitionState| controller::hand_over(state, broker, &live).ok();
    let partitions = draft.change_partitions(catalog.held_by(broker), operation, change);
    if draft.changes.is_empty() {
        return Ok(None);
    }
    draft.record(Operation::HandOver { broker: broker.clone(), partitions });
    Ok(Some(draft.finish()))
}

/// The step that lets a broker lead again whose disk has come back; `None` if it may already.
pub(crate) fn recovered(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    incarnation: Incarnation,
) -> Result<Option<Step>, RequestError> {
    let known = current(catalog, broker, incarnation)?;
    if !known.hangs {
        return Ok(None);
    }
    let mut draft = Draft::new(catalog, now, None);
    let operation = draft.record(Operation::HandOver { broker: broker.clone(), partitions: 0 });
    draft.put(Entry::Broker(broker.clone(), BrokerRecord { hangs: false, operation, ..known.clone() }));
    Ok(Some(draft.finish()))
}

/// The step that orders everything away from a broker, or takes the order back (`leaving` is `None`); `None` if it
/// stands so already. What it means is done by and by.
///
/// # Errors
/// [`RequestError::UnknownBroker`]; [`RequestError::NowhereToGo`] if all other brokers are to be left as well.
pub(crate) fn drain(
    catalog: &Catalog,
    now: Timestamp,
    broker: &BrokerId,
    leaving: Option<Leaving>,
) -> Result<Option<Step>, RequestError> {
    let unknown = |broker: &BrokerId| RequestError::UnknownBroker { broker: broker.clone() };
    let known = catalog.broker(broker).ok_or_else(|| unknown(broker))?;
    if let Some(replacement) = leaving.as_ref().and_then(|leaving| leaving.replacement.as_ref())
        && (replacement == broker || catalog.broker(replacement).is_none())
    {
        return Err(unknown(replacement));
    }
    if known.leaving == leaving {
        return Ok(None);
    }
    let partitions = catalog.held_by(broker).count();
    let mut others = catalog.brokers().filter(|(id, record)| *id != broker && record.leaving.is_none());
    if leaving.is_some() && partitions > 0 && others.next().is_none() {
        return Err(RequestError::NowhereToGo { broker: broker.clone(), partitions });
    }
    let mut draft = Draft::new(catalog, now, None);
    let ordered = leaving.is_some();
    let operation = draft.record(Operation::DrainBroker { broker: broker.clone(), ordered });
    draft.put(Entry::Broker(broker.clone(), BrokerRecord { leaving, operation, ..known.clone() }));
    if !ordered {
        // Moves away from it that have begun are taken back.
        let live = catalog.live();
        let change = |_, state: &PartitionState| {
            let moving = state.moving.as_ref().filter(|moving| !moving.to.contains(broker))?;
            debug_assert!(!moving.to.is_empty());
            match controller::cancel_move(state, &live) {
                Ok(next) => Some(next),
                Err(Refusal::NoCandidate | Refusal::InDoubt | Refusal::Unchanged) | Err(_) => None,
            }
        };
        draft.change_partitions(catalog.held_by(broker), operation, change);
    }
    Ok(Some(draft.finish()))
}

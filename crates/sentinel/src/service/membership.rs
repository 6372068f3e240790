//! Brokers: register, beat, leave.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use goulette_logging::{info, warn};
use goulette_meta::keys::BrokerState;
use goulette_proto::{PROTOCOL_VERSION, convert, pb};
use goulette_types::{
    BrokerId, ClusterId, Incarnation, LeaderEpoch, Offset, PartitionEpoch, PartitionId, PartitionIndex, Revision,
    StorageId, TopicId,
};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::{Context, wire};
use crate::{
    RequestError,
    catalog::{Catalog, Offline},
    membership::Event,
    plan::broker::{Holding, Registration, Yields},
    probe::probe,
    state::Role,
};

/// How long an earlier process of the same id may take to prove that it lives.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes that an address may have.
const ADDRESS_BYTES_MAX: usize = 300;
/// Bytes that a rack's name may have.
const RACK_BYTES_MAX: usize = 100;
/// The largest share that a broker may have beside the others'.
const WEIGHT_MAX: u32 = 100;
/// A disk that leaves an append unconfirmed for so long hangs, and one whose oldest is so young again does not.
const HANGS_AFTER: Duration = Duration::from_secs(5);
const RECOVERED_BELOW: Duration = Duration::from_secs(1);
/// Bytes that the name of a release may have.
const RELEASE_BYTES_MAX: usize = 100;

pub(super) async fn register(
    context: &Context,
    request: pb::RegisterBrokerRequest,
) -> Result<pb::RegisterBrokerResponse, RequestError> {
    if !context.state.leads() {
        return Err(context.state.not_leader());
    }
    let cluster_id = context.cluster_id()?;
    let registration = parse(cluster_id, &request)?;
    if request.sentinels > 1 && context.leases.is_none() {
        return Err(RequestError::NotOneOfSeveral { broker: registration.broker, sentinels: request.sentinels });
    }
    let (broker, incarnation) = (registration.broker.clone(), registration.incarnation);
    refuse_second_process(context, &registration).await?;
    let renewed = {
        let catalog = context.state.catalog();
        catalog.broker(&broker).is_none_or(|known| known.incarnation != incarnation || known.state != BrokerState::Live)
    };
    note_unassigned(context, &request, renewed);
    let deleted_topics = deleted(context, &request.held);
    let address = registration.address.clone();
    context.controller.register(registration).await?;
    context.detector.tell(Event::Registered { broker: broker.clone(), incarnation }).await;
    let catalog = context.state.catalog();
    let assignments = catalog.assignments(&broker, incarnation, Revision(0));
    if renewed {
        info!("broker {broker} registered at {address} with {} partitions", assignments.len());
        report_other_disk(&catalog, &broker);
    }
    Ok(pb::RegisterBrokerResponse {
        cluster_id: Bytes::copy_from_slice(&cluster_id.to_bytes()),
        revision: catalog.revision().0,
        assignments: assignments.iter().map(wire::assignment).collect(),
        deleted_topics,
        heartbeat_ms: context.options.heartbeat.as_millis() as u32,
    })
}

fn parse(ours: ClusterId, request: &pb::RegisterBrokerRequest) -> Result<Registration, RequestError> {
    let broker: BrokerId = request.id.parse()?;
    if request.protocol_version > PROTOCOL_VERSION {
        return Err(RequestError::NewerProtocol { broker, theirs: request.protocol_version });
    }
    if !request.cluster_id.is_empty() {
        let theirs = ClusterId::try_from(&request.cluster_id[..]).map_err(|error| field("cluster_id", error))?;
        if theirs != ours {
            return Err(RequestError::OtherCluster { broker, theirs, ours });
        }
    }
    let incarnation = Incarnation::try_from(&request.incarnation[..]).map_err(|error| field("incarnation", error))?;
    let storage = StorageId::try_from(&request.storage_id[..]).map_err(|error| field("storage_id", error))?;
    let dialable = request
        .address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    if !dialable || request.address.len() > ADDRESS_BYTES_MAX {
        return Err(RequestError::Invalid(format!("address {:?} is not host:port", request.address)));
    }
    if request.version.len() > RELEASE_BYTES_MAX {
        return Err(RequestError::Invalid(format!("version has more than {RELEASE_BYTES_MAX} bytes")));
    }
    if request.rack.len() > RACK_BYTES_MAX {
        return Err(RequestError::Invalid(format!("rack has more than {RACK_BYTES_MAX} bytes")));
    }
    if request.weight > WEIGHT_MAX {
        return Err(RequestError::Invalid(format!("weight must be at most {WEIGHT_MAX}, not {}", request.weight)));
    }
    Ok(Registration {
        broker,
        address: request.address.clone(),
        incarnation,
        storage,
        release: request.version.clone(),
        weight: request.weight.max(1),
        rack: Some(request.rack.clone()).filter(|rack| !rack.is_empty()),
        replicates: request.replicates,
        held: holdings(request)?,
        producer_id_max: request.producer_id_max,
    })
}

fn holdings(request: &pb::RegisterBrokerRequest) -> Result<HashMap<PartitionId, Holding>, RequestError> {
    let mut holdings = HashMap::with_capacity(request.held.len());
    for held in &request.held {
        let partition = convert::partition_id(&held.topic_id, held.partition).map_err(RequestError::Invalid)?;
        // An election gives the next one, which has to fit into Kafka's signed 32 bits.
        if held.leader_epoch >= i32::MAX as u32 || held.partition_epoch >= i64::MAX as u64 {
            return Err(RequestError::Invalid(format!(
                "leader epoch {} or partition epoch {} of {partition} is too large",
                held.leader_epoch, held.partition_epoch
            )));
        }
        let holding = Holding {
            leader_epoch: LeaderEpoch(held.leader_epoch),
            partition_epoch: PartitionEpoch(held.partition_epoch),
            log_epoch: LeaderEpoch(if held.log_epoch == 0 { held.leader_epoch } else { held.log_epoch }),
            end: Offset(held.end),
            answers: held
                .reported
                .then_some((LeaderEpoch(held.doubt_leader_epoch), PartitionEpoch(held.doubt_partition_epoch))),
        };
        holdings.insert(partition, holding);
    }
    Ok(holdings)
}

fn field(name: &str, error: impl std::fmt::Display) -> RequestError {
    RequestError::Invalid(format!("{name}: {error}"))
}

/// Two processes under one id would write one broker's data twice: the newer one is refused while the older answers.
async fn refuse_second_process(context: &Context, registration: &Registration) -> Result<(), RequestError> {
    let predecessor = context.state.catalog().broker(&registration.broker).cloned();
    if let Some(known) = predecessor
        && known.incarnation != registration.incarnation
        && known.state != BrokerState::Left
        && probe(&known.address, PREDECESSOR_DEADLINE).await == Some(known.incarnation)
    {
        return Err(RequestError::BrokerTaken { broker: registration.broker.clone(), address: known.address });
    }
    Ok(())
}

/// Which of the topics that a broker holds were deleted on purpose while it was away.
fn deleted(context: &Context, held: &[pb::Held]) -> Vec<Bytes> {
    let catalog = context.state.catalog();
    let mut deleted: Vec<_> = held
        .iter()
        .filter(|held| TopicId::try_from(&held.topic_id[..]).is_ok_and(|id| catalog.is_deleted(id)))
        .map(|held| held.topic_id.clone())
        .collect();
    deleted.sort_unstable();
    deleted.dedup();
    deleted
}

/// Data that the metadata does not know, or knows elsewhere, is never deleted for that: somebody may want it back.
fn note_unassigned(context: &Context, request: &pb::RegisterBrokerRequest, renewed: bool) {
    let Ok(broker) = request.id.parse::<BrokerId>() else { return };
    let (mut unassigned, mut unknown) = (Vec::new(), 0);
    let catalog = context.state.catalog();
    for held in &request.held {
        let Ok(topic) = TopicId::try_from(&held.topic_id[..]) else { continue };
        let id = PartitionId { topic, index: PartitionIndex(held.partition) };
        let is_unknown = catalog.topic_name(topic).is_none();
        if !catalog.is_deleted(topic) && !catalog.concerns(&broker, id) && (is_unknown || held.end > 0) {
            unknown += usize::from(is_unknown);
            unassigned.push(held.clone());
        }
    }
    drop(catalog);
    let strays = unassigned.len() - unknown;
    context.state.note_unassigned(&broker, unassigned);
    if renewed && unknown > 0 {
        warn!(
            "broker {broker} holds {unknown} partitions that the metadata does not know: they are kept, see `goulette cluster adopt`"
        );
    }
    if renewed && strays > 0 {
        warn!("broker {broker} holds {strays} partitions that are elsewhere: nobody uses them, and they are kept");
    }
}

/// Whoever emptied or swapped a broker's disk hears of it here, and not first from a consumer that waits.
fn report_other_disk(catalog: &Catalog, broker: &BrokerId) {
    let elsewhere = |id: &PartitionId| {
        let partition = catalog.partition(*id);
        partition.is_some_and(|partition| matches!(catalog.leader(partition), Err(Offline::OtherDisk { .. })))
    };
    let count = catalog.held_by(broker).filter(elsewhere).count();
    if count > 0 {
        warn!(
            "broker {broker} came back with another disk: the only replica of {count} partitions is on the earlier one"
        );
    }
}

pub(super) async fn unregister(
    context: &Context,
    request: pb::UnregisterBrokerRequest,
) -> Result<pb::UnregisterBrokerResponse, RequestError> {
    let broker: BrokerId = request.id.parse()?;
    let incarnation = Incarnation::try_from(&request.incarnation[..]).map_err(|error| field("incarnation", error))?;
    context.controller.unregister(broker.clone(), incarnation).await?;
    info!("broker {broker} has left");
    context.detector.tell(Event::Left { broker }).await;
    Ok(pb::UnregisterBrokerResponse {})
}

/// A broker's stream: beats come in, what it has to lead goes out whenever that changes.
///
/// It is driven by its connection and ends with it, so it needs no task of its own.
pub(super) fn heartbeat(
    context: Arc<Context>,
    beats: Streaming<pb::HeartbeatRequest>,
) -> impl Stream<Item = Result<pb::HeartbeatResponse, Status>> + Send {
    let session = Session {
        changes: context.state.changes(),
        roles: context.state.role(),
        stopping: context.stopping.clone(),
        number: context.streams.fetch_add(1, Ordering::Relaxed),
        context,
        beats,
        broker: None,
        generation: None,
    };
    stream::unfold(session, async |mut session| {
        let answer = session.next().await?;
        Some((answer, session))
    })
}

struct Session {
    context: Arc<Context>,
    beats: Streaming<pb::HeartbeatRequest>,
    changes: watch::Receiver<Revision>,
    roles: watch::Receiver<Role>,
    stopping: watch::Receiver<bool>,
    number: u64,
    /// Set by the first beat.
    broker: Option<Peer>,
    /// The metadata's, at the first beat.
    generation: Option<u64>,
}

struct Peer {
    id: BrokerId,
    incarnation: Incarnation,
    /// What it has been told, all up to this revision.
    told: Revision,
}

impl Session {
    /// The next thing to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<pb::HeartbeatResponse, Status>> {
        loop {
            if *self.stopping.borrow() {
                return None;
            }
            tokio::select! {
                biased;
                _ = self.stopping.changed() => return None,
                // Another leadership than the one it was opened in.
                _ = self.roles.changed() => return Some(Err(self.context.state.not_leader().into())),
                beat = self.beats.message() => match beat {
                    Ok(Some(beat)) => match self.hear(beat).await {
                        Ok(None) => {}
                        Ok(Some(answer)) => return Some(Ok(answer)),
                        Err(error) => return Some(Err(error.into())),
                    },
                    Ok(None) | Err(_) => return None,
                },
                _ = self.changes.changed() => {}
            }
            if let Some(news) = self.news() {
                return Some(Ok(news));
            }
        }
    }

    async fn hear(&mut self, beat: pb::HeartbeatRequest) -> Result<Option<pb::HeartbeatResponse>, RequestError> {
        let id: BrokerId = beat.id.parse()?;
        let incarnation = Incarnation::try_from(&beat.incarnation[..]).map_err(|error| field("incarnation", error))?;
        let applied = Revision(beat.revision_applied);
        match &mut self.broker {
            Some(peer) if peer.id == id && peer.incarnation == incarnation => peer.told = peer.told.max(applied),
            Some(_) => return Err(RequestError::Invalid("a stream of heartbeats is one broker's".to_owned())),
            None => {
                self.context.detector.tell(Event::Opened { broker: id.clone(), stream: self.number }).await;
                self.broker = Some(Peer { id: id.clone(), incarnation, told: applied });
            }
        }
        let (known, revision) = {
            let catalog = self.context.state.catalog();
            let known = catalog.broker(&id);
            let current =
                known.is_some_and(|known| known.incarnation == incarnation && known.state == BrokerState::Live);
            // Metadata that was restored knows nothing of what the broker has seen: it is to tell.
            let same_life = *self.generation.get_or_insert(catalog.generation()) == catalog.generation();
            (current && same_life, catalog.revision().0)
        };
        if !known {
            return Ok(Some(pb::HeartbeatResponse { revision, register: true, ..Default::default() }));
        }
        self.context.state.note_applied(&id, applied);
        let oldest_unsynced = Duration::from_millis(beat.oldest_unsynced_ms);
        self.context.state.note_heard(&id, self.context.env.clock.now(), oldest_unsynced);
        self.judge_disk(&id, incarnation, oldest_unsynced);
        self.context.detector.tell(Event::Heartbeat { broker: id, incarnation }).await;
        Ok(None)
    }

    /// Takes its leaderships from a broker whose disk hangs, and lets it lead again when that is over.
    fn judge_disk(&self, broker: &BrokerId, incarnation: Incarnation, oldest_unsynced: Duration) {
        let hangs = self.context.state.catalog().broker(broker).is_some_and(|known| known.hangs);
        let (controller, broker) = (self.context.controller.clone(), broker.clone());
        if !hangs && oldest_unsynced > HANGS_AFTER {
            warn!("the disk of broker {broker} has confirmed nothing for {oldest_unsynced:?}: others lead instead");
            // Repeated by the next beat if it fails.
            tokio::spawn(async move { controller.hand_over(broker, incarnation, Yields::Hangs).await });
        } else if hangs && oldest_unsynced < RECOVERED_BELOW {
            info!("the disk of broker {broker} confirms what is written again");
            tokio::spawn(async move { controller.recovered(broker, incarnation).await });
        }
    }

    /// What the broker has not been told yet.
    fn news(&mut self) -> Option<pb::HeartbeatResponse> {
        let peer = self.broker.as_mut()?;
        let catalog = self.context.state.catalog();
        self.changes.mark_unchanged();
        let revision = catalog.revision();
        if revision <= peer.told {
            return None;
        }
        let assignments = catalog.assignments(&peer.id, peer.incarnation, peer.told);
        let deleted = catalog.deleted_since(peer.told);
        peer.told = revision;
        if assignments.is_empty() && deleted.is_empty() {
            return None;
        }
        Some(pb::HeartbeatResponse {
            revision: revision.0,
            assignments: assignments.iter().map(wire::assignment).collect(),
            deleted_topics: deleted.into_iter().map(|id| Bytes::copy_from_slice(&id.to_bytes())).collect(),
            register: false,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(peer) = &self.broker
            && !*self.stopping.borrow()
        {
            self.context.detector.tell_now(Event::Broken { broker: peer.id.clone(), stream: self.number });
        }
    }
}

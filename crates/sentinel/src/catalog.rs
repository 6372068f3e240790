//! What the metadata says, in memory: loaded from the store, then kept up by applying each change that is committed.
//!
//! Only the store is the truth; this is its mirror, indexed for the questions that are asked often.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use goulette_meta::{
    Change, Entry, Key, KeyError, Snapshot,
    keys::{
        BrokerRecord, BrokerState, ClusterRecord, Counter, CounterRecord, PartitionRecord, RingMember, SentinelRecord,
        TopicRecord,
    },
};
use goulette_replication::controller::LiveBroker;
use goulette_types::{
    BrokerId, Incarnation, PartitionId, PartitionIndex, Revision, SentinelId, StorageId, TopicId, TopicName,
};

use crate::{
    partition_state,
    placement::{Member, Ring},
};

/// A record and the revision that wrote it.
#[derive(Clone, Debug, PartialEq)]
struct At<T> {
    revision: Revision,
    record: T,
}

/// The cluster's metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Catalog {
    revision: Revision,
    cluster: Option<ClusterRecord>,
    topics: BTreeMap<TopicName, At<TopicRecord>>,
    names: HashMap<TopicId, TopicName>,
    partitions: BTreeMap<PartitionId, At<PartitionRecord>>,
    /// The partitions that each broker is to hold.
    held: BTreeMap<BrokerId, BTreeSet<PartitionId>>,
    released: Released,
    brokers: BTreeMap<BrokerId, At<BrokerRecord>>,
    deleted: HashMap<TopicId, Revision>,
    /// The same in the order of their deletion.
    deletions: BTreeSet<(Revision, TopicId)>,
    counters: BTreeMap<Counter, At<CounterRecord>>,
    sentinels: BTreeMap<SentinelId, At<SentinelRecord>>,
    leading: Option<At<SentinelRecord>>,
    /// Keys whose values are none of ours, each with what is wrong.
    foreign: BTreeMap<String, String>,
}

/// The partitions that were moved away from each broker, and since when, so that it hears of that. Seen happen, not stored: a
/// broker that was away meanwhile, from a sentinel that has not seen it, keeps what it has.
#[derive(Clone, Debug, Default)]
struct Released(BTreeMap<BrokerId, BTreeMap<PartitionId, Revision>>);

/// Two catalogs are the same that say the same of the metadata.
impl PartialEq for Released {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What a broker has to lead or to follow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) partition: PartitionId,
    pub(crate) topic: TopicName,
    pub(crate) config: BTreeMap<String, String>,
    /// How many partitions the topic has.
    pub(crate) partitions: u32,
    pub(crate) role: AssignedRole,
    pub(crate) record: PartitionRecord,
    /// The leader's place among the replicas, if somebody leads.
    pub(crate) leader: Option<BrokerId>,
    /// Every replica with its registration; only for a broker that replicates.
    pub(crate) replicas: Vec<(BrokerId, Option<BrokerRecord>)>,
}

/// What a broker is to be for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssignedRole {
    Leader,
    Follower,
    /// Nobody leads now.
    Waiting,
}

/// Why nobody leads a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Offline {
    #[error("awaiting broker {broker}, which holds {what} and is down")]
    Down { broker: BrokerId, what: &'static str },
    #[error("awaiting broker {broker}, which holds {what} and has been stopped")]
    Left { broker: BrokerId, what: &'static str },
    #[error("awaiting broker {broker} with the disk {wanted}, which holds {what}: it came back with disk {found}")]
    OtherDisk { broker: BrokerId, what: &'static str, wanted: StorageId, found: StorageId },
    #[error("awaiting any of the brokers {}", list(.0))]
    Any(Vec<BrokerId>),
    #[error("the metadata is older than what replicas hold: awaiting what the brokers {} report", list(.0))]
    InDoubt(Vec<BrokerId>),
    #[error("awaiting the election of broker {0}")]
    Election(BrokerId),
    #[error("awaiting a replica: none is recorded")]
    NoReplica,
}

fn list(brokers: &[BrokerId]) -> String {
    brokers.iter().map(BrokerId::as_str).collect::<Vec<_>>().join(", ")
}

impl Catalog {
    /// What the store holds.
    ///
    /// # Errors
    /// [`KeyError`] for a value that is of a later version, or one that is not ours where nothing can be done without
    /// it. Other foreign values are left out, and named by [`foreign`](Self::foreign).
    pub(crate) fn load(snapshot: &Snapshot) -> Result<Self, KeyError> {
        let mut catalog = Catalog::default();
        for stored in &snapshot.entries {
            catalog.take(&stored.key, Some(&stored.value), stored.revision)?;
        }
        catalog.revision = snapshot.revision;
        Ok(catalog)
    }

    /// Takes over what another one has done to a key.
    ///
    /// # Errors
    /// As [`load`](Self::load); the catalog then still has the former value.
    pub(crate) fn take(&mut self, path: &str, value: Option<&[u8]>, revision: Revision) -> Result<(), KeyError> {
        self.foreign.remove(path);
        let change = match value {
            None => Key::parse(path).map(Change::Delete),
            Some(value) => match Entry::parse(path, value) {
                Ok(entry) => entry.map(Change::Put),
                Err(KeyError::Foreign { source, .. }) if !is_vital(path) => {
                    self.foreign.insert(path.to_owned(), source.to_string());
                    None
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(change) = change {
            self.apply(revision, &change);
        }
        Ok(())
    }

    /// Takes over from an earlier reading of the same metadata what was moved away since then.
    pub(crate) fn continues(&mut self, before: &Self) {
        if before.generation() != self.generation() {
            return;
        }
        self.released = before.released.clone();
        for (broker, held) in &before.held {
            let now = self.held.get(broker);
            let gone =
                held.iter().filter(|id| self.partitions.contains_key(id) && !now.is_some_and(|now| now.contains(id)));
            let gone: Vec<_> = gone.map(|id| (*id, self.revision)).collect();
            self.released.0.entry(broker.clone()).or_default().extend(gone);
        }
        for (broker, released) in &mut self.released.0 {
            let now = self.held.get(broker);
            released.retain(|id, _| self.partitions.contains_key(id) && !now.is_some_and(|now| now.contains(id)));
        }
    }

    /// Notes that everything up to `revision` is in here.
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Keys under the prefix whose values are none of ours, each with what is wrong.
    pub(crate) fn foreign(&self) -> &BTreeMap<String, String> {
        &self.foreign
    }

    /// The sentinels that run; empty where there is but one, without an etcd.
    pub(crate) fn sentinels(&self) -> impl Iterator<Item = &SentinelRecord> {
        self.sentinels.values().map(|at| &at.record)
    }

    /// A sentinel that runs, and the revision that says so.
    pub(crate) fn sentinel(&self, id: &SentinelId) -> Option<(&SentinelRecord, Revision)> {
        self.sentinels.get(id).map(|at| (&at.record, at.revision))
    }

    /// The sentinel that leads, and the revision since which it does.
    pub(crate) fn leading_sentinel(&self) -> Option<(&SentinelRecord, Revision)> {
        self.leading.as_ref().map(|at| (&at.record, at.revision))
    }

    /// Takes over a change that revision `revision` has made.
    pub(crate) fn apply(&mut self, revision: Revision, change: &Change) {
        self.revision = self.revision.max(revision);
        match change {
            Change::Put(entry) => self.put(revision, entry.clone()),
            Change::Delete(key) => self.delete(key),
        }
    }

    fn put(&mut self, revision: Revision, entry: Entry) {
        match entry {
            Entry::Cluster(record) => self.cluster = Some(record),
            Entry::Topic(name, record) => {
                self.names.insert(record.id, name.clone());
                self.topics.insert(name, At { revision, record });
            }
            Entry::Partition(id, record) => {
                self.forget_replicas(id);
                let before = self.partitions.get(&id).map(|at| &at.record.replicas);
                for broker in before.into_iter().flatten().filter(|broker| !record.replicas.contains(broker)) {
                    self.released.0.entry(broker.clone()).or_default().insert(id, revision);
                }
                for broker in &record.replicas {
                    if let Some(released) = self.released.0.get_mut(broker) {
                        released.remove(&id);
                    }
                    self.held.entry(broker.clone()).or_default().insert(id);
                }
                self.partitions.insert(id, At { revision, record });
            }
            Entry::Broker(id, record) => {
                self.brokers.insert(id, At { revision, record });
            }
            Entry::Deleted(id, _) => {
                self.deleted.insert(id, revision);
                self.deletions.insert((revision, id));
            }
            Entry::Counter(counter, record) => {
                self.counters.insert(counter, At { revision, record });
            }
            Entry::Sentinel(id, record) => {
                self.sentinels.insert(id, At { revision, record });
            }
            Entry::LeadingSentinel(record) => self.leading = Some(At { revision, record }),
            Entry::Operation(..) | Entry::Ring(_) => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::Topic(name) => {
                if let Some(topic) = self.topics.remove(name) {
                    self.names.remove(&topic.record.id);
                }
            }
            Key::Partition(id) => {
                self.forget_replicas(*id);
                self.partitions.remove(id);
                self.released.0.values_mut().for_each(|released| _ = released.remove(id));
            }
            Key::Broker(id) => {
                self.released.0.remove(id);
                self.brokers.remove(id);
            }
            Key::Deleted(id) => {
                if let Some(revision) = self.deleted.remove(id) {
                    self.deletions.remove(&(revision, *id));
                }
            }
            Key::Counter(counter) => {
                self.counters.remove(counter);
            }
            Key::Cluster => self.cluster = None,
            Key::Sentinel(id) => {
                self.sentinels.remove(id);
            }
            Key::LeadingSentinel => self.leading = None,
            Key::Operation(_) | Key::Ring => {}
        }
    }

    fn forget_replicas(&mut self, id: PartitionId) {
        for broker in self.partitions.get(&id).into_iter().flat_map(|at| &at.record.replicas) {
            if let Some(held) = self.held.get_mut(broker) {
                held.remove(&id);
                if held.is_empty() {
                    self.held.remove(broker);
                }
            }
        }
    }

    /// The newest revision that is in here.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The cluster, once it is made.
    pub(crate) fn cluster(&self) -> Option<&ClusterRecord> {
        self.cluster.as_ref()
    }

    /// Rises when metadata is restored: revisions then begin anew.
    pub(crate) fn generation(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.generation)
    }

    /// A topic.
    pub(crate) fn topic(&self, name: &TopicName) -> Option<&TopicRecord> {
        self.topics.get(name).map(|at| &at.record)
    }

    /// All topics, by name.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (&TopicName, &TopicRecord)> {
        self.topics.iter().map(|(name, at)| (name, &at.record))
    }

    /// The topic that has this id now.
    pub(crate) fn topic_name(&self, id: TopicId) -> Option<&TopicName> {
        self.names.get(&id)
    }

    /// A topic's partitions, by index.
    pub(crate) fn partitions(&self, topic: TopicId) -> impl Iterator<Item = (PartitionId, &PartitionRecord)> {
        let id = |index| PartitionId { topic, index: PartitionIndex(index) };
        self.partitions.range(id(0)..=id(u32::MAX)).map(|(&id, at)| (id, &at.record))
    }

    /// Partitions, by id, whose topic does not exist any more.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied().filter(|id| self.deleted.contains_key(&id.topic))
    }

    /// Whether every partition of the topic is placed: before, nobody may see the topic.
    pub(crate) fn is_complete(&self, topic: &TopicRecord) -> bool {
        self.partitions(topic.id).count() >= topic.partitions as usize
    }

    /// A partition.
    pub(crate) fn partition(&self, id: PartitionId) -> Option<&PartitionRecord> {
        self.partitions.get(&id).map(|at| &at.record)
    }

    /// A broker.
    pub(crate) fn broker(&self, id: &BrokerId) -> Option<&BrokerRecord> {
        self.brokers.get(id).map(|at| &at.record)
    }

    /// All brokers, by id.
    pub(crate) fn brokers(&self) -> impl Iterator<Item = (&BrokerId, &BrokerRecord)> {
        self.brokers.iter().map(|(id, at)| (id, &at.record))
    }

    /// Live brokers as elections see them.
    pub(crate) fn live(&self) -> BTreeMap<BrokerId, LiveBroker> {
        let live = self.brokers().filter(|(_, record)| record.state == BrokerState::Live);
        live.map(|(id, record)| (id.clone(), live_broker(record))).collect()
    }

    /// Whether the broker is to hold the partition, or hears that it is to give it up.
    pub(crate) fn concerns(&self, broker: &BrokerId, id: PartitionId) -> bool {
        self.held.get(broker).is_some_and(|held| held.contains(&id))
            || self.released.0.get(broker).is_some_and(|released| released.contains_key(&id))
    }

    /// The partitions that the broker is to hold.
    pub(crate) fn held_by(&self, broker: &BrokerId) -> impl Iterator<Item = PartitionId> {
        self.held.get(broker).into_iter().flatten().copied()
    }

    /// The ring of the brokers that may be given partitions now.
    pub(crate) fn ring(&self) -> Ring {
        let open = self.brokers().filter(|(_, record)| record.state == BrokerState::Live && record.leaving.is_none());
        let member = |record: &BrokerRecord| Member { weight: record.weight, rack: record.rack.clone() };
        Ring::new(open.map(|(id, record)| (id.clone(), member(record))).collect())
    }

    /// Everybody who is on the ring, live or not.
    pub(crate) fn ring_members(&self) -> BTreeMap<BrokerId, RingMember> {
        let member = |record: &BrokerRecord| RingMember { weight: record.weight, rack: record.rack.clone() };
        self.brokers().map(|(id, record)| (id.clone(), member(record))).collect()
    }

    /// Live brokers, each with the number of partitions that it is to hold.
    pub(crate) fn live_load(&self) -> BTreeMap<BrokerId, usize> {
        let live = self.brokers().filter(|(_, record)| record.state == BrokerState::Live);
        live.map(|(id, _)| (id.clone(), self.held.get(id).map_or(0, BTreeSet::len))).collect()
    }

    /// Brokers, each with the number of partitions that it leads by preference.
    pub(crate) fn preferred_load(&self) -> BTreeMap<BrokerId, usize> {
        let mut led = BTreeMap::new();
        for first in self.partitions.values().filter_map(|at| at.record.replicas.first()) {
            *led.entry(first.clone()).or_default() += 1;
        }
        led
    }

    /// How many brokers are there to stay, whether they are live now or not.
    pub(crate) fn open_brokers(&self) -> usize {
        self.brokers().filter(|(_, record)| record.leaving.is_none()).count()
    }

    /// How many replicas a partition can have now that wants so many.
    pub(crate) fn possible_replicas(&self, wanted: u32) -> usize {
        let mut open = 0;
        for (_, record) in self.brokers().filter(|(_, record)| record.state == BrokerState::Live) {
            if !record.replicates {
                // It could neither follow nor feed others.
                return 1;
            }
            open += usize::from(record.leaving.is_none());
        }
        (wanted as usize).min(open).max(1)
    }

    /// All partitions, by id.
    pub(crate) fn all_partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionRecord)> {
        self.partitions.iter().map(|(&id, at)| (id, &at.record))
    }

    /// The revision that wrote a partition's key; 0 for none.
    pub(crate) fn partition_revision(&self, id: PartitionId) -> Revision {
        self.partitions.get(&id).map_or(Revision(0), |at| at.revision)
    }

    /// Whether the topic of this id was deleted on purpose.
    pub(crate) fn is_deleted(&self, topic: TopicId) -> bool {
        self.deleted.contains_key(&topic)
    }

    /// Topics deleted after revision `since`.
    pub(crate) fn deleted_since(&self, since: Revision) -> Vec<TopicId> {
        let first = (Revision(since.0.saturating_add(1)), TopicId(0));
        self.deletions.range(first..).map(|&(_, topic)| topic).collect()
    }

    /// The next number of a counter, and the revision that wrote it (0: never written).
    pub(crate) fn counter(&self, counter: Counter) -> (u64, Revision) {
        match self.counters.get(&counter) {
            Some(at) => (at.record.next, at.revision),
            None => (CounterRecord::default().next, Revision(0)),
        }
    }

    /// What this start of a broker has to lead or to follow, as far as it changed after revision `since`, and what was moved
    /// away from it since then: of that it is no replica.
    pub(crate) fn assignments(&self, broker: &BrokerId, incarnation: Incarnation, since: Revision) -> Vec<Assignment> {
        let Some(me) = self.broker(broker) else { return Vec::new() };
        let assignment = |id: PartitionId, released: Option<Revision>| {
            let partition = self.partitions.get(&id)?;
            let name = self.names.get(&id.topic)?;
            let topic = self.topics.get(name)?;
            let record = &partition.record;
            let leader = self.leader(record).ok();
            let role = match leader {
                Some(leads) if leads != broker => AssignedRole::Follower,
                Some(_) if record.leader.as_ref().is_some_and(|leader| leader.incarnation == incarnation) => {
                    AssignedRole::Leader
                }
                Some(_) | None => AssignedRole::Waiting,
            };
            let mut changed = released.unwrap_or_else(|| partition.revision.max(topic.revision));
            let mut replicas = Vec::new();
            if me.replicates {
                for replica in &record.replicas {
                    let at = self.brokers.get(replica);
                    if released.is_none() {
                        changed = changed.max(at.map_or(Revision(0), |at| at.revision));
                    }
                    replicas.push((replica.clone(), at.map(|at| at.record.clone())));
                }
            } else if role != AssignedRole::Leader {
                return None;
            }
            (changed > since).then(|| Assignment {
                partition: id,
                topic: name.clone(),
                config: topic.record.config.clone(),
                partitions: topic.record.partitions,
                role,
                record: record.clone(),
                leader: leader.cloned(),
                replicas,
            })
        };
        let held = self.held_by(broker).filter_map(|id| assignment(id, None));
        let released = self.released.0.get(broker).into_iter().flatten();
        held.chain(released.filter_map(|(&id, &at)| assignment(id, Some(at)))).collect()
    }

    /// Who leads the partition now.
    ///
    /// # Errors
    /// [`Offline`], naming who is awaited.
    pub(crate) fn leader<'a>(&self, partition: &'a PartitionRecord) -> Result<&'a BrokerId, Offline> {
        if let Some(leader) = &partition.leader
            && let Some(broker) = self.broker(&leader.broker)
            && broker.state == BrokerState::Live
            && broker.incarnation == leader.incarnation
        {
            return Ok(&leader.broker);
        }
        if partition.doubt.is_some() {
            return Err(Offline::InDoubt(partition_state::state(partition).awaited()));
        }
        let mut awaited = partition.isr.iter().chain(&partition.eligible);
        let Some(member) = awaited.next() else { return Err(Offline::NoReplica) };
        let broker = member.broker.clone();
        let known = self.broker(&broker);
        if known.is_some_and(|known| known.state == BrokerState::Live && known.storage == member.storage) {
            return Err(Offline::Election(broker));
        }
        if awaited.next().is_some() {
            let members = partition.isr.iter().chain(&partition.eligible);
            return Err(Offline::Any(members.map(|member| member.broker.clone()).collect()));
        }
        let what = if partition.replicas.len() == 1 { "the only replica" } else { "the last in-sync replica" };
        Err(match known {
            Some(known) if known.state == BrokerState::Left => Offline::Left { broker, what },
            Some(known) if known.state == BrokerState::Live => {
                Offline::OtherDisk { broker, what, wanted: member.storage, found: known.storage }
            }
            _ => Offline::Down { broker, what },
        })
    }
}

/// A registered broker as elections see it.
pub(crate) fn live_broker(record: &BrokerRecord) -> LiveBroker {
    LiveBroker {
        incarnation: record.incarnation,
        storage: record.storage,
        may_lead: !record.hands_over && !record.hangs && record.leaving.is_none(),
    }
}

/// Whether a foreign value of this key stops everything: a wrong guess would give numbers a second time.
fn is_vital(path: &str) -> bool {
    matches!(Key::parse(path), Some(Key::Cluster | Key::Counter(_)))
}

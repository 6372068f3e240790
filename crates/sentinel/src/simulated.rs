//! A sentinel's decisions without its shell, for the simulator: the catalog and the plans that run in earnest, over one
//! topic of one partition.
//!
//! What is left out of it is what the simulator makes of its own: who leads, what the store does, who lives.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
};

use goulette_meta::{
    Change, Entry, Key,
    keys::{BrokerRecord, BrokerState, ClusterRecord, Counter, CounterRecord, OperationId, TopicRecord},
};
use goulette_replication::{
    PartitionState,
    controller::{self, Proposal},
};
use goulette_types::{
    BrokerId, ClusterId, Incarnation, LeaderEpoch, Offset, PartitionEpoch, PartitionId, PartitionIndex, Revision,
    StorageId, Timestamp, TopicId, TopicName,
};

use crate::{
    catalog::Catalog,
    partition_state,
    plan::{
        self, Step,
        broker::{Holding, Registration, Yields},
        topic::Alteration,
    },
    topic_config::MIN_INSYNC_REPLICAS,
};

const TOPIC: TopicId = TopicId(1);
const PARTITION: PartitionId = PartitionId { topic: TOPIC, index: PartitionIndex(0) };

/// All metadata, as one read of the store gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata(Catalog);

/// One transaction; the leadership that guards it as well is the simulator's.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction(Step);

/// What a broker says of the partition when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The highest epochs that it has seen.
    pub seen: (LeaderEpoch, PartitionEpoch),
    /// The epoch of its last batch.
    pub log_epoch: LeaderEpoch,
    /// Behind its last durable record.
    pub end: Offset,
    /// The version of the doubt that this answers: what is said here stays true.
    pub answers: Option<(LeaderEpoch, PartitionEpoch)>,
}

impl Held {
    fn holding(&self) -> Holding {
        let Held { seen: (leader_epoch, partition_epoch), log_epoch, end, answers } = *self;
        Holding { leader_epoch, partition_epoch, log_epoch, end, answers }
    }
}

/// What a leading sentinel is asked to write, or asks itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A broker is here.
    Register {
        /// Its name.
        broker: BrokerId,
        /// This start of it.
        incarnation: Incarnation,
        /// Its disk.
        storage: StorageId,
        /// What it has stored and seen of the partition.
        held: Held,
    },
    /// A broker does not answer.
    MarkDown {
        /// Its name.
        broker: BrokerId,
        /// The start of it that was known.
        incarnation: Incarnation,
    },
    /// A broker has stopped.
    Unregister {
        /// Its name.
        broker: BrokerId,
        /// The start of it that has ended.
        incarnation: Incarnation,
    },
    /// A broker wants to give its leadership away.
    HandOver {
        /// Its name.
        broker: BrokerId,
        /// This start of it.
        incarnation: Incarnation,
    },
    /// A leader proposes in-sync replicas.
    Propose(Proposal),
    /// What the sentinel does by itself.
    Tend,
    /// Other replicas; none: the order is taken back.
    Reassign(Vec<BrokerId>),
    /// Another minimum of in-sync replicas; `None`: the default.
    SetMinimum(Option<u32>),
    /// An unclean election.
    ElectUnclean(BrokerId),
}

impl Metadata {
    /// A cluster with one partition that nobody leads yet.
    #[must_use]
    pub fn new(partition: PartitionState) -> Self {
        let (now, operation) = (Timestamp(0), OperationId(1));
        let replication_factor = partition.replicas.len() as u32;
        let config = partition.min_wanted.map(|minimum| (MIN_INSYNC_REPLICAS.to_owned(), minimum.to_string()));
        let cluster =
            ClusterRecord { cluster_id: ClusterId(1), replication_factor, generation: 1, created_at: now, operation };
        let topic = TopicRecord {
            id: TOPIC,
            partitions: 1,
            replication_factor,
            config: config.into_iter().collect(),
            created_at: now,
            request_id: None,
            operation,
        };
        let mut metadata = Self(Catalog::default());
        metadata.put(Revision(1), Entry::Cluster(cluster));
        metadata.put(Revision(1), Entry::Counter(Counter::Operation, CounterRecord { next: 2 }));
        metadata.put(Revision(1), Entry::Topic(name(), topic));
        metadata.put(Revision(1), Entry::Partition(PARTITION, partition_state::record(partition, operation)));
        metadata
    }

    fn put(&mut self, revision: Revision, entry: Entry) {
        self.0.apply(revision, &Change::Put(entry));
        self.0.advance(revision);
    }

    /// Rises when a backup is taken over.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation()
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionState {
        let record = self.0.partition(PARTITION);
        record.map_or_else(|| PartitionState::new(Vec::new(), None), partition_state::state)
    }

    /// Whether the broker is live in this start of it.
    #[must_use]
    pub fn is_live(&self, broker: &BrokerId, incarnation: Incarnation) -> bool {
        self.known(broker) == Some((incarnation, true))
    }

    /// The start of a broker that registered last, and whether it is live.
    #[must_use]
    pub fn known(&self, broker: &BrokerId) -> Option<(Incarnation, bool)> {
        self.0.broker(broker).map(|known| (known.incarnation, known.state == BrokerState::Live))
    }

    /// The next transaction that a request takes; `None` once nothing is left to do, or if it is refused.
    ///
    /// `crowded`: so many other partitions are concerned that this one has no room in the transaction that changes a broker,
    /// and its turn comes in a later one.
    #[must_use]
    pub fn next(&self, now: Timestamp, request: &Request, crowded: bool) -> Option<Transaction> {
        let mut step = self.plan(now, request)?;
        let is_of_a_broker = step.changes.iter().any(|change| matches!(change, Change::Put(Entry::Broker(..))));
        if crowded && is_of_a_broker {
            step.changes.retain(|change| !matches!(change, Change::Put(Entry::Partition(..))));
            step.guards.retain(|(key, _)| !matches!(key, Key::Partition(_)));
        }
        Some(Transaction(step))
    }

    fn plan(&self, now: Timestamp, request: &Request) -> Option<Step> {
        let catalog = &self.0;
        match request {
            Request::Register { broker, incarnation, storage, held } => {
                let registration = Registration {
                    broker: broker.clone(),
                    address: format!("{broker}:1"),
                    incarnation: *incarnation,
                    storage: *storage,
                    release: String::new(),
                    weight: 1,
                    rack: None,
                    replicates: true,
                    held: HashMap::from([(PARTITION, held.holding())]),
                    producer_id_max: 0,
                };
                plan::broker::register(catalog, now, &registration).ok()?
            }
            Request::MarkDown { broker, incarnation } => plan::broker::mark_down(catalog, now, broker, *incarnation),
            Request::Unregister { broker, incarnation } => {
                plan::broker::unregister(catalog, now, broker, *incarnation).ok()?
            }
            Request::HandOver { broker, incarnation } => {
                plan::broker::hand_over(catalog, now, broker, *incarnation, Yields::Stops).ok()?
            }
            Request::Propose(proposal) => {
                let proposals = [(PARTITION, proposal.clone())];
                plan::partition::propose(catalog, now, &proposal.leader, &proposals).0
            }
            Request::Tend => plan::tend::next(catalog, now),
            Request::Reassign(to) => plan::partition::reassign(catalog, now, PARTITION, to).ok()?,
            Request::SetMinimum(minimum) => {
                let set = minimum.map(|minimum| (MIN_INSYNC_REPLICAS.to_owned(), minimum.to_string()));
                let unset = if set.is_some() { Vec::new() } else { vec![MIN_INSYNC_REPLICAS.to_owned()] };
                let alteration = Alteration { set: set.into_iter().collect(), unset, ..Alteration::default() };
                let altered = plan::topic::alter(catalog, now, &name(), &alteration).ok()?;
                altered.or_else(|| plan::topic::follow_minimum(catalog, now, &name()).ok()?)
            }
            Request::ElectUnclean(broker) => plan::partition::elect(catalog, now, PARTITION, Some(broker)).ok()?,
        }
    }

    /// Writes a transaction as the store does, if everything that guards it still stands.
    pub fn write(&mut self, transaction: &Transaction) -> bool {
        let stands = |(key, revision): &(Key, Revision)| match key {
            Key::Counter(counter) => self.0.counter(*counter).1 == *revision,
            Key::Partition(id) => self.0.partition_revision(*id) == *revision,
            _ => false,
        };
        if !transaction.0.guards.iter().all(stands) {
            return false;
        }
        let revision = Revision(self.0.revision().0 + 1);
        transaction.0.changes.iter().for_each(|change| self.0.apply(revision, change));
        self.0.advance(revision);
        true
    }

    /// What a backup looks like once it is imported where these metadata were: numbers go on, nobody is live, and the
    /// stored in-sync replicas are in doubt.
    #[must_use]
    pub fn restored(&self, backup: &Self) -> Self {
        let revision = Revision(self.0.revision().0 + 1_000);
        let mut restored = backup.clone();
        if let (Some(ours), Some(theirs)) = (self.0.cluster(), backup.0.cluster()) {
            let cluster = ClusterRecord { generation: ours.generation + 1, ..theirs.clone() };
            restored.put(revision, Entry::Cluster(cluster));
        }
        let next = self.0.counter(Counter::Operation).0.max(backup.0.counter(Counter::Operation).0);
        restored.put(revision, Entry::Counter(Counter::Operation, CounterRecord { next }));
        for (id, known) in backup.0.brokers() {
            let state = if known.state == BrokerState::Live { BrokerState::Down } else { known.state };
            restored.put(revision, Entry::Broker(id.clone(), BrokerRecord { state, ..known.clone() }));
        }
        let doubted = controller::distrust(&backup.partition());
        restored.put(revision, Entry::Partition(PARTITION, partition_state::record(doubted, OperationId(next))));
        restored
    }
}

fn name() -> TopicName {
    "sim".parse().unwrap_or_else(|_| unreachable!("a topic's name"))
}

impl Eq for Metadata {}

impl Hash for Metadata {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.revision().0, self.partition()).hash(state);
    }
}

impl Eq for Transaction {}

impl Hash for Transaction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        format!("{:?}", self.0).hash(state);
    }
}

//! What the catalog is asked, by name and by id.

use std::collections::{BTreeMap, BTreeSet};

use goulette_meta::keys::{
    BrokerRecord, BrokerState, ClusterRecord, Counter, CounterRecord, PartitionRecord, RingMember, SentinelRecord,
    TopicRecord,
};
use goulette_replication::controller::LiveBroker;
use goulette_types::{BrokerId, PartitionId, PartitionIndex, Revision, SentinelId, TopicId, TopicName};

use super::Catalog;
use crate::placement::{Member, Ring};

impl Catalog {
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
}

/// A registered broker as elections see it.
pub(crate) fn live_broker(record: &BrokerRecord) -> LiveBroker {
    LiveBroker {
        incarnation: record.incarnation,
        storage: record.storage,
        may_lead: !record.hands_over && !record.hangs && record.leaving.is_none(),
    }
}

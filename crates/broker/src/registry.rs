//! The partitions that this broker holds: by id for our own clients, by name for the unary calls.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use goulette_types::{PartitionId, PartitionIndex, TopicId, TopicName};

use crate::{partition::Partition, replication::Hub};

/// All partitions held, led or not.
#[derive(Default)]
pub(crate) struct Registry {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    by_id: HashMap<PartitionId, Arc<Partition>>,
    /// A name that is created anew has another id, and the older topic may still lie here: by id too.
    by_name: HashMap<TopicName, BTreeMap<(TopicId, PartitionIndex), Arc<Partition>>>,
}

impl Registry {
    pub(crate) fn get(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.read(|tables| tables.by_id.get(&id).cloned())
    }

    /// The partitions of the topic of this name that are led here, by index.
    pub(crate) fn led(&self, topic: &TopicName) -> Vec<Arc<Partition>> {
        let held: Vec<_> =
            self.read(|tables| tables.by_name.get(topic).into_iter().flat_map(BTreeMap::values).cloned().collect());
        held.into_iter().filter(|partition| partition.led().is_ok()).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Partition>> {
        self.read(|tables| tables.by_id.values().cloned().collect())
    }

    /// Adds a partition, unless it is there; returns the one that is there.
    pub(crate) fn add(&self, log: Arc<goulette_log::Partition>, hub: &Arc<Hub>) -> Arc<Partition> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let id = log.id();
        if let Some(known) = tables.by_id.get(&id) {
            return Arc::clone(known);
        }
        let partition = Partition::new(log, hub);
        tables.by_id.insert(id, Arc::clone(&partition));
        let named = tables.by_name.entry(partition.topic().clone()).or_default();
        named.insert((id.topic, id.index), Arc::clone(&partition));
        partition
    }

    /// Forgets a topic's partitions and returns them.
    pub(crate) fn remove(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let removed: Vec<_> = tables.by_id.extract_if(|id, _| id.topic == topic).map(|(_, gone)| gone).collect();
        for partition in &removed {
            if let Some(named) = tables.by_name.get_mut(partition.topic()) {
                named.remove(&(topic, partition.id().index));
                if named.is_empty() {
                    tables.by_name.remove(partition.topic());
                }
            }
        }
        removed
    }

    fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }
}

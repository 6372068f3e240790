//! The metadata store: linearizable, with transactions that compare, and with outcomes that nobody learns.

use std::collections::BTreeMap;

use goulette_replication::{
    PartitionState,
    controller::{Live, LiveBroker},
};
use goulette_types::{BrokerId, Incarnation, StorageId};

use crate::time::{Time, seconds};

/// A broker's registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Registered {
    pub(crate) broker: LiveBroker,
    pub(crate) live: bool,
}

/// All metadata, as one read gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Metadata {
    /// Rises with every write; each is guarded by it, as the real ones are by the operation counter.
    pub(crate) version: u64,
    /// Set by a restored backup: what it says of the partition is not believed.
    pub(crate) generation: u64,
    pub(crate) partition: PartitionState,
    pub(crate) brokers: BTreeMap<BrokerId, Registered>,
}

impl Live for Metadata {
    fn live(&self, broker: &BrokerId) -> Option<&LiveBroker> {
        self.brokers.get(broker).filter(|registered| registered.live).map(|registered| &registered.broker)
    }
}

impl Metadata {
    /// Whether the broker is live in this start of it.
    pub(crate) fn is_live(&self, broker: &BrokerId, incarnation: Incarnation, storage: StorageId) -> bool {
        self.live(broker).is_some_and(|live| live.incarnation == incarnation && live.storage == storage)
    }
}

/// The store, with the lease of the leader sentinel.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) metadata: Metadata,
    /// The leader sentinel and its term; the term is the key's create revision.
    pub(crate) leader: Option<(u8, u64)>,
    lease_until: Time,
    terms: u64,
}

/// How long a sentinel leads without renewing its lease.
const LEASE: Time = seconds(3);

impl Store {
    pub(crate) fn new(metadata: Metadata) -> Self {
        Self { metadata, leader: None, lease_until: Time(0), terms: 0 }
    }

    /// Renews the lease, or takes it if nobody holds it; the term held by this sentinel now, if any.
    pub(crate) fn campaign(&mut self, now: Time, sentinel: u8) -> Option<u64> {
        if now > self.lease_until {
            self.leader = None;
        }
        match self.leader {
            Some((leader, _)) if leader != sentinel => return None,
            Some(_) => {}
            None => {
                self.terms += 1;
                self.leader = Some((sentinel, self.terms));
            }
        }
        self.lease_until = now + LEASE;
        self.leader.map(|(_, term)| term)
    }

    /// Writes if nobody wrote since `next` was read, and if the sentinel still leads in `term`.
    pub(crate) fn write(&mut self, sentinel: u8, term: u64, mut next: Metadata) -> bool {
        let guarded = self.leader == Some((sentinel, term)) && self.metadata.version == next.version;
        if guarded {
            next.version += 1;
            self.metadata = next;
        }
        guarded
    }
}

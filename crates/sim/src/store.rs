//! The metadata store: linearizable, with transactions that compare, and with outcomes that nobody learns.

use goulette_sentinel::simulated::{Metadata, Transaction};

use crate::time::{Time, seconds};

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

    /// Writes if what guards the transaction still stands, and if the sentinel still leads in `term`.
    pub(crate) fn write(&mut self, sentinel: u8, term: u64, transaction: &Transaction) -> bool {
        self.leader == Some((sentinel, term)) && self.metadata.write(transaction)
    }
}

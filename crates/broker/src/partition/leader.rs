//! Whether this start of the broker leads a partition, and in which epoch. Only decides.

use goulette_types::{LeaderEpoch, PartitionEpoch};

/// One assignment of a partition. Ordered by leader epoch, then partition epoch: a greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term {
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) partition_epoch: PartitionEpoch,
}

/// What became of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The partition is led in a new epoch.
    Leads,
    /// It is led already, in this epoch or a later one.
    Known,
    /// The log holds batches of this or a later epoch that were not written in the leadership assigned: either the
    /// metadata has gone back, or the assignment was meant for an earlier start of this broker.
    Stale {
        /// The highest epoch stored.
        stored: LeaderEpoch,
    },
}

/// The leadership of one partition by this incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// The highest epoch that the log held when the partition was opened; none if it was empty.
    stored: Option<LeaderEpoch>,
    /// The newest assignment seen in this incarnation. Kept after a resignation, so that an old one does not return.
    newest: Option<Term>,
    leads: bool,
}

impl Leadership {
    pub(crate) fn new(stored: Option<LeaderEpoch>) -> Self {
        Self { stored, newest: None, leads: false }
    }

    /// Takes an assignment, if it is newer than all that came before.
    pub(crate) fn assign(&mut self, term: Term) -> Applied {
        if let Some(stored) = self.stored.filter(|&stored| term.leader_epoch <= stored) {
            return Applied::Stale { stored };
        }
        if self.newest.is_some_and(|newest| term <= newest) {
            return Applied::Known;
        }
        self.newest = Some(term);
        self.leads = true;
        Applied::Leads
    }

    /// Leads no longer, until a newer assignment comes.
    pub(crate) fn resign(&mut self) {
        self.leads = false;
    }

    /// The epoch in which the partition is led.
    pub(crate) fn epoch(&self) -> Option<LeaderEpoch> {
        self.newest.filter(|_| self.leads).map(|term| term.leader_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(leader: u32, partition: u64) -> Term {
        Term { leader_epoch: LeaderEpoch(leader), partition_epoch: PartitionEpoch(partition) }
    }

    #[test]
    fn a_restarted_broker_leads_nothing_until_it_holds_a_new_epoch() {
        let mut leadership = Leadership::new(Some(LeaderEpoch(4)));
        assert_eq!(leadership.epoch(), None);
        assert_eq!(leadership.assign(term(4, 9)), Applied::Stale { stored: LeaderEpoch(4) });
        assert_eq!(leadership.epoch(), None);
        assert_eq!(leadership.assign(term(5, 9)), Applied::Leads);
        assert_eq!(leadership.epoch(), Some(LeaderEpoch(5)));
    }

    #[test]
    fn an_assignment_that_is_not_newer_changes_nothing() {
        let mut leadership = Leadership::new(None);
        assert_eq!(leadership.assign(term(2, 2)), Applied::Leads);
        for old in [term(2, 2), term(2, 1), term(1, 7)] {
            assert_eq!(leadership.assign(old), Applied::Known);
        }
        assert_eq!(leadership.epoch(), Some(LeaderEpoch(2)));
        assert_eq!(leadership.assign(term(2, 3)), Applied::Leads);
    }

    #[test]
    fn a_leadership_that_was_resigned_does_not_come_back_by_an_old_assignment() {
        let mut leadership = Leadership::new(None);
        leadership.assign(term(2, 2));
        leadership.resign();
        assert_eq!(leadership.assign(term(2, 2)), Applied::Known);
        assert_eq!(leadership.epoch(), None);
        assert_eq!(leadership.assign(term(3, 3)), Applied::Leads);
        assert_eq!(leadership.epoch(), Some(LeaderEpoch(3)));
    }
}

//! What a reader of a partition waits on.

use goulette_types::{LeaderEpoch, Offset};

use super::Partition;
use crate::error::RequestError;

/// What a reader of a partition waits on. One change wakes all who wait, once per group of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// All below is committed, as far as this broker knows.
    pub(crate) committed: Offset,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Another leads, or nobody.
    Idle,
    Leads(LeaderEpoch),
    Deleted,
}

impl View {
    /// Not led here.
    pub(super) fn new(committed: Offset) -> Self {
        Self { committed, role: Role::Idle }
    }

    /// The epoch in which `partition`, whose view this is, is led here.
    ///
    /// # Errors
    /// Not led here, or deleted.
    pub(crate) fn led(&self, partition: &Partition) -> Result<LeaderEpoch, RequestError> {
        match self.role {
            Role::Leads(epoch) => Ok(epoch),
            Role::Idle => Err(RequestError::NotLeader { partition: partition.to_string() }),
            Role::Deleted => Err(RequestError::Deleted { partition: partition.to_string() }),
        }
    }

    /// Says whether anything changed.
    pub(super) fn show(&mut self, leads: Option<LeaderEpoch>) -> bool {
        let role = leads.map_or(Role::Idle, Role::Leads);
        let changes = self.role != role && self.role != Role::Deleted;
        if changes {
            self.role = role;
        }
        changes
    }

    /// Says whether anything changed.
    pub(super) fn raise(&mut self, committed: Offset) -> bool {
        let rises = self.committed < committed;
        if rises {
            self.committed = committed;
        }
        rises
    }

    pub(super) fn delete(&mut self) {
        self.role = Role::Deleted;
    }
}

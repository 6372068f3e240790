//! The groups' positions as a leader hands them on: each change has a number, and is told to a committer when every in-sync
//! replica has it. So a position outlives its leader as a record does.

use std::collections::{BTreeMap, VecDeque};

use goulette_proto::pb;
use goulette_types::GroupName;
use tokio::sync::oneshot;

use crate::error::RequestError;

pub(super) type Tell = oneshot::Sender<Result<(), RequestError>>;

/// Positions to hand on, and the version that they make up for.
pub(crate) struct Snapshot {
    pub(crate) positions: Vec<pb::Position>,
    pub(crate) version: u64,
}

/// The positions of one leadership.
#[derive(Default)]
pub(super) struct Positions {
    /// Rises with each position that is stored here. 1 is what the leadership began with.
    version: u64,
    /// The version in which each group's position changed last.
    changed: BTreeMap<GroupName, u64>,
    waiters: VecDeque<(u64, Tell)>,
}

impl Positions {
    /// A leadership begins with what the log has.
    pub(super) fn begin(&mut self, log: &goulette_log::Partition) {
        let changed = log.positions().into_iter().map(|(group, _)| (group, 1)).collect();
        *self = Self { version: 1, changed, waiters: VecDeque::new() };
    }

    /// The leadership is over: who waits hears of it by the end of the channel.
    pub(super) fn end(&mut self) {
        self.waiters.clear();
    }

    /// A position is durable here.
    pub(super) fn stored(&mut self, group: GroupName, tell: Tell) {
        self.version += 1;
        self.changed.insert(group, self.version);
        self.waiters.push_back((self.version, tell));
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// The highest version that was told as stored to its committer.
    pub(super) fn told(&self) -> u64 {
        self.waiters.front().map_or(self.version, |(version, _)| version - 1)
    }

    /// Every in-sync replica has all up to a version.
    pub(super) fn reached(&mut self, held: u64) {
        while let Some((_, tell)) = self.waiters.pop_front_if(|(version, _)| *version <= held) {
            // Whoever asked may have gone away.
            let _ = tell.send(Ok(()));
        }
    }

    /// All positions that changed after a version.
    pub(super) fn since(&self, since: u64, log: &goulette_log::Partition) -> Snapshot {
        let changed = self.changed.iter().filter(|&(_, &version)| version > since);
        let positions = changed.filter_map(|(group, _)| {
            let offset = log.position(group)?.0;
            Some(pb::Position { group: group.to_string(), offset })
        });
        Snapshot {
            positions: if since < self.version { positions.collect() } else { Vec::new() },
            version: self.version,
        }
    }
}

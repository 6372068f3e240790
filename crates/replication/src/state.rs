//! The metadata of one partition: who holds it, who is in sync, who leads.

use goulette_types::{BrokerId, Incarnation, LeaderEpoch, Offset, PartitionEpoch, StorageId};

/// A broker with one particular disk: the same broker with another one holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The broker.
    pub broker: BrokerId,
    /// Its disk.
    pub storage: StorageId,
}

/// One start of one broker. The broker's next start leads nothing until it is elected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderId {
    /// The broker.
    pub broker: BrokerId,
    /// Its start.
    pub incarnation: Incarnation,
}

/// Where a log stands: the epoch of its last batch, and its end. Ordered by epoch, then end: of two replicas, the
/// greater one holds at least as much of what was ever committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogEnd {
    /// The epoch of the last batch; 0 for a log without batches.
    pub epoch: LeaderEpoch,
    /// The first unwritten offset.
    pub end: Offset,
}

/// A reassignment under way: `replicas` is the union of both lists until every target member is in sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// The replicas before; a cancelled move returns to them.
    pub from: Vec<BrokerId>,
    /// The replicas wanted, the preferred leader first.
    pub to: Vec<BrokerId>,
}

/// The stored in-sync replicas are not believed: a replica has seen a later state than the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Doubt {
    /// The highest leader epoch that any replica has seen.
    pub leader_epoch: LeaderEpoch,
    /// The highest partition epoch that any replica has seen.
    pub partition_epoch: PartitionEpoch,
    /// What the replicas' logs hold; at most one report a broker, the newest.
    pub reports: Vec<(Member, LogEnd)>,
}

/// The metadata of one partition, as the store's key holds it.
///
/// Invariants: `isr` is never empty and has at most one entry a broker; its members and the leader are replicas;
/// `eligible` is empty while `isr` has `min_insync` members or more; both epochs only rise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartitionState {
    /// The brokers that are to hold it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// The members that count for commitment: each holds all that is committed.
    pub isr: Vec<Member>,
    /// Members that left the ISR while it was below the minimum: each still holds all that is committed, because
    /// nothing commits below the minimum. One of them may lead if no ISR member is live.
    pub eligible: Vec<Member>,
    /// Who leads; `None` after an election that found nobody.
    pub leader: Option<LeaderId>,
    /// Rises with each leadership.
    pub leader_epoch: LeaderEpoch,
    /// Rises with each change of this state.
    pub partition_epoch: PartitionEpoch,
    /// The minimum in force: the ISR commits only with this many members.
    pub min_insync: u32,
    /// The minimum wanted; `None` is the majority of the replicas. See [`wanted_minimum`](Self::wanted_minimum).
    pub min_wanted: Option<u32>,
    /// The epoch begun by the last unclean election: replicas whose logs are older may be cut below their `committed`.
    pub unclean: Option<LeaderEpoch>,
    /// A reassignment under way.
    pub moving: Option<Move>,
    /// Set while the stored ISR is not believed; nobody leads then.
    pub doubt: Option<Doubt>,
}

impl Doubt {
    /// What tells one doubt from another; a replica that has seen more does not answer it.
    pub fn version(&self) -> (LeaderEpoch, PartitionEpoch) {
        (self.leader_epoch, self.partition_epoch)
    }
}

impl PartitionState {
    /// A new partition without a leader, all of whose `members` are in sync (they are empty); the first is preferred.
    ///
    /// # Panics
    /// Without members.
    pub fn new(members: Vec<Member>, min_wanted: Option<u32>) -> Self {
        assert!(!members.is_empty(), "a partition has a replica");
        let mut state = Self {
            replicas: members.iter().map(|member| member.broker.clone()).collect(),
            isr: members,
            eligible: Vec::new(),
            leader: None,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            min_insync: 1,
            min_wanted,
            unclean: None,
            moving: None,
            doubt: None,
        };
        state.min_insync = state.wanted_minimum();
        state
    }

    /// What orders two states of one partition: a greater one is newer.
    pub fn version(&self) -> (LeaderEpoch, PartitionEpoch) {
        (self.leader_epoch, self.partition_epoch)
    }

    /// The minimum that is wanted: the fixed one, or the majority of the replicas. During a move the smaller list counts.
    pub fn wanted_minimum(&self) -> u32 {
        let replicas = match &self.moving {
            Some(moving) => moving.from.len().min(moving.to.len()),
            None => self.replicas.len(),
        };
        self.min_wanted.unwrap_or(replicas as u32 / 2 + 1).max(1)
    }

    /// Whether `member` counts for commitment.
    pub fn in_sync(&self, member: &Member) -> bool {
        self.isr.contains(member)
    }

    /// Whether enough members are in sync for anything to be committed.
    pub fn has_minimum(&self) -> bool {
        self.isr.len() >= self.min_insync as usize
    }

    /// The members that an offline partition waits for: any one of them, on its disk, can lead it; or, in doubt, every
    /// replica that has not reported.
    pub fn awaited(&self) -> Vec<BrokerId> {
        match &self.doubt {
            Some(doubt) => {
                let reported = |broker: &BrokerId| doubt.reports.iter().any(|(member, _)| member.broker == *broker);
                self.replicas.iter().filter(|broker| !reported(broker)).cloned().collect()
            }
            None => self.isr.iter().chain(&self.eligible).map(|member| member.broker.clone()).collect(),
        }
    }
}

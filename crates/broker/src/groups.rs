//! Which member of a group reads which partition, while it reads.
//!
//! Only live streams are known here, nothing is stored: a group's positions belong to the log.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use goulette_types::{GroupName, PartitionId};
use tokio::sync::oneshot;

use crate::sync::lock;

type Seat = (GroupName, PartitionId);

/// The live members of all groups.
#[derive(Default)]
pub(crate) struct Groups {
    holders: Mutex<HashMap<Seat, Holder>>,
    next_token: AtomicU64,
}

struct Holder {
    member: String,
    token: u64,
    /// Dropped with the holder: that is how a replaced membership learns of it.
    _alive: oneshot::Sender<()>,
}

/// The right of one stream to read a partition for a group; given back when dropped.
pub(crate) struct Membership {
    groups: Arc<Groups>,
    seat: Seat,
    token: u64,
    replaced: oneshot::Receiver<()>,
}

impl Groups {
    /// Takes `partition` for `member`.
    ///
    /// A member that comes again (its connection broke, and the broker has not noticed yet) replaces itself: the older
    /// stream ends.
    ///
    /// # Errors
    /// The name of another live member that reads the partition.
    pub(crate) fn join(
        self: &Arc<Self>,
        group: GroupName,
        partition: PartitionId,
        member: &str,
    ) -> Result<Membership, String> {
        let seat = (group, partition);
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let (alive, replaced) = oneshot::channel();
        let holder = Holder { member: member.to_owned(), token, _alive: alive };
        match lock(&self.holders).entry(seat.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(holder);
            }
            Entry::Occupied(occupied) if occupied.get().member != member => return Err(occupied.get().member.clone()),
            Entry::Occupied(mut occupied) => {
                occupied.insert(holder);
            }
        }
        Ok(Membership { groups: Arc::clone(self), seat, token, replaced })
    }

    /// The live member that reads `partition` for `group`.
    pub(crate) fn holder(&self, group: &GroupName, partition: PartitionId) -> Option<String> {
        lock(&self.holders).get(&(group.clone(), partition)).map(|holder| holder.member.clone())
    }
}

impl Membership {
    /// Resolves when the same member has come again on another stream.
    pub(crate) async fn replaced(&mut self) {
        // The sender never sends: it is dropped when another takes the seat.
        let _ = (&mut self.replaced).await;
    }

    /// Whether [`replaced`](Self::replaced) would resolve at once.
    pub(crate) fn is_replaced(&mut self) -> bool {
        matches!(self.replaced.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut holders = lock(&self.groups.holders);
        if holders.get(&self.seat).is_some_and(|holder| holder.token == self.token) {
            holders.remove(&self.seat);
        }
    }
}

#[cfg(test)]
mod tests {
    use goulette_types::{PartitionIndex, TopicId};

    use super::*;

    fn partition(index: u32) -> PartitionId {
        PartitionId { topic: TopicId(1), index: PartitionIndex(index) }
    }

    fn group(name: &str) -> GroupName {
        name.parse().unwrap()
    }

    #[test]
    fn a_second_member_is_refused_by_the_name_of_the_first_until_that_leaves() {
        let groups = Arc::new(Groups::default());
        let first = groups.join(group("g"), partition(0), "ann").unwrap();
        assert_eq!(groups.join(group("g"), partition(0), "bob").err().as_deref(), Some("ann"));
        assert!(groups.join(group("g"), partition(1), "bob").is_ok());
        assert!(groups.join(group("h"), partition(0), "bob").is_ok());
        drop(first);
        assert!(groups.join(group("g"), partition(0), "bob").is_ok());
    }

    #[test]
    fn a_member_that_comes_again_replaces_itself() {
        let groups = Arc::new(Groups::default());
        let mut first = groups.join(group("g"), partition(0), "ann").unwrap();
        assert!(!first.is_replaced());
        let mut second = groups.join(group("g"), partition(0), "ann").unwrap();
        assert!(first.is_replaced());
        drop(first);
        assert_eq!(groups.holder(&group("g"), partition(0)).as_deref(), Some("ann"));
        assert!(!second.is_replaced());
    }
}

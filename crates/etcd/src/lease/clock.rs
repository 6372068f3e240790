//! When leases end, by the leader's monotonic clock.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use goulette_proto::etcd::etcdserverpb::LeaseCheckpoint;

use super::{Inner, Lessor};

/// How often the remaining time of a long lease is recorded.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// How long after a revocation was proposed it is proposed again.
const REVOKE_RETRY: Duration = Duration::from_secs(3);

/// The leader's queues.
#[derive(Debug, Default)]
pub(super) struct LeaderClock {
    /// When to look at each lease, earliest first.
    due: BTreeSet<(Duration, i64)>,
    /// The place of each lease in `due`.
    due_of: HashMap<i64, Duration>,
    /// When to record the remaining time of a lease.
    checkpoints: BTreeSet<(Duration, i64)>,
}

impl LeaderClock {
    fn look_at(&mut self, id: i64, when: Duration) {
        if let Some(before) = self.due_of.insert(id, when) {
            self.due.remove(&(before, id));
        }
        self.due.insert((when, id));
    }
}

/// Why a lease was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewError {
    /// This member does not lead.
    NotLeader,
    /// There is no such lease.
    NotFound,
    /// Its time is over: wait until it is revoked, or the leadership ends.
    Expired,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Seconds until it ends.
    pub ttl: i64,
    /// Seconds granted.
    pub granted: i64,
}

impl Inner {
    /// Starts a lease's time, `extend` longer than granted; nothing elsewhere than on the leader.
    pub(super) fn start(&mut self, id: i64, now: Duration, extend: Duration) {
        let (Some(clock), Some(lease)) = (&mut self.clock, self.leases.get_mut(&id)) else { return };
        let seconds = u64::try_from(lease.seconds()).unwrap_or(0);
        let expiry = now + Duration::from_secs(seconds) + extend;
        lease.expiry = Some(expiry);
        clock.look_at(id, expiry);
        self.schedule_checkpoint(id, now);
    }

    pub(super) fn schedule_checkpoint(&mut self, id: i64, now: Duration) {
        let (Some(clock), Some(lease)) = (&mut self.clock, self.leases.get(&id)) else { return };
        if lease.seconds() > CHECKPOINT_INTERVAL.as_secs() as i64 {
            clock.checkpoints.insert((now + CHECKPOINT_INTERVAL, id));
        }
    }
}

impl Lessor {
    /// This member leads from now on: every lease gets its time anew, and `extend` more, because its holder may have
    /// kept it alive at the last leader until just now.
    pub fn promote(&self, now: Duration, extend: Duration) {
        let mut inner = self.lock();
        inner.clock = Some(LeaderClock::default());
        let ids: Vec<i64> = inner.leases.keys().copied().collect();
        for id in ids {
            inner.start(id, now, extend);
        }
        drop(inner);
        self.changed.send_replace(());
    }

    /// This member no longer leads: here no lease ends any more.
    pub fn demote(&self) {
        let mut inner = self.lock();
        inner.clock = None;
        inner.leases.values_mut().for_each(|lease| lease.expiry = None);
        drop(inner);
        self.changed.send_replace(());
    }

    /// Whether this member's clock counts.
    pub fn leads(&self) -> bool {
        self.lock().clock.is_some()
    }

    /// Starts a lease's time anew; answers the granted seconds, and whether a recorded remaining time must be cleared
    /// (by a checkpoint of 0) first, in which case nothing is done.
    ///
    /// # Errors
    /// [`RenewError`].
    pub fn renew(&self, id: i64, now: Duration, cleared: bool) -> Result<Renewed, RenewError> {
        let mut inner = self.lock();
        if inner.clock.is_none() {
            return Err(RenewError::NotLeader);
        }
        let lease = inner.leases.get_mut(&id).ok_or(RenewError::NotFound)?;
        if lease.expiry.is_some_and(|expiry| expiry <= now) {
            return Err(RenewError::Expired);
        }
        if lease.remaining > 0 && !cleared {
            return Ok(Renewed::ClearFirst);
        }
        let ttl = lease.ttl;
        inner.start(id, now, Duration::ZERO);
        Ok(Renewed::For(ttl))
    }

    /// What is left of a lease; `None` if there is none.
    pub fn remaining(&self, id: i64, now: Duration) -> Option<Remaining> {
        let inner = self.lock();
        let lease = inner.leases.get(&id)?;
        let left = lease.expiry.map_or(i64::MAX, |expiry| expiry.saturating_sub(now).as_secs() as i64);
        Some(Remaining { ttl: left, granted: lease.ttl })
    }

    /// All leases, those that end first in front.
    pub fn list(&self) -> Vec<i64> {
        let inner = self.lock();
        let mut leases: Vec<_> = inner.leases.iter().map(|(&id, lease)| (lease.expiry, id)).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// Up to `count_max` leases whose time is over. They are told again after a while if they are not revoked.
    pub fn expired(&self, now: Duration, count_max: usize) -> Vec<i64> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(clock) = &mut inner.clock else { return Vec::new() };
        let mut expired = Vec::new();
        while let Some(&(when, id)) = clock.due.first()
            && when <= now
            && expired.len() < count_max
        {
            clock.due.pop_first();
            clock.due_of.remove(&id);
            if inner.leases.contains_key(&id) {
                clock.look_at(id, now + REVOKE_RETRY);
                expired.push(id);
            }
        }
        expired
    }

    /// Up to `count_max` leases whose remaining time is to be recorded now.
    pub fn due_checkpoints(&self, now: Duration, count_max: usize) -> Vec<LeaseCheckpoint> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(clock) = &mut inner.clock else { return Vec::new() };
        let mut due = Vec::new();
        while let Some(&(when, id)) = clock.checkpoints.first()
            && when <= now
            && due.len() < count_max
        {
            clock.checkpoints.pop_first();
            let Some(lease) = inner.leases.get(&id) else { continue };
            let left = lease.expiry.map_or(Duration::ZERO, |expiry| expiry.saturating_sub(now));
            let remaining_ttl = left.as_secs_f64().ceil() as i64;
            // A lease that was renewed in between is looked at when its own turn comes.
            if !left.is_zero() && remaining_ttl < lease.ttl {
                due.push(LeaseCheckpoint { id, remaining_ttl });
            }
        }
        due
    }
}

/// What a renewal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It lives for so many seconds from now.
    For(i64),
    /// Clear the recorded remaining time first, then renew again.
    ClearFirst,
}

#[cfg(test)]
mod tests {
    use super::{super::Lease, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn lessor(leases: &[(i64, i64)]) -> Lessor {
        let lessor = Lessor::new(1);
        for &(id, ttl) in leases {
            let lease = Lease { ttl, remaining: 0, expiry: None, keys: BTreeSet::new() };
            lessor.lock().leases.insert(id, lease);
        }
        lessor
    }

    #[test]
    fn only_a_leader_lets_leases_end() {
        let lessor = lessor(&[(1, 5)]);
        assert!(lessor.expired(1000 * SECOND, 10).is_empty());
        lessor.promote(1000 * SECOND, SECOND);
        assert!(lessor.expired(1005 * SECOND, 10).is_empty(), "the extension counts");
        assert_eq!(lessor.expired(1006 * SECOND, 10), [1]);
        assert!(lessor.expired(1008 * SECOND, 10).is_empty(), "its revocation is under way");
        assert_eq!(lessor.expired(1009 * SECOND, 10), [1], "it was lost");
        lessor.demote();
        assert!(lessor.expired(2000 * SECOND, 10).is_empty());
    }

    #[test]
    fn renewing_starts_the_time_anew_but_not_once_it_is_over() {
        let lessor = lessor(&[(1, 5)]);
        assert_eq!(lessor.renew(1, SECOND, false), Err(RenewError::NotLeader));
        lessor.promote(Duration::ZERO, Duration::ZERO);
        assert_eq!(lessor.renew(1, 4 * SECOND, false), Ok(Renewed::For(5)));
        assert!(lessor.expired(8 * SECOND, 10).is_empty());
        assert_eq!(lessor.renew(1, 9 * SECOND, false), Err(RenewError::Expired));
        assert_eq!(lessor.renew(2, SECOND, false), Err(RenewError::NotFound));
    }

    #[test]
    fn a_long_lease_is_recorded_every_five_minutes() {
        let lessor = lessor(&[(1, 1000), (2, 100)]);
        lessor.promote(Duration::ZERO, Duration::ZERO);
        assert!(lessor.due_checkpoints(299 * SECOND, 10).is_empty());
        let due = lessor.due_checkpoints(300 * SECOND, 10);
        assert_eq!(due, [LeaseCheckpoint { id: 1, remaining_ttl: 700 }]);
    }
}

//! Keeps this sentinel known to the others, and makes it the leader when nobody else is.
//!
//! A sentinel is registered, and leads, by keys that end with its lease. Whoever finds the leader silent, by two probes of
//! its own, takes the leader's key over in a transaction that compares its revision. That is safe even if the probes
//! were wrong: the former leader's writes are guarded by the revision that they lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use goulette_env::Env;
use goulette_logging::{Chain, debug, info, warn};
use goulette_meta::{
    Change, Entry, Guard, Key, LeaseId, MetaError, MetaLeases, MetaTxn, Outcome, keys::SentinelRecord,
};
use goulette_types::{Incarnation, Revision};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{probe::probe, state::State};

/// Without a renewal for so long, the store forgets a sentinel. Whole seconds.
const LEASE: Duration = Duration::from_secs(6);
/// What this sentinel trusts less in its lease than the store does: clocks differ.
const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// Between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);
/// Between two looks at the leader.
const STEP: Duration = Duration::from_millis(300);
/// How long the leader may take to answer a probe.
const PROBE_DEADLINE: Duration = Duration::from_millis(700);
/// How long what was written may take to come back.
const ECHO_DEADLINE: Duration = Duration::from_secs(2);
/// How long an orderly leave may take.
const RESIGN_DEADLINE: Duration = Duration::from_secs(2);
/// A leader that was replaced so recently, and leads again, is replaced only behind growing pauses: it is perhaps only
/// this sentinel that does not reach it.
const REPEATED_WITHIN: Duration = Duration::from_secs(120);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Candidate {
    env: Env,
    store: Arc<dyn MetaLeases>,
    state: Arc<State>,
    me: SentinelRecord,
    lease: Option<LeaseId>,
    /// The clock's reading before the last renewal that succeeded.
    renewed: Duration,
    /// By the leader's start: whoever was started anew is not the one that did not answer.
    replaced: BTreeMap<Incarnation, Replaced>,
}

/// A leader that this sentinel has replaced.
struct Replaced {
    times: u32,
    last: Duration,
}

impl Replaced {
    /// From when on it may be replaced again.
    fn again_at(&self) -> Duration {
        self.last + PAUSE_MAX.min(Duration::from_secs(1) * 2u32.saturating_pow(self.times.min(10)))
    }
}

impl Candidate {
    pub(crate) fn new(env: Env, store: Arc<dyn MetaLeases>, state: Arc<State>, me: SentinelRecord) -> Self {
        Self { env, store, state, me, lease: None, renewed: Duration::ZERO, replaced: BTreeMap::new() }
    }

    /// Works until `stopping` becomes true, then leaves in order. Answers why it could not go on, if so.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> Option<String> {
        let mut changes = self.state.changes();
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|&stopping| stopping) => break,
                stepped = self.step() => match stepped {
                    Ok(()) => {}
                    Err(Trouble::Taken { address }) => {
                        return Some(format!("sentinel id {} is taken by a live process at {address}", self.me.id));
                    }
                    Err(Trouble::Store(error)) => self.report(&error),
                },
            }
            tokio::select! {
                biased;
                _ = stopping.wait_for(|&stopping| stopping) => break,
                _ = self.leader_has_gone(&mut changes) => {}
                () = sleep(STEP) => {}
            }
        }
        if timeout(RESIGN_DEADLINE, self.resign()).await.is_err() {
            warn!("could not hand the leadership on in time: the others notice by themselves");
        }
        None
    }

    async fn leader_has_gone(&self, changes: &mut watch::Receiver<Revision>) {
        if self.state.catalog().leading_sentinel().is_none() {
            // Tried a moment ago.
            return std::future::pending().await;
        }
        while changes.changed().await.is_ok() {
            if self.state.catalog().leading_sentinel().is_none() {
                return;
            }
        }
    }

    fn report(&self, error: &MetaError) {
        let problem = Chain(error).to_string();
        if self.state.note_silence(self.renewed, problem.clone()) {
            warn!("reads are answered from a copy, changes are refused: {problem}");
        }
    }

    async fn step(&mut self) -> Result<(), Trouble> {
        let lease = self.renew().await?;
        self.register(lease).await?;
        let leading = self.state.catalog().leading_sentinel().map(|(leading, at)| (leading.clone(), at));
        match leading {
            None => self.lead(lease, Revision(0)).await,
            Some((leading, _)) if leading.incarnation == self.me.incarnation => Ok(()),
            Some((leading, revision)) => self.watch_over(lease, &leading, revision).await,
        }
    }

    async fn renew(&mut self) -> Result<LeaseId, MetaError> {
        let now = self.env.clock.now();
        if let Some(lease) = self.lease {
            if now < self.renewed + RENEWAL {
                return Ok(lease);
            }
            if self.store.keep_alive(lease).await? {
                self.note_renewal(now);
                return Ok(lease);
            }
            info!("this sentinel's lease has ended: it registers anew");
            self.lease = None;
            self.state.set_lease_until(Duration::ZERO);
        }
        let lease = self.store.grant(LEASE).await?;
        self.lease = Some(lease);
        self.note_renewal(now);
        Ok(lease)
    }

    fn note_renewal(&mut self, at: Duration) {
        self.renewed = at;
        self.state.set_lease_until(at + LEASE - LEASE_MARGIN);
        if self.state.note_answer() {
            info!("the metadata store answers again");
        }
    }

    async fn register(&self, lease: LeaseId) -> Result<(), Trouble> {
        let known = self.state.catalog().sentinel(&self.me.id).map(|(known, revision)| (known.clone(), revision));
        let revision = match known {
            Some((known, _)) if known == self.me => return Ok(()),
            Some((known, revision)) if known.incarnation != self.me.incarnation => {
                if probe(&known.address, PROBE_DEADLINE).await == Some(known.incarnation) {
                    return Err(Trouble::Taken { address: known.address });
                }
                revision
            }
            Some((_, revision)) => revision,
            None => Revision(0),
        };
        let entry = Entry::Sentinel(self.me.id.clone(), self.me.clone());
        self.put(lease, entry, revision).await.map(|_| ()).map_err(Trouble::Store)
    }

    /// Becomes the leader, if the leader's key still is of `revision`.
    async fn lead(&self, lease: LeaseId, revision: Revision) -> Result<(), Trouble> {
        let won = self.put(lease, Entry::LeadingSentinel(self.me.clone()), revision).await?;
        if !won {
            debug!("another sentinel was faster");
        }
        Ok(())
    }

    async fn watch_over(
        &mut self,
        lease: LeaseId,
        leading: &SentinelRecord,
        revision: Revision,
    ) -> Result<(), Trouble> {
        for _ in 0..2 {
            if probe(&leading.address, PROBE_DEADLINE).await == Some(leading.incarnation) {
                return Ok(());
            }
        }
        let now = self.env.clock.now();
        self.replaced.retain(|_, replaced| now < replaced.last + REPEATED_WITHIN);
        if self.replaced.get(&leading.incarnation).is_some_and(|replaced| now < replaced.again_at()) {
            return Ok(());
        }
        warn!("sentinel {} leads and does not answer at {}: takes its place", leading.id, leading.address);
        let times = self.replaced.get(&leading.incarnation).map_or(0, |replaced| replaced.times) + 1;
        self.replaced.insert(leading.incarnation, Replaced { times, last: now });
        self.lead(lease, revision).await
    }

    /// Writes a key of this sentinel's, and waits until it has come back; false if somebody else was faster.
    async fn put(&self, lease: LeaseId, entry: Entry, present: Revision) -> Result<bool, MetaError> {
        let key = entry.key().path();
        let txn = MetaTxn {
            guards: vec![Guard { key: key.clone(), revision: present }],
            writes: vec![(key, Some(entry.value()))],
            lease: Some(lease),
        };
        match self.store.txn(txn).await? {
            Outcome::Committed(revision) => {
                let _ = self.state.reach(revision, ECHO_DEADLINE).await;
                Ok(true)
            }
            Outcome::Conflict => Ok(false),
        }
    }

    /// Hands on what is this sentinel's, so that nobody has to find out that it has gone.
    async fn resign(&self) {
        let own = {
            let catalog = self.state.catalog();
            let own = catalog.leading_sentinel().filter(|(leading, _)| leading.incarnation == self.me.incarnation);
            own.map(|(_, revision)| revision)
        };
        if let Some(revision) = own {
            let key = Key::LeadingSentinel;
            let guards = vec![Guard { key: key.path(), revision }];
            let txn = MetaTxn { guards, writes: vec![Change::Delete(key).write()], lease: None };
            if let Err(error) = self.store.txn(txn).await {
                warn!("could not hand the leadership on: {}", Chain(&error));
            }
        }
        if let Some(lease) = self.lease
            && let Err(error) = self.store.revoke(lease).await
        {
            debug!("could not end the lease: {}", Chain(&error));
        }
    }
}

/// Why a step came to nothing.
enum Trouble {
    /// Another process runs under this id.
    Taken { address: String },
    /// The store did not answer, or the outcome is unknown: what became of it comes back as a change.
    Store(MetaError),
}

impl From<MetaError> for Trouble {
    fn from(error: MetaError) -> Self {
        Trouble::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_replaces_the_same_leader_again_and_again_does_it_less_and_less_often() {
        let pause = |times| Replaced { times, last: Duration::ZERO }.again_at();
        assert_eq!(pause(1), Duration::from_secs(2));
        assert!(pause(2) > pause(1) && pause(3) > pause(2));
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}

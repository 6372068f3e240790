//! The one task that writes the catalog, and, while this sentinel leads, the metadata.
//!
//! Requests wait in a bounded queue and are carried out one after the other: plan a step on the catalog, commit it,
//! apply it, until no step is left. Being a task of its own, it finishes what it began when the caller has gone.
//!
//! With an etcd the catalog is fed by a watch alone, whoever writes: a commit has happened when it has come back. This
//! sentinel leads while the leader's key is its own and its lease surely lives; each transaction is guarded by that key.

use std::{sync::Arc, time::Duration};

use goulette_env::Env;
use goulette_logging::{Chain, info, warn};
use goulette_meta::{Changes, MetaError, MetaStore, keys};
use goulette_types::{ClusterId, Incarnation, Revision, Timestamp};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    RequestError, StartError,
    catalog::Catalog,
    feed::Feed,
    plan::{self, Step},
    replay,
    state::{Role, State},
};
use request::Request;
pub(crate) use request::{ControllerHandle, HandedOver, Judged};

mod commit;
mod request;
mod work;

/// How often the controller looks whether it still leads.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks after all partitions while the metadata changes, and what is added while it does not.
const TEND_PAUSE: Duration = Duration::from_secs(1);
const TEND_IDLE: Duration = Duration::from_secs(5);

/// How a controller comes to lead.
pub(crate) enum Standing {
    /// There is no other sentinel.
    Sole,
    /// By the leader's key, when that names this start.
    Elected(Incarnation),
}

/// What to make a cluster with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCluster {
    pub(crate) id: Option<ClusterId>,
    pub(crate) replication_factor: u32,
}

/// Owns the store; see the module.
pub(crate) struct Controller {
    env: Env,
    store: Arc<dyn MetaStore>,
    state: Arc<State>,
    requests: mpsc::Receiver<Request>,
    standing: Standing,
    cluster: NewCluster,
    /// What others write; only where there are others.
    feed: Option<Feed>,
    /// Changes were missed: everything is to be read again.
    behind: bool,
    /// Set while this sentinel may write.
    leading: Option<Leading>,
    /// The last one seen.
    generation: Option<u64>,
    /// Partitions were looked after as of this revision; and when they may be again.
    tended: Revision,
    tend_next: Duration,
    /// Set once the store has failed: nothing more can be written.
    failed: Option<String>,
}

/// A leadership that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leading {
    /// The revision that wrote the leader's key; `None` where there is no other sentinel.
    key: Option<Revision>,
}

impl Controller {
    /// Loads the catalog. Alone, it makes the cluster if there is none yet; with others, the one that leads does.
    ///
    /// # Errors
    /// [`StartError::OtherCluster`] if another cluster was insisted on; those of the store.
    pub(crate) async fn start(
        env: Env,
        store: Arc<dyn MetaStore>,
        standing: Standing,
        cluster: NewCluster,
    ) -> Result<(Self, ControllerHandle, Arc<State>), StartError> {
        let snapshot = store.range(keys::PREFIX).await?;
        let state = Arc::new(State::new(Catalog::load(&snapshot)?));
        for problem in replay::check(&snapshot) {
            warn!("the operation log does not agree with the metadata, which counts: {problem}");
        }
        let (handle, requests) = ControllerHandle::new();
        let feed = match standing {
            Standing::Sole => None,
            Standing::Elected(_) => Some(Feed::start(&store, Revision(snapshot.revision.0 + 1))),
        };
        let mut controller = Self {
            env,
            store,
            state: Arc::clone(&state),
            requests,
            standing,
            cluster,
            feed,
            behind: false,
            leading: None,
            generation: None,
            tended: Revision(0),
            tend_next: Duration::ZERO,
            failed: None,
        };
        controller.report_foreign();
        if let Standing::Sole = controller.standing {
            controller.leading = Some(Leading { key: None });
            controller.make_cluster().await.map_err(StartError::Make)?;
            state.set_role(Role::Leader(None));
            check_cluster(&state.catalog(), cluster.id)?;
        }
        Ok((controller, handle, state))
    }

    /// Works until the last handle is dropped or the store fails; answers why it failed.
    pub(crate) async fn run(mut self) -> Option<String> {
        if self.leading.is_some() {
            self.tidy().await;
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.failed.is_none() {
            tokio::select! {
                biased;
                news = next_of(&mut self.feed) => self.learn(news).await,
                _ = ticks.tick() => {
                    self.look().await;
                    self.tend_if_due().await;
                }
                request = self.requests.recv() => match request {
                    Some(request) if self.leading.is_some() => self.carry_out(request).await,
                    Some(request) => request.refuse(self.state.not_leader()),
                    None => break,
                },
            }
        }
        self.failed
    }

    /// Looks after the partitions when something has changed, and now and then because time alone changes something.
    async fn tend_if_due(&mut self) {
        let now = self.env.clock.now();
        if self.leading.is_none() || now < self.tend_next {
            return;
        }
        let idle = self.state.catalog().revision() == self.tended;
        if idle && now < self.tend_next + TEND_IDLE {
            return;
        }
        self.tend().await;
        self.tend_next = now + TEND_PAUSE;
    }

    /// Takes over what the store tells, and looks what it means for who leads.
    async fn learn(&mut self, news: Option<Result<Changes, MetaError>>) {
        self.take(news);
        self.look().await;
    }

    /// Takes over what the store tells.
    fn take(&mut self, news: Option<Result<Changes, MetaError>>) {
        match news {
            Some(Ok(changes)) => {
                if let Err(error) = self.state.take(&changes) {
                    self.fail(&error);
                }
                self.report_foreign();
            }
            Some(Err(error)) => {
                warn!("the changes of the metadata are not told any more, reads it again: {}", Chain(&error));
                self.behind = true;
            }
            None => self.behind = true,
        }
    }

    /// Begins to lead, or ceases to, as the leader's key and the lease say.
    async fn look(&mut self) {
        let Standing::Elected(incarnation) = self.standing else { return };
        if self.behind && self.reload().await.is_err() {
            return;
        }
        let surely = self.env.clock.now() < self.state.lease_until();
        let entitled = self.own_key(incarnation).filter(|_| surely).map(|key| Leading { key: Some(key) });
        if self.leading == entitled {
            return;
        }
        if self.leading.take().is_some() {
            self.state.set_role(Role::Follower);
            warn!("this sentinel does not lead any more");
        }
        if let Some(leading) = entitled {
            self.begin(leading).await;
        }
    }

    /// The revision of the leader's key, if that names this start.
    fn own_key(&self, incarnation: Incarnation) -> Option<Revision> {
        let catalog = self.state.catalog();
        let own = catalog.leading_sentinel().filter(|(leading, _)| leading.incarnation == incarnation);
        own.map(|(_, revision)| revision)
    }

    /// Begins to lead: with everything that was written before.
    async fn begin(&mut self, leading: Leading) {
        if self.reload().await.is_err() {
            return;
        }
        self.leading = Some(leading);
        if let Err(error) = self.make_cluster().await {
            warn!("cannot make the cluster yet: {error}");
            self.leading = None;
            return;
        }
        info!("this sentinel leads now");
        self.state.set_role(Role::Leader(leading.key));
        self.tidy().await;
    }

    async fn make_cluster(&mut self) -> Result<(), RequestError> {
        if self.state.catalog().cluster().is_none() {
            let NewCluster { id, replication_factor } = self.cluster;
            let made = id.unwrap_or_else(|| ClusterId(self.env.random.next_id()));
            // Where there was one before, its metadata was removed under our eyes: what anybody has seen of it is void.
            let generation = self.generation.map_or(0, |former| former + 1);
            let create =
                |catalog: &Catalog, now| Ok(plan::cluster::create(catalog, now, made, replication_factor, generation));
            self.once(create).await?;
            info!("made cluster {made}");
        }
        let catalog = self.state.catalog();
        if let Some(cluster) = catalog.cluster() {
            (self.cluster.id, self.generation) = (Some(cluster.cluster_id), Some(cluster.generation));
        }
        drop(catalog);
        Ok(())
    }

    /// Brings partitions to where they should be, as far as that can be done now.
    async fn tend(&mut self) {
        if let Err(error) = self.all(|catalog, now| Ok(plan::tend::next(catalog, now))).await {
            warn!("partitions are not all where they should be yet: {error}");
        }
        self.tended = self.state.catalog().revision();
    }

    /// Finishes what an earlier sentinel left half done.
    async fn tidy(&mut self) {
        let incomplete: Vec<_> = {
            let catalog = self.state.catalog();
            let incomplete = catalog.topics().filter(|(_, topic)| !catalog.is_complete(topic));
            incomplete.map(|(name, _)| name.clone()).collect()
        };
        for name in incomplete {
            if let Err(error) = self.all(|catalog, now| plan::topic::fill(catalog, now, &name)).await {
                warn!("topic {name} stays incomplete for now: {error}");
            }
        }
        if let Err(error) = self.all(|catalog, now| Ok(plan::topic::sweep(catalog, now))).await {
            warn!("deleted topics still have metadata: {error}");
        }
        self.tend().await;
    }

    /// Carries out one step, if there is one to do.
    async fn once(
        &mut self,
        plan: impl FnOnce(&Catalog, Timestamp) -> Result<Option<Step>, RequestError>,
    ) -> Result<(), RequestError> {
        let step = plan(&self.state.catalog(), self.now())?;
        match step {
            Some(step) => self.commit(step).await,
            None => Ok(()),
        }
    }

    /// Carries out steps until none is left.
    async fn all(
        &mut self,
        plan: impl Fn(&Catalog, Timestamp) -> Result<Option<Step>, RequestError>,
    ) -> Result<(), RequestError> {
        loop {
            let step = plan(&self.state.catalog(), self.now())?;
            match step {
                Some(step) => self.commit(step).await?,
                None => return Ok(()),
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.env.clock.wall_ms())
    }
}

/// Refuses a cluster that is not the one insisted on.
///
/// # Errors
/// [`StartError::OtherCluster`].
pub(crate) fn check_cluster(catalog: &Catalog, given: Option<ClusterId>) -> Result<(), StartError> {
    match (catalog.cluster(), given) {
        (Some(stored), Some(given)) if stored.cluster_id != given => {
            Err(StartError::OtherCluster { stored: stored.cluster_id, given })
        }
        _ => Ok(()),
    }
}

async fn next_of(feed: &mut Option<Feed>) -> Option<Result<Changes, MetaError>> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

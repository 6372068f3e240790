//! The store behind a sentinel: opened, waited for, and loaded.

use std::{sync::Arc, time::Duration};

use goulette_env::Env;
use goulette_logging::{Chain, debug, info, warn};
use goulette_meta::{EtcdStore, LocalStore, MetaError, MetaLeases, MetaStore, keys::SentinelRecord};
use goulette_mvcc::OpenError;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    SentinelOptions, StartError, Store,
    controller::{Controller, ControllerHandle, NewCluster, Standing},
    identity,
    probe::probe,
    state::State,
};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How long an earlier process of the same id may take to prove that it lives.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(2);
/// The same where its address is this one's, too.
const OWN_ADDRESS_DEADLINE: Duration = Duration::from_millis(200);

/// An opened store.
pub(crate) enum Backing {
    Local(Arc<LocalStore>),
    Etcd { store: Arc<EtcdStore>, endpoints: String },
}

impl Backing {
    /// Opens the store; an etcd is not asked anything yet.
    pub(crate) async fn open(options: &SentinelOptions, env: &Env) -> Result<Self, StartError> {
        match &options.store {
            Store::Local => open_local(options, env).await.map(|store| Self::Local(Arc::new(store))),
            Store::Etcd(etcd) => {
                let store = Arc::new(EtcdStore::new(&etcd.to_meta())?);
                Ok(Self::Etcd { store, endpoints: etcd.endpoints.join(", ") })
            }
        }
    }

    /// The store.
    pub(crate) fn store(&self) -> Arc<dyn MetaStore> {
        match self {
            Self::Local(store) => Arc::clone(store) as Arc<dyn MetaStore>,
            Self::Etcd { store, .. } => Arc::clone(store) as Arc<dyn MetaStore>,
        }
    }

    /// The store's leases, where several sentinels share it.
    pub(crate) fn leases(&self) -> Option<Arc<dyn MetaLeases>> {
        match self {
            Self::Local(_) => None,
            Self::Etcd { store, .. } => Some(Arc::clone(store) as Arc<dyn MetaLeases>),
        }
    }

    /// Loads the metadata. Waits for an etcd that does not answer, and says so once.
    pub(crate) async fn load(
        &self,
        env: &Env,
        me: &SentinelRecord,
        cluster: NewCluster,
    ) -> Result<(Controller, ControllerHandle, Arc<State>), StartError> {
        let (store, endpoints) = match self {
            Self::Local(store) => {
                return Controller::start(env.clone(), Arc::clone(store) as _, Standing::Sole, cluster).await;
            }
            Self::Etcd { store, endpoints } => (store, endpoints),
        };
        let (mut backoff, mut told) = (BACKOFF_FIRST, false);
        let loaded = loop {
            let store = Arc::clone(store) as Arc<dyn MetaStore>;
            match Controller::start(env.clone(), store, Standing::Elected(me.incarnation), cluster).await {
                Err(StartError::Load(error @ (MetaError::Unavailable(_) | MetaError::OutcomeUnknown(_)))) => {
                    let reason = Chain(&error).to_string();
                    if std::mem::replace(&mut told, true) {
                        debug!("etcd at {endpoints}: {reason}");
                    } else {
                        warn!("waits for etcd at {endpoints}, and serves nobody until it answers: {reason}");
                    }
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                loaded => break loaded?,
            }
        };
        if told {
            info!("etcd at {endpoints} answers");
        }
        let taken = loaded.2.catalog().sentinel(&me.id).map(|(known, _)| known.clone());
        if let Some(known) = taken {
            // Where this sentinel listens itself, and does not answer yet, hardly anybody else does.
            let deadline = if known.address == me.address { OWN_ADDRESS_DEADLINE } else { PREDECESSOR_DEADLINE };
            if probe(&known.address, deadline).await == Some(known.incarnation) {
                return Err(StartError::SentinelTaken { id: me.id.clone(), address: known.address });
            }
        }
        Ok(loaded)
    }
}

async fn open_local(options: &SentinelOptions, env: &Env) -> Result<LocalStore, StartError> {
    let (folder, id, disk) = (options.data_dir.clone(), options.id.clone(), Arc::clone(&env.disk));
    let opening = spawn_blocking(move || {
        identity::check(&*disk, &folder, &id)?;
        let store = LocalStore::open(&*disk, &folder).map_err(|error| match error {
            OpenError::Locked { folder } => StartError::FolderInUse { folder },
            other => StartError::Open(other),
        })?;
        // Under the store's lock, so that two starts do not both take the folder.
        identity::claim(&*disk, &folder, &id)?;
        Ok(store)
    });
    opening.await.expect("opening does not panic, and the runtime is running")
}

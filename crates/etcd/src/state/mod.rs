//! What the agreed entries change, as one whole: the store, leases, users, members and alarms.
//!
//! [`State`] is the [`StateMachine`] that the consensus feeds. It applies a group of entries in one batch of the store
//! (`apply`), tells watchers, and wakes whoever waits for the result of an entry of this member (`Waiters`). What
//! other members need to know is in the entry: two members that apply the same entries hold the same state, down to
//! the checksum over history.

mod alarms;
mod apply;
mod members;
#[cfg(test)]
mod tests;
mod waiters;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use goulette_env::Env;
use goulette_logging::{error, warn};
use redb::Durability;
use tokio::sync::watch;

pub use alarms::Alarms;
pub use apply::{Applied, Response};
pub use members::{Member, Members};
pub(crate) use waiters::Waiters;

use crate::{
    auth::{Auth, AuthState, Row, TokenKind},
    consensus::{Committed, LogPosition, StateMachine, StateSnapshot},
    lease::Lessor,
    store::{self, Compaction, Frozen, Store, StoreError, tables},
    watch::WatchHub,
};

/// Entries after which a batch is made durable, as in etcd.
const SYNC_ENTRIES: u64 = 10_000;
/// How long an applied entry waits to be durable while others come; the log holds it meanwhile.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What is particular to this member.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// Shorter leases are raised to this; seconds.
    pub lease_ttl_min: i64,
    /// What a login gives.
    pub tokens: TokenKind,
}

/// The state of a member.
pub struct State {
    pub(crate) store: Store,
    pub(crate) lessor: Lessor,
    pub(crate) auth: Auth,
    pub(crate) members: Members,
    pub(crate) alarms: Alarms,
    pub(crate) watches: Arc<WatchHub>,
    pub(crate) waiters: Waiters,
    pub(crate) env: Env,
    positions: Mutex<Positions>,
    /// The last applied index, for those who look or wait.
    applied_index: watch::Sender<u64>,
    compactor: mpsc::SyncSender<CompactionJob>,
}

/// A compaction to carry out, and whom to tell.
struct CompactionJob {
    compaction: Compaction,
    done: Option<tokio::sync::oneshot::Sender<()>>,
}

#[derive(Clone, Debug, Default)]
struct Positions {
    applied: LogPosition,
    durable: LogPosition,
    durable_since: Duration,
    configuration: Option<(LogPosition, Bytes)>,
}

/// Compactions that may wait for the one under way; a compaction that finds no place waits for one.
const COMPACTIONS_MAX: usize = 64;

impl State {
    /// Opens the state in `folder`, which the caller has locked; an empty one if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(env: Env, folder: &Path, options: StateOptions) -> Result<Arc<Self>, StoreError> {
        let store = Store::open(Arc::clone(&env.disk), folder)?;
        let lessor = Lessor::new(options.lease_ttl_min);
        lessor.load(&store)?;
        let auth = Auth::new(load_auth(&store)?, options.tokens);
        let members = Members::load(&store)?;
        let alarms = Alarms::load(&store)?;
        let (compactor, jobs) = mpsc::sync_channel(COMPACTIONS_MAX);
        let positions = load_positions(&store)?;
        let interrupted = store.interrupted_compaction()?;
        let state = Arc::new(Self {
            watches: WatchHub::new(store.revision()),
            store,
            lessor,
            auth,
            members,
            alarms,
            waiters: Waiters::default(),
            env,
            applied_index: watch::Sender::new(positions.applied.index),
            positions: Mutex::new(positions),
            compactor,
        });
        let weak = Arc::downgrade(&state);
        let compact = move || {
            // Ends when the state, which holds the other end, goes.
            while let Ok(CompactionJob { compaction, done }) = jobs.recv() {
                let Some(state) = weak.upgrade() else { return };
                match state.store.remove_compacted(compaction) {
                    Ok(()) => drop(done.map(|done| done.send(()))),
                    Err(failure) => error!("compaction at revision {} failed: {failure}", compaction.at),
                }
            }
        };
        thread::Builder::new().name("etcd-compactor".to_owned()).spawn(compact)?;
        if let Some(compaction) = interrupted {
            warn!("compaction at revision {} was interrupted: it goes on", compaction.at);
            state.start_compaction(compaction, None);
        }
        Ok(state)
    }

    /// The last applied index; cheap.
    pub fn applied_index(&self) -> u64 {
        *self.applied_index.borrow()
    }

    /// Returns when the entry at `index` is applied. Never if it is lost: bring a deadline.
    pub(crate) async fn wait_applied(&self, index: u64) {
        // The sender lives as long as we do.
        let _ = self.applied_index.subscribe().wait_for(|&applied| applied >= index).await;
    }

    fn start_compaction(&self, compaction: Compaction, done: Option<tokio::sync::oneshot::Sender<()>>) {
        // The thread lives as long as we do.
        let _ = self.compactor.send(CompactionJob { compaction, done });
    }

    fn positions(&self) -> std::sync::MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateMachine for State {
    fn applied(&self) -> LogPosition {
        self.positions().applied
    }

    fn durable(&self) -> LogPosition {
        self.positions().durable
    }

    fn configuration(&self) -> Option<(LogPosition, Bytes)> {
        self.positions().configuration.clone()
    }

    fn apply(&self, entries: Vec<Committed>) -> io::Result<()> {
        let Some(last) = entries.last().map(|entry| entry.position) else { return Ok(()) };
        let now = self.env.clock.now();
        let mut positions = self.positions().clone();
        let is_due = last.index - positions.durable.index >= SYNC_ENTRIES
            || now.saturating_sub(positions.durable_since) >= SYNC_INTERVAL;
        let durability = if is_due { Durability::Immediate } else { Durability::None };
        let applied = self.apply_group(entries, durability, now)?;
        positions.applied = last;
        if is_due {
            positions.durable = last;
            positions.durable_since = now;
        }
        if let Some(configuration) = applied.configuration {
            positions.configuration = Some(configuration);
        }
        *self.positions() = positions;
        // Before anybody is answered: who reads after a write must find it applied.
        self.applied_index.send_replace(last.index);
        self.watches.publish(&applied.changes, self.store.revision());
        for compaction in applied.compactions {
            self.start_compaction(compaction.0, compaction.1);
        }
        for (id, response) in applied.responses {
            self.waiters.wake(id, response);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<LogPosition> {
        let applied = self.applied();
        self.store.sync()?;
        let mut positions = self.positions();
        positions.durable = positions.durable.max(applied);
        positions.durable_since = self.env.clock.now();
        Ok(positions.durable)
    }

    fn snapshot(&self) -> io::Result<Box<dyn StateSnapshot>> {
        let frozen = self.store.freeze()?;
        let position = read_position(|name| frozen.get(tables::META, name))?;
        let configuration = frozen.get(tables::GOULETTE, tables::goulette::CONFIGURATION)?;
        let configuration = configuration.as_deref().map(decode_configuration).transpose()?;
        Ok(Box::new(Snapshot { frozen, position, configuration }))
    }

    fn install(&self, from: &mut dyn io::Read) -> io::Result<LogPosition> {
        self.store.install(from)?;
        self.lessor.load(&self.store)?;
        self.auth.replace(load_auth(&self.store)?);
        self.members.reload(&self.store)?;
        self.alarms.reload(&self.store)?;
        let loaded = load_positions(&self.store)?;
        let applied = loaded.applied;
        *self.positions() = loaded;
        self.applied_index.send_replace(applied.index);
        self.watches.catch_up(self.store.revision());
        Ok(applied)
    }
}

struct Snapshot {
    frozen: Frozen,
    position: LogPosition,
    configuration: Option<(LogPosition, Bytes)>,
}

impl StateSnapshot for Snapshot {
    fn position(&self) -> LogPosition {
        self.position
    }

    fn configuration(&self) -> Option<(LogPosition, Bytes)> {
        self.configuration.clone()
    }

    fn write(&self, to: &mut dyn io::Write) -> io::Result<()> {
        Ok(self.frozen.write(to)?)
    }
}

fn load_positions(store: &Store) -> Result<Positions, StoreError> {
    let position = read_position(|name| store.get(tables::META, name))?;
    let configuration = store.get(tables::GOULETTE, tables::goulette::CONFIGURATION)?;
    let configuration = configuration.as_deref().map(decode_configuration).transpose()?;
    Ok(Positions { applied: position, durable: position, durable_since: Duration::ZERO, configuration })
}

fn read_position(get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>) -> Result<LogPosition, StoreError> {
    let number =
        |name| -> Result<u64, StoreError> { Ok(get(name)?.and_then(|bytes| tables::number(&bytes)).unwrap_or(0)) };
    Ok(LogPosition { term: number(tables::meta::TERM)?, index: number(tables::meta::CONSISTENT_INDEX)? })
}

fn encode_configuration(position: LogPosition, configuration: &[u8]) -> Vec<u8> {
    [&position.term.to_be_bytes()[..], &position.index.to_be_bytes(), configuration].concat()
}

fn decode_configuration(stored: &[u8]) -> Result<(LogPosition, Bytes), StoreError> {
    let short = || StoreError::Damaged("the stored configuration is too short".to_owned());
    let (term, rest) = stored.split_first_chunk().ok_or_else(short)?;
    let (index, configuration) = rest.split_first_chunk().ok_or_else(short)?;
    let position = LogPosition { term: u64::from_be_bytes(*term), index: u64::from_be_bytes(*index) };
    Ok((position, Bytes::copy_from_slice(configuration)))
}

fn load_auth(store: &Store) -> Result<AuthState, StoreError> {
    let mut rows = Vec::new();
    for bucket in [tables::AUTH, tables::AUTH_USERS, tables::AUTH_ROLES] {
        store.scan(bucket, |key, value| {
            rows.push((redb::TableHandle::name(&bucket).to_owned(), key.to_vec(), value.to_vec()));
            Ok(())
        })?;
    }
    let rows = rows.into_iter().map(|(name, key, value)| (auth_bucket(&name).0, key, value));
    AuthState::from_rows(rows).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// The bucket of users and roles with that name.
fn auth_bucket(name: &str) -> (&'static str, tables::Bucket) {
    match name {
        "authUsers" => ("authUsers", tables::AUTH_USERS),
        "authRoles" => ("authRoles", tables::AUTH_ROLES),
        _ => ("auth", tables::AUTH),
    }
}

fn write_auth(batch: &store::Batch<'_>, rows: &[Row]) -> Result<(), StoreError> {
    let mut open = HashMap::new();
    for row in rows {
        let (name, bucket) = auth_bucket(row.bucket);
        if !open.contains_key(name) {
            open.insert(name, batch.bucket(bucket)?);
        }
        let table = open.get_mut(name).expect("opened just now");
        match &row.value {
            Some(value) => drop(table.insert(&row.key[..], &value[..])?),
            None => drop(table.remove(&row.key[..])?),
        }
    }
    Ok(())
}

//! The state machine as openraft drives it.
//!
//! The state is on disk already: a "snapshot" that openraft orders to cut the log is a sync of the state, and what is
//! sent to a member that lags is a view of the state as of then. Entries are applied only once they are durable in this
//! member's own log, so that no restart makes a local read go back behind what the log holds.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use goulette_env::{DiskFile, Env, OpenMode};
use goulette_proto::raft as pb;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta},
};
use prost::Message;
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    log::Durable,
    types::{
        Command, CommittedLeaderId, LogId, Member, Membership, StoredMembership, TypeConfig, at_position, members_of,
        membership_from_pb, membership_to_pb, position,
    },
};
use crate::consensus::{Committed, LogPosition, Payload, StateMachine, StateSnapshot};

/// Batches of up to so many entries are applied where raft runs: they take less time than going to another thread and
/// back, which a lone client would wait for with each write.
const INLINE_MAX: usize = 16;

/// A whole state on its way.
pub(crate) enum SnapshotData {
    /// To be sent.
    View(Box<dyn StateSnapshot>),
    /// Received, to be installed.
    File(PathBuf),
}

pub(crate) type RaftSnapshot = Snapshot<CommittedLeaderId, u64, Member, SnapshotData>;
pub(crate) type RaftSnapshotMeta = SnapshotMeta<CommittedLeaderId, u64, Member>;

pub(crate) struct Machine {
    env: Env,
    state: Arc<dyn StateMachine>,
    durable: watch::Receiver<Durable>,
    /// The highest index applied, as clients count.
    applied: watch::Sender<u64>,
}

impl Machine {
    pub(crate) fn new(env: Env, state: Arc<dyn StateMachine>, durable: watch::Receiver<Durable>) -> Self {
        let applied = watch::Sender::new(state.applied().index);
        Self { env, state, durable, applied }
    }

    /// Follows the highest index applied.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until this member's own log holds all below `end`.
    async fn wait_durable(&mut self, end: u64) -> io::Result<()> {
        let reached = self.durable.wait_for(|durable| durable.failed || durable.end >= end).await;
        match reached {
            Ok(durable) if !durable.failed => Ok(()),
            _ => Err(io::Error::other("the raft log has failed")),
        }
    }
}

fn committed_of(log_id: &LogId, payload: EntryPayload<Command, u64, Member>) -> Committed {
    let payload = match payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(command) => Payload::Request(command.0),
        EntryPayload::Membership(membership) => Payload::Members {
            configuration: membership_to_pb(&membership).encode_to_vec().into(),
            members: members_of(&membership),
        },
    };
    Committed { position: position(log_id), payload }
}

fn stored_membership(configuration: Option<(LogPosition, Bytes)>) -> io::Result<StoredMembership> {
    let Some((at, configuration)) = configuration else { return Ok(StoredMembership::default()) };
    let decoded = pb::Membership::decode(configuration).map_err(io::Error::other)?;
    let membership: Membership = membership_from_pb(decoded).map_err(io::Error::other)?;
    Ok(StoredMembership::new(at_position(at), membership))
}

fn meta_of(view: &dyn StateSnapshot) -> io::Result<RaftSnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: at_position(view.position()),
        last_membership: stored_membership(view.configuration())?,
    })
}

/// Runs something that touches the disk where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((at_position(self.state.applied()), stored_membership(self.state.configuration())?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut batch, mut responders) = (Vec::new(), Vec::new());
        let mut last = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            last = entry.log_id.index + 1;
            batch.push(committed_of(&entry.log_id, entry.payload));
            responders.extend(responder);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.wait_durable(last).await?;
        if batch.len() <= INLINE_MAX {
            self.state.apply(batch)?;
        } else {
            let state = self.state.clone();
            blocking(move || state.apply(batch)).await?;
        }
        self.applied.send_replace(last);
        for responder in responders {
            responder.send(());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { state: self.state.clone() }
    }

    async fn install_snapshot(&mut self, meta: &RaftSnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::File(path) = snapshot else {
            return Err(io::Error::other("a view of this member's own state is no snapshot to install"));
        };
        let (env, state) = (self.env.clone(), self.state.clone());
        let installed = blocking(move || {
            let mut reader = FileReader { file: env.disk.open(&path, OpenMode::Read)?, position: 0 };
            let installed = state.install(&mut reader)?;
            // Only a copy: what is left of it after a crash is removed by the next start.
            env.disk.remove_file(&path)?;
            Ok(installed)
        })
        .await?;
        if at_position(installed) != meta.last_log_id {
            return Err(io::Error::other(format!("the snapshot ends at {installed:?}, its header said {meta}")));
        }
        self.applied.send_replace(installed.index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        if self.state.applied().index == 0 {
            return Ok(None);
        }
        let state = self.state.clone();
        let view = blocking(move || state.snapshot()).await?;
        Ok(Some(Snapshot { meta: meta_of(&*view)?, snapshot: SnapshotData::View(view) }))
    }
}

/// Makes the state durable, so that the log before it can be cut.
pub(crate) struct Builder {
    state: Arc<dyn StateMachine>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let state = self.state.clone();
        // The view first: what is synced then is at least as new.
        let view = blocking(move || {
            let view = state.snapshot()?;
            state.sync()?;
            Ok(view)
        })
        .await?;
        Ok(Snapshot { meta: meta_of(&*view)?, snapshot: SnapshotData::View(view) })
    }
}

struct FileReader {
    file: Box<dyn DiskFile>,
    position: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

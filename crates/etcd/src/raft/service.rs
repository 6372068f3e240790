//! What other members ask of this one: the service on the peer port.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use goulette_env::{DiskFile, Env, OpenMode};
use goulette_logging::warn;
use goulette_proto::raft::{self as pb, raft_server::Raft};
use openraft::{
    raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest},
    storage::{Snapshot, SnapshotMeta},
};
use tokio::{task::spawn_blocking, time::timeout};
use tonic::{Request, Response, Status, Streaming};

use super::{
    core::Core,
    machine::SnapshotData,
    peers::{META_CLUSTER, META_FROM, META_PROTOCOL, META_TO, PROTOCOL},
    told::Told,
    types::{
        Malformed, StoredMembership, Vote, entry_from_pb, log_id_from_pb, log_id_to_pb, member_from_pb, member_to_pb,
        membership_from_pb, vote_from_pb, vote_to_pb,
    },
};
use crate::{EtcdError, consensus::MemberChange};

/// How long a sender of a snapshot may be silent.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);
const INCOMING: &str = "incoming-";

/// Answers the other members.
pub struct PeerService {
    core: Arc<Core>,
    env: Env,
    /// Where snapshots are received.
    dir: PathBuf,
    received: AtomicU64,
    /// Refusals that the log has been told of.
    refusals: Told,
}

impl PeerService {
    pub(super) fn new(core: Arc<Core>, env: Env, dir: PathBuf) -> Self {
        Self { core, env, dir, received: AtomicU64::new(0), refusals: Told::default() }
    }

    /// Refuses whoever is of another cluster, speaks another protocol, or means somebody else.
    #[allow(clippy::result_large_err, reason = "a refusal is what a gRPC service answers")]
    fn check<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let number = |key| {
            let value = request.metadata().get(key).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            value.ok_or_else(|| Status::invalid_argument(format!("{key} is missing")))
        };
        let (protocol, cluster, from, to) =
            (number(META_PROTOCOL)?, number(META_CLUSTER)?, number(META_FROM)?, number(META_TO)?);
        let refusal = if protocol != PROTOCOL {
            format!("member {from:x} speaks raft protocol {protocol}, this one {PROTOCOL}: start the same release")
        } else if cluster != self.core.cluster {
            format!(
                "member {from:x} belongs to cluster {cluster:x}, this one to {:x}: check --initial-cluster and \
                 --initial-cluster-token of both",
                self.core.cluster
            )
        } else if to != self.core.own {
            format!("member {from:x} looks for member {to:x}, and this is {:x}: check the peer URLs", self.core.own)
        } else {
            return Ok(from);
        };
        if self.refusals.is_news(&refusal) {
            warn!("refuses a member: {refusal}");
        }
        Err(Status::failed_precondition(refusal))
    }

    /// Stores what is received in a file of its own; the path, if it came whole.
    async fn receive(&self, mut chunks: Streaming<pb::SnapshotChunk>) -> Result<PathBuf, Status> {
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{INCOMING}{number}"));
        let (env, to) = (self.env.clone(), path.clone());
        let open = move || env.disk.open(&to, OpenMode::CreateOrOpen).and_then(|file| file.set_len(0).map(|()| file));
        let mut incoming = Incoming { file: blocking(open).await?.into(), bytes: 0, crc: 0 };
        loop {
            let next = timeout(CHUNK_DEADLINE, chunks.message()).await;
            let chunk = next.map_err(|_| Status::deadline_exceeded("the rest of the snapshot does not come"))??;
            let Some(chunk) = chunk else { return Err(Status::data_loss("the snapshot ends in the middle")) };
            let end = chunk.end;
            incoming = blocking(move || incoming.add(&chunk.data)).await?;
            if let Some(end) = end {
                return if (end.bytes, end.crc) == (incoming.bytes, incoming.crc) {
                    Ok(path)
                } else {
                    Err(Status::data_loss("the snapshot came damaged"))
                };
            }
        }
    }
}

/// Removes what a stop in the middle of a snapshot has left.
pub(super) fn remove_leftovers(env: &Env, dir: &Path) -> std::io::Result<()> {
    for entry in env.disk.read_dir(dir)? {
        if entry.name.starts_with(INCOMING) {
            env.disk.remove_file(&dir.join(entry.name))?;
        }
    }
    Ok(())
}

/// A snapshot that is being received.
struct Incoming {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    crc: u32,
}

impl Incoming {
    fn add(mut self, data: &[u8]) -> std::io::Result<Self> {
        self.file.write_all_at(data, self.bytes)?;
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, data);
        Ok(self)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Status> {
    let done = spawn_blocking(work).await.map_err(|_| Status::unavailable("this member stops"))?;
    done.map_err(|error| Status::unavailable(format!("cannot store the snapshot: {error}")))
}

impl From<Malformed> for Status {
    fn from(error: Malformed) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

fn stopped(_: impl std::fmt::Display) -> Status {
    EtcdError::Stopped.into()
}

#[tonic::async_trait]
impl Raft for PeerService {
    async fn append(&self, request: Request<pb::AppendRequest>) -> Result<Response<pb::AppendResponse>, Status> {
        let from = self.check(&request)?;
        let message = request.into_inner();
        let rpc = AppendEntriesRequest {
            vote: vote_from_pb(message.vote.as_ref())?,
            prev_log_id: message.previous.as_ref().map(log_id_from_pb),
            entries: message.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?,
            leader_commit: message.committed.as_ref().map(log_id_from_pb),
        };
        use pb::append_response::{Outcome, Partial};
        let answer = self.core.raft.append_entries(rpc).await.map_err(stopped)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.core.heard_leader(from);
        }
        let outcome = match answer {
            AppendEntriesResponse::Success => Outcome::Stored(true),
            AppendEntriesResponse::PartialSuccess(upto) => {
                Outcome::Partial(Partial { upto: upto.as_ref().map(log_id_to_pb) })
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(vote_to_pb(&vote)),
        };
        Ok(Response::new(pb::AppendResponse { outcome: Some(outcome) }))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        self.check(&request)?;
        let message = request.into_inner();
        let mut rpc = VoteRequest::new(vote_from_pb(message.vote.as_ref())?, message.last.as_ref().map(log_id_from_pb));
        rpc.leadership_transfer = message.leadership_transfer;
        let raft = &self.core.raft;
        let answer = if message.pre_vote { raft.pre_vote(rpc).await } else { raft.vote(rpc).await };
        let answer = answer.map_err(stopped)?;
        Ok(Response::new(pb::VoteResponse {
            vote: Some(vote_to_pb(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(log_id_to_pb),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let from = self.check(&request)?;
        let mut chunks = request.into_inner();
        let first = timeout(CHUNK_DEADLINE, chunks.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the snapshot does not come"))??;
        let header = first.and_then(|chunk| chunk.header).ok_or(Malformed("a snapshot without a header"))?;
        let vote: Vote = vote_from_pb(header.vote.as_ref())?;
        let membership = membership_from_pb(header.membership.ok_or(Malformed("a snapshot without members"))?)?;
        let meta = SnapshotMeta {
            last_log_id: header.last.as_ref().map(log_id_from_pb),
            last_membership: StoredMembership::new(header.membership_id.as_ref().map(log_id_from_pb), membership),
        };
        goulette_logging::info!("receiving a snapshot from member {from:x}: {meta}");
        let path = self.receive(chunks).await?;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::File(path) };
        let answer = self.core.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(pb::SnapshotResponse { vote: Some(vote_to_pb(&answer.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        self.check(&request)?;
        let message = request.into_inner();
        let from = vote_from_pb(message.from.as_ref())?;
        let rpc = TransferLeaderRequest::new(from, message.to, message.last.as_ref().map(log_id_from_pb));
        let mut answer = pb::TransferLeaderResponse::default();
        match self.core.raft.handle_transfer_leader(rpc).await.map_err(stopped)? {
            Ok(()) => {}
            Err(TransferLeaderError::VoteChanged { actual, .. }) => answer.vote_changed = Some(vote_to_pb(&actual)),
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                let upto = actual.as_ref().map(log_id_to_pb);
                answer.not_flushed = Some(pb::transfer_leader_response::Flushed { upto });
            }
        }
        Ok(Response::new(answer))
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeResponse>, Status> {
        self.check(&request)?;
        self.core.append(request.into_inner().command).await?;
        Ok(Response::new(pb::ProposeResponse {}))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.check(&request)?;
        let index = self.core.confirm_leadership().await?;
        Ok(Response::new(pb::ReadIndexResponse { index }))
    }

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<pb::ChangeMembersResponse>, Status> {
        self.check(&request)?;
        let change = request.into_inner().change.ok_or(Malformed("a change of nothing"))?;
        let index = self.core.change_members(change_from_pb(change)).await?;
        Ok(Response::new(pb::ChangeMembersResponse { index }))
    }

    async fn members(&self, request: Request<pb::MembersRequest>) -> Result<Response<pb::MembersResponse>, Status> {
        let asked = request.into_inner().member;
        let stored = self.core.membership();
        let membership = stored.membership();
        Ok(Response::new(pb::MembersResponse {
            cluster: self.core.cluster,
            members: membership.nodes().map(|(id, member)| member_to_pb(*id, member)).collect(),
            voters: membership.voter_ids().collect(),
            removed: self.core.was_removed(asked),
        }))
    }
}

pub(super) fn change_to_pb(change: &MemberChange) -> pb::change_members_request::Change {
    use pb::change_members_request::Change;
    match change {
        MemberChange::Add(member) => {
            Change::Add(pb::Member { id: member.id, peer_urls: member.peer_urls.clone(), joining: !member.is_learner })
        }
        MemberChange::Remove(id) => Change::Remove(*id),
        MemberChange::Promote(id) => Change::Promote(*id),
        MemberChange::Update(member) => {
            Change::Update(pb::Member { id: member.id, peer_urls: member.peer_urls.clone(), joining: false })
        }
    }
}

fn change_from_pb(change: pb::change_members_request::Change) -> MemberChange {
    use crate::consensus::MemberRaft;
    use pb::change_members_request::Change;
    let raft = |member: pb::Member| {
        let (id, member) = member_from_pb(member);
        MemberRaft { id, peer_urls: member.peer_urls, is_learner: !member.joining }
    };
    match change {
        Change::Add(member) => MemberChange::Add(raft(member)),
        Change::Remove(id) => MemberChange::Remove(id),
        Change::Promote(id) => MemberChange::Promote(id),
        Change::Update(member) => MemberChange::Update(raft(member)),
    }
}

impl From<super::core::Refusal> for Status {
    fn from(refusal: super::core::Refusal) -> Self {
        refusal.to_status()
    }
}

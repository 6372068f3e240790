//! What openraft says to other members.

use std::{future::Future, io::Write, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use goulette_proto::raft as pb;
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    machine::{RaftSnapshot, SnapshotData},
    peers::{Client, Peers, Use},
    types::{
        Malformed, Member, TypeConfig, Vote, entry_to_pb, log_id_from_pb, log_id_to_pb, membership_to_pb, vote_from_pb,
        vote_to_pb,
    },
};
use crate::consensus::{MemberId, StateSnapshot};

/// Data of one chunk of a snapshot, and how many wait to be sent.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_MAX: usize = 4;

/// Makes the clients that openraft asks for.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    /// How long entries may take to be stored elsewhere: a disk that hesitates is not a reason to send them again.
    pub(crate) append_timeout: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerClient {
        self.client(target, node, Use::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerClient {
        self.client(target, node, Use::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> PeerClient {
        self.client(target, node, Use::Snapshots)
    }
}

impl Network {
    fn client(&self, target: MemberId, node: &Member, purpose: Use) -> PeerClient {
        self.peers.introduce(target, &node.peer_urls);
        PeerClient { peers: self.peers.clone(), target, purpose, append_timeout: self.append_timeout }
    }
}

/// Speaks with one member.
pub(crate) struct PeerClient {
    peers: Arc<Peers>,
    target: MemberId,
    purpose: Use,
    append_timeout: Duration,
}

type RpcError = RPCError<TypeConfig>;

impl PeerClient {
    fn client(&self, purpose: Use) -> Result<Client, RpcError> {
        let unknown = || Unreachable::from_string(format!("member {:x} has no usable peer URL", self.target));
        self.peers.client(self.target, purpose).ok_or_else(|| unknown().into())
    }

    fn failed(&self, status: &Status) -> RpcError {
        let text = format!("member {:x}: {}", self.target, status.message());
        match status.code() {
            // No connection, or refused by name: pointless to ask again at once.
            Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
                self.peers.unreachable(self.target);
                Unreachable::from_string(text).into()
            }
            _ => NetworkError::from_string(text).into(),
        }
    }

    /// Waits for the answer; what is malformed counts as a failure of the network.
    async fn answer<T>(
        &self,
        ttl: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        match timeout(ttl, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => {
                Err(NetworkError::from_string(format!("member {:x} did not answer in {ttl:?}", self.target)).into())
            }
        }
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
        ttl: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = pb::VoteRequest {
            vote: Some(vote_to_pb(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(log_id_to_pb),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let mut client = self.client(Use::Control)?;
        let answer = self.answer(ttl, client.vote(request)).await?;
        let vote = vote_from_pb(answer.vote.as_ref()).map_err(malformed)?;
        Ok(VoteResponse::new(vote, answer.last.as_ref().map(log_id_from_pb), answer.granted))
    }
}

fn malformed(error: Malformed) -> RpcError {
    NetworkError::new(&error).into()
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let ttl = if rpc.entries.is_empty() { option.hard_ttl() } else { self.append_timeout.max(option.hard_ttl()) };
        let request = pb::AppendRequest {
            vote: Some(vote_to_pb(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(log_id_to_pb),
            entries: rpc.entries.iter().map(entry_to_pb).collect(),
            committed: rpc.leader_commit.as_ref().map(log_id_to_pb),
        };
        let mut client = self.client(self.purpose)?;
        let answer = self.answer(ttl, client.append(request)).await?;
        match answer.outcome {
            Some(pb::append_response::Outcome::Stored(_)) => Ok(AppendEntriesResponse::Success),
            Some(pb::append_response::Outcome::Partial(partial)) => {
                Ok(AppendEntriesResponse::PartialSuccess(partial.upto.as_ref().map(log_id_from_pb)))
            }
            Some(pb::append_response::Outcome::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Some(pb::append_response::Outcome::HigherVote(vote)) => {
                Ok(AppendEntriesResponse::HigherVote(vote_from_pb(Some(&vote)).map_err(malformed)?))
            }
            None => Err(malformed(Malformed("an answer without an outcome"))),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::View(view) = snapshot.snapshot else {
            return Err(NetworkError::<TypeConfig>::from_string("a received snapshot is not sent on").into());
        };
        let header = pb::SnapshotHeader {
            vote: Some(vote_to_pb(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(log_id_to_pb),
            membership_id: snapshot.meta.last_membership.log_id().as_ref().map(log_id_to_pb),
            membership: Some(membership_to_pb(snapshot.meta.last_membership.membership())),
        };
        let first = pb::SnapshotChunk { header: Some(header), ..pb::SnapshotChunk::default() };
        let chunks = stream::once(async { first }).chain(ReceiverStream::new(chunks_of(view)));
        let mut client = self.client(Use::Snapshots)?;
        let sending = self.answer(option.hard_ttl(), client.snapshot(Request::new(chunks)));
        tokio::select! {
            answer = sending => {
                let vote = vote_from_pb(answer?.vote.as_ref()).map_err(malformed)?;
                Ok(SnapshotResponse::new(vote))
            }
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = pb::TransferLeaderRequest {
            from: Some(vote_to_pb(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_pb),
        };
        let mut client = self.client(Use::Control)?;
        let answer = self.answer(option.hard_ttl(), client.transfer_leader(message)).await?;
        if let Some(actual) = answer.vote_changed {
            let actual = vote_from_pb(Some(&actual)).map_err(malformed)?;
            return Ok(Err(TransferLeaderError::VoteChanged { expected: *request.from_leader(), actual }));
        }
        if let Some(flushed) = answer.not_flushed {
            return Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: flushed.upto.as_ref().map(log_id_from_pb),
            }));
        }
        Ok(Ok(()))
    }
}

/// Writes the view on a thread of its own, as fast as the other side takes it. Dropping the receiver ends it.
fn chunks_of(view: Box<dyn StateSnapshot>) -> mpsc::Receiver<pb::SnapshotChunk> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    spawn_blocking(move || {
        let mut writer = ChunkWriter { sender, buffer: BytesMut::with_capacity(CHUNK_BYTES), bytes: 0, crc: 0 };
        // Without an end the other side drops what it has.
        if view.write(&mut writer).is_ok() {
            let _ = writer.finish();
        }
    });
    receiver
}

struct ChunkWriter {
    sender: mpsc::Sender<pb::SnapshotChunk>,
    buffer: BytesMut,
    bytes: u64,
    crc: u32,
}

impl ChunkWriter {
    fn send(&mut self, end: bool) -> std::io::Result<()> {
        let data: Bytes = self.buffer.split().freeze();
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &data);
        let end = end.then_some(pb::SnapshotEnd { bytes: self.bytes, crc: self.crc });
        let chunk = pb::SnapshotChunk { header: None, data, end };
        self.sender.blocking_send(chunk).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.send(true)
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.send(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

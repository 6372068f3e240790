//! `etcdserverpb.Lease`: for clients, and what of it members ask of their leader.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use goulette_proto::etcd::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
    lease_client::LeaseClient, lease_server::Lease,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{admit, kv::unexpected, refuse_learner, wants_leader};
use crate::{
    EtcdError,
    auth::{Caller, check_lease_readable, check_lease_writable},
    lease::{RenewError, Renewed},
    node::{Node, cost_of_lease},
    state,
};

/// Between two attempts to reach a leader that did not answer, unless there is another one sooner.
const RETRY: Duration = Duration::from_millis(50);
/// Answers that may wait in one keep-alive stream.
const ANSWERS_MAX: usize = 16;

type KeepAlives = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

pub(crate) struct LeaseService {
    pub(crate) node: Arc<Node>,
}

impl Node {
    /// Who asks; refused if anybody must say and did not.
    pub(super) async fn known_asker(&self, metadata: &MetadataMap) -> Result<Caller, EtcdError> {
        let asker = self.asker(metadata).await?;
        let is_enabled = self.state.auth.state().is_enabled();
        if is_enabled && asker.user.is_empty() { Err(EtcdError::UserEmpty) } else { Ok(asker) }
    }

    fn keys_of_lease(&self, id: i64) -> Vec<Bytes> {
        self.state.lessor.keys(id).unwrap_or_default()
    }

    /// Renews a lease, wherever the leader is; answers its time to live in seconds, 0 if there is no such lease.
    async fn renew(&self, asker: &Caller, id: i64) -> Result<i64, EtcdError> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            self.wait_leader_known(deadline).await?;
            check_lease_writable(&self.state.auth.state(), asker, &|id| self.keys_of_lease(id), id)?;
            if self.leads() {
                if let Some(ttl) = self.renew_here(id, deadline).await? {
                    return Ok(ttl);
                }
            } else if let Some(mut leader) = self.leader_client() {
                let request = LeaseKeepAliveRequest { id };
                let mut request = Request::new(tokio_stream::once(request));
                request.set_timeout(deadline.saturating_duration_since(Instant::now()));
                if let Ok(answers) = leader.lease_keep_alive(request).await
                    && let Ok(Some(answer)) = answers.into_inner().message().await
                {
                    return Ok(answer.ttl);
                }
            }
            self.pause(deadline).await?;
        }
    }

    /// Returns when it is worth asking the leader again.
    async fn pause(&self, deadline: Instant) -> Result<(), EtcdError> {
        let mut leadership = self.consensus.leadership();
        leadership.borrow_and_update();
        let mut clock = self.state.lessor.changes();
        tokio::select! {
            _ = leadership.changed() => Ok(()),
            _ = clock.changed() => Ok(()),
            () = tokio::time::sleep(RETRY) => Ok(()),
            () = tokio::time::sleep_until(deadline) => Err(EtcdError::Timeout),
        }
    }

    /// Renews a lease as its leader; `None` if this member does not lead (any more).
    async fn renew_here(&self, id: i64, deadline: Instant) -> Result<Option<i64>, EtcdError> {
        // A leader that was deposed and does not know it must not keep leases alive.
        self.read_barrier().await?;
        let mut cleared = false;
        loop {
            let mut changes = self.state.lessor.changes();
            match self.state.lessor.renew(id, self.now(), cleared) {
                Ok(Renewed::For(ttl)) => return Ok(Some(ttl)),
                Ok(Renewed::ClearFirst) => {
                    let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
                    let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
                    let request = InternalRaftRequest { lease_checkpoint, ..InternalRaftRequest::default() };
                    self.request(&Caller::default(), request).await?;
                    cleared = true;
                }
                Err(RenewError::NotFound) => return Ok(Some(0)),
                Err(RenewError::NotLeader) => return Ok(None),
                // Its revocation is under way: when that is done, it is not found.
                Err(RenewError::Expired) => match timeout_at(deadline, changes.changed()).await {
                    Ok(_) => {}
                    Err(_) => return Err(EtcdError::Timeout),
                },
            }
        }
    }

    /// What is left of a lease, wherever the leader is.
    async fn time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, EtcdError> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            self.wait_leader_known(deadline).await?;
            if self.leads() {
                if let Some(answer) = self.time_to_live_here(request)? {
                    return Ok(answer);
                }
            } else if let Some(mut leader) = self.leader_client() {
                let mut forwarded = Request::new(request);
                forwarded.set_timeout(deadline.saturating_duration_since(Instant::now()));
                match leader.lease_time_to_live(forwarded).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) if status.code() == Code::NotFound => return Err(EtcdError::LeaseNotFound),
                    Err(_) => {}
                }
            }
            self.pause(deadline).await?;
        }
    }

    /// What is left of a lease, as its leader; `None` if this member does not lead.
    fn time_to_live_here(&self, request: LeaseTimeToLiveRequest) -> Result<Option<LeaseTimeToLiveResponse>, EtcdError> {
        let lessor = &self.state.lessor;
        if !lessor.leads() {
            return Ok(None);
        }
        let remaining = lessor.remaining(request.id, self.now()).ok_or(EtcdError::LeaseNotFound)?;
        let keys = if request.keys { lessor.keys(request.id).unwrap_or_default() } else { Vec::new() };
        // Were it demoted meanwhile, the time would mean nothing.
        let answer = LeaseTimeToLiveResponse {
            header: Some(ResponseHeader::default()),
            id: request.id,
            ttl: remaining.ttl,
            granted_ttl: remaining.granted,
            keys,
        };
        Ok(lessor.leads().then_some(answer))
    }

    async fn wait_leader_known(&self, deadline: Instant) -> Result<(), EtcdError> {
        if self.leadership().leader.is_some() {
            return Ok(());
        }
        self.wait_leader(deadline).await.map_err(|_| EtcdError::NoLeader)
    }

    fn leader_client(&self) -> Option<LeaseClient<tonic::transport::Channel>> {
        let leader = self.leadership().leader?;
        Some(LeaseClient::new(self.consensus.peer(leader)?))
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        node.check_quota(cost_of_lease()).await?;
        let asker = node.known_asker(request.metadata()).await?;
        let mut grant = request.into_inner();
        while grant.id == 0 {
            grant.id = (node.state.env.random.next_u64() >> 1) as i64;
        }
        let grant = InternalRaftRequest { lease_grant: Some(grant), ..InternalRaftRequest::default() };
        match node.request(&asker, grant).await? {
            state::Response::LeaseGrant(mut response) => {
                response.header = node.header(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        let asker = node.known_asker(request.metadata()).await?;
        let revoke = InternalRaftRequest { lease_revoke: Some(request.into_inner()), ..InternalRaftRequest::default() };
        match node.request(&asker, revoke).await? {
            state::Response::LeaseRevoke(mut response) => {
                response.header = node.header(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        admit(&self.node, request.metadata())?;
        let node = Arc::clone(&self.node);
        let (metadata, _, mut requests) = request.into_parts();
        let needs_leader = wants_leader(&metadata);
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        // Ends with the stream: when the client closes it, or does not read its answers any more.
        tokio::spawn(async move {
            let mut lost = std::pin::pin!(node.leader_lost(needs_leader));
            loop {
                let next = tokio::select! {
                    next = requests.next() => next,
                    () = answers.closed() => return,
                    () = &mut lost => {
                        let _ = answers.send(Err(EtcdError::NoLeader.into())).await;
                        return;
                    }
                };
                let Some(Ok(request)) = next else { return };
                // Taken before the renewal: a lease that is revoked later is then revoked at a later revision.
                let header = node.header(None);
                let renewed = match node.known_asker(&metadata).await {
                    Ok(asker) => node.renew(&asker, request.id).await,
                    Err(refused) => Err(refused),
                };
                let answer = match renewed {
                    Ok(ttl) => Ok(LeaseKeepAliveResponse { header, id: request.id, ttl }),
                    Err(refused) => Err(Status::from(refused)),
                };
                let is_last = answer.is_err();
                if answers.send(answer).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        let asker = node.known_asker(request.metadata()).await?;
        let request = request.into_inner();
        let revision = node.state.auth.state().revision();
        if request.keys {
            let auth = node.state.auth.state();
            check_lease_readable(&auth, &asker, &|id| node.keys_of_lease(id), request.id)?;
        }
        let mut answer = match node.time_to_live(request).await {
            Err(EtcdError::LeaseNotFound) => {
                LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() }
            }
            answer => answer?,
        };
        if request.keys {
            let auth = node.state.auth.state();
            if auth.is_enabled() && auth.revision() != revision {
                return Err(EtcdError::AuthOldRevision.into());
            }
        }
        answer.header = node.header(None);
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        let asker = node.known_asker(request.metadata()).await?;
        let leases = node.state.lessor.list();
        {
            let auth = node.state.auth.state();
            for &lease in &leases {
                check_lease_readable(&auth, &asker, &|id| node.keys_of_lease(id), lease)?;
            }
        }
        let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: node.header(None), leases }))
    }
}

/// What a leader answers to other members on its peer port: renewals, and what is left of a lease.
pub(crate) struct PeerLeaseService {
    pub(crate) node: Arc<Node>,
}

#[tonic::async_trait]
impl Lease for PeerLeaseService {
    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let node = Arc::clone(&self.node);
        let request = request.into_inner().message().await?.ok_or_else(|| Status::invalid_argument("no lease"))?;
        let deadline = Instant::now() + node.config.request_timeout();
        let ttl = node.renew_here(request.id, deadline).await?.ok_or(EtcdError::NotLeader)?;
        let answer = LeaseKeepAliveResponse { header: node.header(None), id: request.id, ttl };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let answer = self.node.time_to_live_here(request.into_inner())?.ok_or(EtcdError::NotLeader)?;
        Ok(Response::new(answer))
    }

    async fn lease_grant(&self, _: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        Err(not_for_peers())
    }

    async fn lease_revoke(&self, _: Request<LeaseRevokeRequest>) -> Result<Response<LeaseRevokeResponse>, Status> {
        Err(not_for_peers())
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        Err(not_for_peers())
    }
}

fn not_for_peers() -> Status {
    Status::unimplemented("members ask their leader for renewals and remaining times only")
}

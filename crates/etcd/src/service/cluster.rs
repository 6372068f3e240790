//! `etcdserverpb.Cluster`: who belongs to the cluster, and changes of that.

use std::{sync::Arc, time::Duration};

use goulette_proto::etcd::etcdserverpb::{
    Member as PbMember, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader, cluster_server::Cluster,
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{admit, refuse_learner};
use crate::{
    EtcdError,
    consensus::{ChangeError, MemberChange, MemberId, MemberRaft},
    node::Node,
    raft::member_id,
    state::Member,
};

/// How long a member must have been there to count on it, as in etcd.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct ClusterService {
    pub(crate) node: Arc<Node>,
}

impl ClusterService {
    /// Headers of this service carry no revision.
    fn header(&self) -> Option<ResponseHeader> {
        Some(self.node.header_at(0))
    }

    fn members(&self) -> Vec<PbMember> {
        self.node.state.members.list().into_iter().map(to_pb).collect()
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<(), EtcdError> {
        admit(&self.node, metadata)?;
        refuse_learner(&self.node)
    }

    async fn check_admin(&self, metadata: &MetadataMap) -> Result<(), EtcdError> {
        self.admit(metadata)?;
        let asker = self.node.asker(metadata).await?;
        self.node.state.auth.state().check_admin(&asker)
    }

    async fn change(&self, change: MemberChange) -> Result<(), EtcdError> {
        self.node.consensus.change_members(change).await.map_err(|error| match error {
            ChangeError::Refused(refused) => refused,
            ChangeError::Unknown => EtcdError::Timeout,
        })
    }

    /// Refuses to add a member where those who have started, or those who are there, would be less than a quorum.
    fn check_addition(&self, members: &[Member], is_learner: bool) -> Result<(), EtcdError> {
        if !self.node.config.strict_reconfig_check {
            return Ok(());
        }
        let voters: Vec<&Member> = members.iter().filter(|member| !member.is_learner).collect();
        let quorum = quorum_of(voters.len() + 1);
        // A cluster of one may always grow: else nobody could begin with one member.
        if voters.len() == 1 && (is_learner || voters[0].is_started()) {
            return Ok(());
        }
        if !is_learner && started(&voters) < quorum {
            return Err(EtcdError::MemberNotEnoughStarted);
        }
        if self.connected(&voters) < quorum { Err(EtcdError::Unhealthy) } else { Ok(()) }
    }

    /// Refuses to remove a member where those who have started, or those who are there, would be less than a quorum.
    fn check_removal(&self, members: &[Member], id: MemberId) -> Result<(), EtcdError> {
        let is_learner = members.iter().any(|member| member.id == id && member.is_learner);
        if !self.node.config.strict_reconfig_check || is_learner {
            return Ok(());
        }
        let voters: Vec<&Member> = members.iter().filter(|member| !member.is_learner).collect();
        let left: Vec<&Member> = voters.iter().copied().filter(|member| member.id != id).collect();
        if started(&left) < quorum_of(left.len()) {
            return Err(EtcdError::MemberNotEnoughStarted);
        }
        // Who is not there is not part of the quorum that is.
        if id != self.node.member_id && self.node.consensus.connected_for(id).is_none() {
            return Ok(());
        }
        if self.connected(&voters) - 1 < quorum_of(left.len()) { Err(EtcdError::Unhealthy) } else { Ok(()) }
    }

    /// Refuses to give a learner a vote where those who have started would be less than a quorum.
    fn check_promotion(&self, members: &[Member]) -> Result<(), EtcdError> {
        let voters: Vec<&Member> = members.iter().filter(|member| !member.is_learner).collect();
        let is_refused = self.node.config.strict_reconfig_check && started(&voters) + 1 < quorum_of(voters.len() + 1);
        if is_refused { Err(EtcdError::MemberNotEnoughStarted) } else { Ok(()) }
    }

    /// How many of these have been there for a while, this one among them.
    fn connected(&self, members: &[&Member]) -> usize {
        let is_connected = |id| {
            let since = self.node.consensus.connected_for(id);
            id == self.node.member_id || since.is_some_and(|since| since > HEALTH_INTERVAL)
        };
        members.iter().filter(|member| is_connected(member.id)).count()
    }
}

fn quorum_of(members: usize) -> usize {
    members / 2 + 1
}

fn started(members: &[&Member]) -> usize {
    members.iter().filter(|member| member.is_started()).count()
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        self.admit(request.metadata())?;
        let metadata = request.metadata().clone();
        let MemberAddRequest { peer_ur_ls: peer_urls, is_learner } = request.into_inner();
        // As in etcd, what is no URL is refused before it matters who says it.
        if peer_urls.is_empty() || !peer_urls.iter().all(|url| is_url(url)) {
            return Err(EtcdError::MemberBadUrls.into());
        }
        self.check_admin(&metadata).await?;
        let node = &self.node;
        let members = node.state.members.list();
        self.check_addition(&members, is_learner)?;
        if members.iter().any(|member| member.peer_urls.iter().any(|url| peer_urls.contains(url))) {
            return Err(EtcdError::PeerUrlExist.into());
        }
        if is_learner && members.iter().filter(|member| member.is_learner).count() >= node.config.max_learners {
            return Err(EtcdError::TooManyLearners.into());
        }
        let seconds = u64::try_from(node.state.env.clock.wall_ms() / 1000).unwrap_or(0);
        let id = member_id(&peer_urls, &node.config.initial_cluster_token, Some(seconds));
        let added = Member { id, peer_urls: peer_urls.clone(), is_learner, ..Member::default() };
        self.change(MemberChange::Add(MemberRaft { id, peer_urls, is_learner })).await?;
        let member = Some(to_pb(added));
        Ok(Response::new(MemberAddResponse { header: self.header(), member, members: self.members() }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.check_admin(request.metadata()).await?;
        let id = request.into_inner().id;
        let members = self.node.state.members.list();
        self.check_removal(&members, id)?;
        if !members.iter().any(|member| member.id == id) {
            return Err(EtcdError::MemberNotFound.into());
        }
        self.change(MemberChange::Remove(id)).await?;
        Ok(Response::new(MemberRemoveResponse { header: self.header(), members: self.members() }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.check_admin(request.metadata()).await?;
        let MemberUpdateRequest { id, peer_ur_ls: peer_urls } = request.into_inner();
        let members = self.node.state.members.list();
        let Some(member) = members.iter().find(|member| member.id == id) else {
            return Err(EtcdError::MemberNotFound.into());
        };
        // etcd takes anything here, and then cannot reach the member.
        if peer_urls.is_empty() || !peer_urls.iter().all(|url| is_url(url)) {
            return Err(EtcdError::MemberBadUrls.into());
        }
        let others = members.iter().filter(|member| member.id != id);
        if others.flat_map(|member| &member.peer_urls).any(|url| peer_urls.contains(url)) {
            return Err(EtcdError::PeerUrlExist.into());
        }
        self.change(MemberChange::Update(MemberRaft { id, peer_urls, is_learner: member.is_learner })).await?;
        Ok(Response::new(MemberUpdateResponse { header: self.header(), members: self.members() }))
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        admit(&self.node, request.metadata())?;
        if request.get_ref().linearizable {
            self.node.read_barrier().await?;
        }
        self.node.known_asker(request.metadata()).await?;
        Ok(Response::new(MemberListResponse { header: self.header(), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.check_admin(request.metadata()).await?;
        let id = request.into_inner().id;
        let member = self.node.state.members.get(id).ok_or(EtcdError::MemberNotFound)?;
        if !member.is_learner {
            return Err(EtcdError::MemberNotLearner.into());
        }
        self.check_promotion(&self.node.state.members.list())?;
        self.change(MemberChange::Promote(id)).await?;
        Ok(Response::new(MemberPromoteResponse { header: self.header(), members: self.members() }))
    }
}

fn to_pb(member: Member) -> PbMember {
    PbMember {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

fn is_url(url: &str) -> bool {
    crate::config::Url::parse(url).is_ok()
}

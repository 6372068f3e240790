//! `etcdserverpb.Cluster`: who belongs to the cluster, and changes of that.

use std::sync::Arc;

use goulette_proto::etcd::etcdserverpb::{
    Member as PbMember, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader, cluster_server::Cluster,
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{admit, refuse_learner};
use crate::{
    EtcdError,
    consensus::{ChangeError, MemberChange, MemberRaft},
    node::Node,
    raft::member_id,
    state::Member,
};

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

    async fn check_admin(&self, metadata: &MetadataMap) -> Result<(), EtcdError> {
        admit(&self.node, metadata)?;
        refuse_learner(&self.node)?;
        let asker = self.node.asker(metadata).await?;
        self.node.state.auth.state().check_admin(&asker)
    }

    async fn change(&self, change: MemberChange) -> Result<(), EtcdError> {
        self.node.consensus.change_members(change).await.map_err(|error| match error {
            ChangeError::Refused(refused) => refused,
            ChangeError::Unknown => EtcdError::Timeout,
        })
    }

    /// Refuses a change after which fewer members have started than a quorum needs.
    fn check_quorum(&self, after: &[Member]) -> Result<(), EtcdError> {
        if !self.node.config.strict_reconfig_check {
            return Ok(());
        }
        let voters = after.iter().filter(|member| !member.is_learner);
        let (all, started) =
            voters.fold((0, 0), |(all, started), member| (all + 1, started + usize::from(member.is_started())));
        // One that starts may be the one that is added now.
        if all > 0 && started < all / 2 + 1 { Err(EtcdError::MemberNotEnoughStarted) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        self.check_admin(request.metadata()).await?;
        let MemberAddRequest { peer_ur_ls: peer_urls, is_learner } = request.into_inner();
        if peer_urls.is_empty() || !peer_urls.iter().all(|url| is_url(url)) {
            return Err(EtcdError::MemberBadUrls.into());
        }
        let node = &self.node;
        let mut members = node.state.members.list();
        if members.iter().any(|member| member.peer_urls.iter().any(|url| peer_urls.contains(url))) {
            return Err(EtcdError::PeerUrlExist.into());
        }
        if is_learner && members.iter().filter(|member| member.is_learner).count() >= node.config.max_learners {
            return Err(EtcdError::TooManyLearners.into());
        }
        let seconds = u64::try_from(node.state.env.clock.wall_ms() / 1000).unwrap_or(0);
        let id = member_id(&peer_urls, &node.config.initial_cluster_token, Some(seconds));
        let added = Member { id, peer_urls: peer_urls.clone(), is_learner, ..Member::default() };
        members.push(added.clone());
        self.check_quorum(&members)?;
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
        let mut members = self.node.state.members.list();
        let Some(place) = members.iter().position(|member| member.id == id) else {
            return Err(EtcdError::MemberNotFound.into());
        };
        let removed = members.remove(place);
        if removed.is_started() && !removed.is_learner {
            self.check_quorum(&members)?;
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
        if peer_urls.is_empty() || !peer_urls.iter().all(|url| is_url(url)) {
            return Err(EtcdError::MemberBadUrls.into());
        }
        let members = self.node.state.members.list();
        let Some(member) = members.iter().find(|member| member.id == id) else {
            return Err(EtcdError::MemberNotFound.into());
        };
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

//! `etcdserverpb.KV`.

use std::sync::Arc;

use goulette_proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, kv_server::Kv, request_op,
};
use tonic::{Request, Response, Status};

use super::{admit, refuse_learner};
use crate::{
    EtcdError,
    auth::{Caller, check_range, check_txn},
    node::{Node, cost_of_put, cost_of_txn},
    state,
    store::{check_delete_request, check_put_request, check_range_request, check_txn_request},
};

pub(crate) struct KvService {
    pub(crate) node: Arc<Node>,
}

impl KvService {
    /// After a read: the permission must still be what it was checked against.
    fn check_unchanged(&self, asker: &Caller) -> Result<(), EtcdError> {
        let revision = self.node.state.auth.state().revision();
        if asker.revision != 0 && asker.revision != revision { Err(EtcdError::AuthOldRevision) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        if !request.get_ref().serializable {
            refuse_learner(node)?;
        }
        check_range_request(request.get_ref())?;
        if !request.get_ref().serializable {
            node.read_barrier().await?;
        }
        let asker = node.asker(request.metadata()).await?;
        let request = request.into_inner();
        check_range(&node.state.auth.state(), &asker, &request)?;
        let mut response = node.state.store.range(&request).map_err(EtcdError::from)?;
        self.check_unchanged(&asker)?;
        response.header = node.header(response.header);
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        node.check_quota(cost_of_put(request.get_ref())).await?;
        check_put_request(request.get_ref())?;
        let asker = node.asker(request.metadata()).await?;
        let put = InternalRaftRequest { put: Some(request.into_inner()), ..InternalRaftRequest::default() };
        match node.request(&asker, put).await? {
            state::Response::Put(mut response) => {
                response.header = node.header(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        check_delete_request(request.get_ref())?;
        let asker = node.asker(request.metadata()).await?;
        let delete = InternalRaftRequest { delete_range: Some(request.into_inner()), ..InternalRaftRequest::default() };
        match node.request(&asker, delete).await? {
            state::Response::DeleteRange(mut response) => {
                response.header = node.header(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        node.check_quota(cost_of_txn(request.get_ref())).await?;
        check_txn_request(request.get_ref(), node.config.max_txn_ops)?;
        let asker = node.asker(request.metadata());
        if only_reads(request.get_ref()) {
            if !is_serializable(request.get_ref()) {
                node.read_barrier().await?;
            }
            let asker = asker.await?;
            let keys_of = |lease| node.state.lessor.keys(lease).unwrap_or_default();
            check_txn(&node.state.auth.state(), &asker, &keys_of, request.get_ref())?;
            let mut response =
                node.state.store.txn_read(request.get_ref(), &node.state.lessor).map_err(EtcdError::from)?;
            self.check_unchanged(&asker)?;
            response.header = node.header(response.header);
            return Ok(Response::new(response));
        }
        let asker = asker.await?;
        let txn = InternalRaftRequest { txn: Some(request.into_inner()), ..InternalRaftRequest::default() };
        match node.request(&asker, txn).await? {
            state::Response::Txn(mut response) => {
                response.header = node.header(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let node = &self.node;
        admit(node, request.metadata())?;
        refuse_learner(node)?;
        let asker = node.asker(request.metadata()).await?;
        node.state.auth.state().check_admin(&asker)?;
        let request = request.into_inner();
        let is_physical = request.physical;
        let compaction = InternalRaftRequest { compaction: Some(request), ..InternalRaftRequest::default() };
        match node.request(&asker, compaction).await? {
            state::Response::Compaction(mut response, removed) => {
                if is_physical {
                    // An error means that this member is lost.
                    removed.await.map_err(|_| EtcdError::Stopped)?;
                }
                response.header = node.header(None);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// A request came back as another one: the numbering of requests is broken.
pub(super) fn unexpected(response: &state::Response) -> Status {
    Status::internal(format!("an entry answered for another one: {response:?}"))
}

/// Whether a transaction needs no agreement; as in etcd, one with a transaction within always does.
fn only_reads(request: &TxnRequest) -> bool {
    ranges(request).all(|range| range.is_some())
}

/// Whether a transaction that only reads may be answered from what this member knows.
fn is_serializable(request: &TxnRequest) -> bool {
    ranges(request).flatten().all(|range| range.serializable)
}

fn ranges(request: &TxnRequest) -> impl Iterator<Item = Option<&RangeRequest>> {
    request.success.iter().chain(&request.failure).map(|op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestRange(range)) => Some(range),
        _ => None,
    })
}

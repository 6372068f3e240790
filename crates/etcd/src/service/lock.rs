//! `v3lockpb.Lock`. A lock says who is first; it excludes nobody by itself. Who needs exclusion compares the key's
//! revision of creation in the transaction that must not be a late one.

use std::sync::Arc;

use bytes::Bytes;
use goulette_proto::etcd::{
    etcdserverpb::RangeRequest,
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock},
};
use tonic::{Request, Response, Status};

use super::{
    admit,
    recipe::{Own, Recipe, passed_on},
};
use crate::{EtcdError, node::Node};

/// etcd's client library says so, and its server passes it on.
const SESSION_EXPIRED: &str = "mutex: session is expired";

pub(crate) struct LockService {
    pub(crate) node: Arc<Node>,
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        admit(&self.node, request.metadata())?;
        let caller = self.node.asker(request.metadata()).await.map_err(passed_on)?;
        let LockRequest { name, lease } = request.into_inner();
        let recipe = Recipe::new(&self.node, caller, &name);
        let own = recipe.enter(lease, Bytes::new()).await?;
        let mut place = Place::new(recipe, own);
        place.recipe.wait_turn(&place.own).await?;
        let get = RangeRequest { key: place.own.key.clone(), ..RangeRequest::default() };
        let found = place.recipe.range(&get).await?;
        place.is_kept = true;
        if found.kvs.is_empty() {
            return Err(Status::unknown(SESSION_EXPIRED));
        }
        Ok(Response::new(LockResponse { header: found.header, key: place.own.key.clone() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        admit(&self.node, request.metadata())?;
        if request.get_ref().key.is_empty() {
            return Err(passed_on(EtcdError::EmptyKey));
        }
        let caller = self.node.asker(request.metadata()).await.map_err(passed_on)?;
        let recipe = Recipe::new(&self.node, caller, b"");
        let header = recipe.delete(request.into_inner().key).await?;
        Ok(Response::new(UnlockResponse { header }))
    }
}

/// A place in the queue, left when the caller goes away before its turn.
pub(super) struct Place {
    pub(super) recipe: Arc<Recipe>,
    pub(super) own: Own,
    pub(super) is_kept: bool,
}

impl Place {
    pub(super) fn new(recipe: Recipe, own: Own) -> Self {
        Self { recipe: Arc::new(recipe), own, is_kept: false }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (recipe, key) = (Arc::clone(&self.recipe), self.own.key.clone());
        // Ends within the request timeout; if it fails, the lease ends the key.
        tokio::spawn(async move { recipe.delete(key).await });
    }
}

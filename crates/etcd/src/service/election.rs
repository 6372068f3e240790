//! `v3electionpb.Election`.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use goulette_proto::etcd::{
    etcdserverpb::{DeleteRangeRequest, PutRequest, request_op::Request as Op},
    mvccpb::{KeyValue, event::EventType},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
        ResignRequest, ResignResponse, election_server::Election,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    admit,
    lock::Place,
    recipe::{Changes, Recipe, created, passed_on},
};
use crate::{node::Node, store::KeyRange};

/// What etcd's client library says, and its server passes on.
const NO_LEADER: &str = "election: no leader";
const NOT_LEADER: &str = "election: not leader";
const NO_LEADER_KEY: &str = "\"leader\" field must be provided";
/// Leaders that an observer has yet to read.
const OBSERVED_MAX: usize = 16;

pub(crate) struct ElectionService {
    pub(crate) node: Arc<Node>,
}

impl ElectionService {
    async fn recipe<T>(&self, request: Request<T>, name: impl Fn(&T) -> &[u8]) -> Result<(Recipe, T), Status> {
        admit(&self.node, request.metadata())?;
        let caller = self.node.asker(request.metadata()).await.map_err(passed_on)?;
        let request = request.into_inner();
        Ok((Recipe::new(&self.node, caller, name(&request)), request))
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let (recipe, request) = self.recipe(request, |request| &request.name).await?;
        let own = recipe.enter(request.lease, request.value.clone()).await?;
        let stale = own.before.as_ref().is_some_and(|before| before.value != request.value);
        let mut place = Place::new(recipe, own);
        let leader = LeaderKey {
            name: request.name,
            key: place.own.key.clone(),
            rev: place.own.created,
            lease: place.own.lease,
        };
        if stale {
            proclaim(&place.recipe, &leader, request.value).await?;
        }
        place.recipe.wait_turn(&place.own).await?;
        place.is_kept = true;
        Ok(Response::new(CampaignResponse { header: place.own.header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let leader = request.get_ref().leader.clone().ok_or_else(|| Status::unknown(NO_LEADER_KEY))?;
        let (recipe, request) = self.recipe(request, |_| b"").await?;
        let header = proclaim(&recipe, &leader, request.value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (recipe, _) = self.recipe(request, |request| &request.name).await?;
        match recipe.first().await? {
            (Some(kv), header) => Ok(Response::new(LeaderResponse { header, kv: Some(kv) })),
            (None, _) => Err(Status::unknown(NO_LEADER)),
        }
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (recipe, _) = self.recipe(request, |request| &request.name).await?;
        let (sender, receiver) = mpsc::channel(OBSERVED_MAX);
        tokio::spawn(async move {
            // Ends with the stream that reads it.
            tokio::select! {
                Err(error) = observe(&recipe, &sender) => drop(sender.send(Err(error)).await),
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let leader = request.get_ref().leader.clone().ok_or_else(|| Status::unknown(NO_LEADER_KEY))?;
        let (recipe, _) = self.recipe(request, |_| b"").await?;
        let delete = DeleteRangeRequest { key: leader.key.clone(), ..DeleteRangeRequest::default() };
        let compare = created(&leader.key, leader.rev);
        let response = recipe.txn(compare, vec![Op::RequestDeleteRange(delete)], Vec::new()).await?;
        Ok(Response::new(ResignResponse { header: response.header }))
    }
}

/// Gives the leader's key a new value, while it is the leader's.
async fn proclaim(
    recipe: &Recipe,
    leader: &LeaderKey,
    value: bytes::Bytes,
) -> Result<Option<goulette_proto::etcd::etcdserverpb::ResponseHeader>, Status> {
    let put = PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..PutRequest::default() };
    let response = recipe.txn(created(&leader.key, leader.rev), vec![Op::RequestPut(put)], Vec::new()).await?;
    if response.succeeded { Ok(response.header) } else { Err(Status::unknown(NOT_LEADER)) }
}

/// Tells every leader, and every value that a leader proclaims. A reader that lags is told the newest.
async fn observe(recipe: &Recipe, to: &mpsc::Sender<Result<LeaderResponse, Status>>) -> Result<(), Status> {
    let keys = KeyRange::new(recipe.prefix.clone().into(), recipe.prefix_end());
    let mut changes = Changes::of(&recipe.node, keys);
    let mut told: Option<KeyValue> = None;
    loop {
        let (leader, _) = recipe.first().await?;
        if let Some(kv) = leader {
            // What was told before this look may be in the changes that follow it.
            let is_news = told.as_ref().is_none_or(|told| told.mod_revision < kv.mod_revision);
            if is_news && !tell(recipe, to, &kv).await {
                return Ok(());
            }
            told = Some(kv);
        }
        // The same leader goes on until its key is deleted; without one, any new key may be the leader's.
        loop {
            let Some(event) = changes.next().await else { break };
            let is_put = event.r#type() == EventType::Put;
            match (event.kv, &told) {
                (Some(kv), Some(leader)) if kv.key == leader.key && is_put => {
                    if kv.mod_revision > leader.mod_revision {
                        if !tell(recipe, to, &kv).await {
                            return Ok(());
                        }
                        told = Some(kv);
                    }
                }
                (Some(kv), Some(leader)) if kv.key == leader.key && kv.mod_revision > leader.mod_revision => {
                    told = None;
                    break;
                }
                (Some(_), Some(_)) | (None, _) => {}
                (Some(_), None) => break,
            }
        }
    }
}

async fn tell(recipe: &Recipe, to: &mpsc::Sender<Result<LeaderResponse, Status>>, kv: &KeyValue) -> bool {
    let header = Some(recipe.node.header_at(kv.mod_revision));
    to.send(Ok(LeaderResponse { header, kv: Some(kv.clone()) })).await.is_ok()
}

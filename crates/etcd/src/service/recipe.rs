//! The recipe behind locks and elections, as etcd's clients run it: whoever has put a key under a prefix waits until all
//! keys there that are older are gone. The oldest key holds the lock, or leads.

use std::sync::Arc;

use bytes::Bytes;
use goulette_proto::etcd::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request as Op,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};
use tonic::Status;

use super::kv::unexpected;
use crate::{
    EtcdError,
    auth::{Caller, check_range},
    node::Node,
    state,
    store::KeyRange,
    watch::{Interest, Mailbox, Notice},
};

/// Time to live of the lease of a caller who brought none, in seconds; nobody keeps it alive.
const LEASE_TTL: i64 = 60;

/// The keys under one prefix, in the name of one caller.
pub(super) struct Recipe {
    pub(super) node: Arc<Node>,
    pub(super) caller: Caller,
    /// Ends in a slash.
    pub(super) prefix: Vec<u8>,
}

/// A caller's own key.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) key: Bytes,
    pub(super) lease: i64,
    /// The revision at which it was made.
    pub(super) created: i64,
    /// What was there before, if it was there before.
    pub(super) before: Option<KeyValue>,
    pub(super) header: Option<ResponseHeader>,
}

impl Recipe {
    pub(super) fn new(node: &Arc<Node>, caller: Caller, name: &[u8]) -> Self {
        Self { node: Arc::clone(node), caller, prefix: [name, b"/"].concat() }
    }

    /// Puts the caller's key for `lease` (0: a new one) unless it is there.
    pub(super) async fn enter(&self, lease: i64, value: Bytes) -> Result<Own, Status> {
        let lease = if lease == 0 { self.grant().await? } else { lease };
        let key = Bytes::from([&self.prefix[..], format!("{lease:x}").as_bytes()].concat());
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let response = self.txn(created(&key, 0), vec![Op::RequestPut(put)], vec![Op::RequestRange(get)]).await?;
        let mut before = None;
        if !response.succeeded {
            use goulette_proto::etcd::etcdserverpb::response_op::Response;
            for op in response.responses {
                if let Some(Response::ResponseRange(range)) = op.response {
                    before = range.kvs.into_iter().next();
                }
            }
        }
        let header = response.header;
        let revision = header.as_ref().map_or(0, |header| header.revision);
        let created = before.as_ref().map_or(revision, |kv| kv.create_revision);
        Ok(Own { key, lease, created, before, header })
    }

    /// Waits until no key under the prefix is older than `own`.
    pub(super) async fn wait_turn(&self, own: &Own) -> Result<(), Status> {
        loop {
            let older = RangeRequest {
                max_create_revision: own.created - 1,
                sort_order: SortOrder::Descend.into(),
                ..self.by_creation()
            };
            match self.range(&older).await?.kvs.into_iter().next() {
                Some(kv) => self.wait_gone(&kv).await?,
                None => return Ok(()),
            }
        }
    }

    /// The oldest key under the prefix.
    pub(super) async fn first(&self) -> Result<(Option<KeyValue>, Option<ResponseHeader>), Status> {
        let oldest = RangeRequest { sort_order: SortOrder::Ascend.into(), ..self.by_creation() };
        let response = self.range(&oldest).await?;
        Ok((response.kvs.into_iter().next(), response.header))
    }

    fn by_creation(&self) -> RangeRequest {
        RangeRequest {
            key: self.prefix.clone().into(),
            range_end: self.prefix_end(),
            limit: 1,
            sort_target: SortTarget::Create.into(),
            ..RangeRequest::default()
        }
    }

    pub(super) fn prefix_end(&self) -> Bytes {
        let mut end = self.prefix.clone();
        // The prefix ends in a slash, which is not the last of all bytes.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end.into()
    }

    /// A linearizable read.
    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        self.node.read_barrier().await.map_err(passed_on)?;
        check_range(&self.node.state.auth.state(), &self.caller, request).map_err(passed_on)?;
        let response = self.node.state.store.range(request);
        let mut response = response.map_err(|failure| passed_on(failure.into()))?;
        response.header = self.node.header(response.header);
        Ok(response)
    }

    /// One transaction with one comparison.
    pub(super) async fn txn(&self, compare: Compare, then: Vec<Op>, otherwise: Vec<Op>) -> Result<TxnResponse, Status> {
        let ops = |ops: Vec<Op>| ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
        let txn = TxnRequest { compare: vec![compare], success: ops(then), failure: ops(otherwise) };
        let request = InternalRaftRequest { txn: Some(txn), ..InternalRaftRequest::default() };
        match self.node.request(&self.caller, request).await.map_err(passed_on)? {
            state::Response::Txn(mut response) => {
                response.header = self.node.header(response.header);
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a key.
    pub(super) async fn delete(&self, key: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let request = InternalRaftRequest { delete_range: Some(delete), ..InternalRaftRequest::default() };
        match self.node.request(&self.caller, request).await.map_err(passed_on)? {
            state::Response::DeleteRange(response) => Ok(self.node.header(response.header)),
            other => Err(unexpected(&other)),
        }
    }

    async fn grant(&self) -> Result<i64, Status> {
        let id = (self.node.next_id() & i64::MAX as u64) as i64;
        let grant = LeaseGrantRequest { ttl: LEASE_TTL, id };
        let request = InternalRaftRequest { lease_grant: Some(grant), ..InternalRaftRequest::default() };
        match self.node.request(&self.caller, request).await.map_err(passed_on)? {
            state::Response::LeaseGrant(response) => Ok(response.id),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until this very key, by its revision of creation, is deleted.
    async fn wait_gone(&self, kv: &KeyValue) -> Result<(), Status> {
        let single = RangeRequest { key: kv.key.clone(), ..RangeRequest::default() };
        let mut changes = Changes::of(&self.node, KeyRange::new(kv.key.clone(), Bytes::new()));
        loop {
            // Whatever changes after this look is told.
            let now = self.node.state.store.range(&single).map_err(|failure| passed_on(failure.into()))?;
            if now.kvs.first().is_none_or(|now| now.create_revision != kv.create_revision) {
                return Ok(());
            }
            loop {
                match changes.next().await {
                    Some(event) if event.r#type() == EventType::Put => {}
                    // Deleted, or this reader was too slow and looks again.
                    _ => break,
                }
            }
        }
    }
}

/// A refusal of what is done for the caller. etcd's service is a client of its own server and passes on the text alone.
pub(super) fn passed_on(refused: EtcdError) -> Status {
    Status::unknown(refused.to_string())
}

/// The comparison that holds while `key` was made at `revision`; 0: does not exist.
pub(super) fn created(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// Changes of keys from now on, as this member applies them.
pub(super) struct Changes {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    interest: Interest,
    waiting: std::collections::VecDeque<Event>,
}

impl Changes {
    pub(super) fn of(node: &Arc<Node>, keys: KeyRange) -> Self {
        let interest = Interest { keys, no_put: false, no_delete: false };
        let changes = Self { node: Arc::clone(node), mailbox: Mailbox::new(), interest, waiting: Default::default() };
        changes.join();
        changes
    }

    fn join(&self) {
        let hub = &self.node.state.watches;
        // Refused only if something was told between the two calls.
        while !hub.join(&self.mailbox, 0, &self.interest, hub.revision() + 1) {}
    }

    /// The next change; `None` if some were lost because the reader was too slow: it must look anew.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            match self.mailbox.take() {
                Some(Notice::Delivery(delivery)) => self.waiting.extend(delivery.events),
                Some(Notice::Progress { .. }) => {}
                None if self.mailbox.behind().is_some() => {
                    self.join();
                    return None;
                }
                None => self.mailbox.arrived().await,
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.node.state.watches.leave(&self.mailbox, 0, &self.interest.keys);
    }
}

//! Carries entries out: every decision comes from the state and the entry alone.

use std::time::Duration;

use bytes::Bytes;
use goulette_logging::warn;
use goulette_proto::etcd::etcdserverpb::{
    AlarmResponse, AlarmType, CompactionResponse, DeleteRangeResponse, InternalRaftRequest, LeaseCheckpointResponse,
    LeaseGrantResponse, LeaseRevokeResponse, PutResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
    request_op::Request,
};
use prost::Message;
use redb::Durability;
use tokio::sync::oneshot;

use super::{State, encode_configuration, write_auth};
use crate::{
    EtcdError,
    auth::{AuthReply, Caller, check_delete, check_lease_writable, check_put, check_txn},
    consensus::{Committed, LogPosition, Payload},
    store::{Batch, Changes, Compaction, Failure, StoreError, tables},
};

/// The result of one entry.
pub type Applied = Result<Response, EtcdError>;

/// What an entry answers; headers have a revision at most.
#[derive(Debug)]
pub enum Response {
    /// Of a write.
    Put(PutResponse),
    /// Of a deletion.
    DeleteRange(DeleteRangeResponse),
    /// Of a transaction.
    Txn(TxnResponse),
    /// Of a compaction; the other end tells when the space is free.
    Compaction(CompactionResponse, oneshot::Receiver<()>),
    /// Of a grant.
    LeaseGrant(LeaseGrantResponse),
    /// Of a revocation.
    LeaseRevoke(LeaseRevokeResponse),
    /// Of a checkpoint.
    LeaseCheckpoint(LeaseCheckpointResponse),
    /// Of an alarm.
    Alarm(AlarmResponse),
    /// About users and roles.
    #[expect(private_interfaces, reason = "only the service in this crate reads it")]
    Auth(AuthReply),
    /// Nothing to say.
    Done,
}

/// What a group of entries came to.
pub(super) struct Group {
    pub(super) responses: Vec<(u64, Applied)>,
    pub(super) changes: Vec<Changes>,
    pub(super) compactions: Vec<(Compaction, Option<oneshot::Sender<()>>)>,
    pub(super) configuration: Option<(LogPosition, Bytes)>,
}

impl State {
    pub(super) fn apply_group(
        &self,
        entries: Vec<Committed>,
        durability: Durability,
        now: Duration,
    ) -> Result<Group, StoreError> {
        let mut group =
            Group { responses: Vec::new(), changes: Vec::new(), compactions: Vec::new(), configuration: None };
        self.store.write(durability, |batch| {
            for entry in &entries {
                self.apply_entry(batch, entry, now, &mut group)?;
            }
            if let Some(last) = entries.last() {
                batch.set_position(last.position)?;
            }
            group.changes = batch.take_changes();
            Ok(())
        })?;
        Ok(group)
    }

    fn apply_entry(
        &self,
        batch: &mut Batch<'_>,
        entry: &Committed,
        now: Duration,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        match &entry.payload {
            Payload::Blank => {}
            Payload::Members { configuration, members } => {
                self.members.set_all(batch, members)?;
                let stored = encode_configuration(entry.position, configuration);
                batch.bucket(tables::GOULETTE)?.insert(tables::goulette::CONFIGURATION, &stored[..])?;
                group.configuration = Some((entry.position, configuration.clone()));
            }
            Payload::Request(bytes) => {
                // Every member stores the same bytes, so every member skips what none can read.
                let Ok(request) = InternalRaftRequest::decode(bytes.clone()) else {
                    warn!("entry {} cannot be read: skipped", entry.position.index);
                    return Ok(());
                };
                let header = request.header.as_ref();
                let id = header.map_or(request.id, |header| header.id);
                let result = match self.apply_request(batch, &request, entry.position.index, now, group) {
                    Ok(response) => Ok(response),
                    Err(Failure::Refused(error)) => Err(error),
                    Err(Failure::Fatal(failure)) => return Err(failure),
                };
                if self.waiters.is_awaited(id) {
                    group.responses.push((id, result));
                }
            }
        }
        Ok(())
    }

    fn apply_request(
        &self,
        batch: &mut Batch<'_>,
        request: &InternalRaftRequest,
        index: u64,
        now: Duration,
        group: &mut Group,
    ) -> Result<Response, Failure> {
        let header = request.header.as_ref();
        let caller = Caller {
            user: header.map_or_else(String::new, |header| header.username.clone()),
            revision: header.map_or(0, |header| header.auth_revision),
        };
        if let Some(result) = self.auth.apply(now, index, &caller, request) {
            let reply = result?;
            write_auth(batch, &self.auth.take_rows())?;
            return Ok(Response::Auth(reply));
        }
        self.refuse_alarmed(request)?;
        let keys_of = |lease| self.lessor.keys(lease).unwrap_or_default();
        let auth = self.auth.state();
        if let Some(put) = &request.put {
            check_put(&auth, &caller, &keys_of, put)?;
            return Ok(Response::Put(batch.put(put, &self.lessor)?));
        }
        if let Some(delete) = &request.delete_range {
            check_delete(&auth, &caller, delete)?;
            return Ok(Response::DeleteRange(batch.delete_range(delete, &self.lessor)?));
        }
        if let Some(txn) = &request.txn {
            check_txn(&auth, &caller, &keys_of, txn)?;
            return Ok(Response::Txn(batch.txn(txn, &self.lessor)?));
        }
        if let Some(compaction) = &request.compaction {
            let compacted = batch.compact(compaction.revision)?;
            let (done, wait) = oneshot::channel();
            group.compactions.push((compacted, Some(done)));
            return Ok(Response::Compaction(CompactionResponse { header: header_of(batch) }, wait));
        }
        if let Some(grant) = &request.lease_grant {
            let ttl = self.lessor.grant(batch, grant, now)?;
            let response = LeaseGrantResponse { header: header_of(batch), id: grant.id, ttl, error: String::new() };
            return Ok(Response::LeaseGrant(response));
        }
        if let Some(revoke) = &request.lease_revoke {
            check_lease_writable(&auth, &caller, &keys_of, revoke.id)?;
            self.lessor.revoke(batch, revoke.id)?;
            return Ok(Response::LeaseRevoke(LeaseRevokeResponse { header: header_of(batch) }));
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            self.lessor.checkpoint(batch, &checkpoint.checkpoints, now)?;
            return Ok(Response::LeaseCheckpoint(LeaseCheckpointResponse { header: header_of(batch) }));
        }
        if let Some(alarm) = &request.alarm {
            let mut response = self.alarms.apply(batch, alarm)?;
            response.header = header_of(batch);
            return Ok(Response::Alarm(response));
        }
        if let Some(version) = &request.cluster_version_set {
            self.members.set_version(batch, &version.ver)?;
        }
        if let Some(attributes) = &request.cluster_member_attr_set {
            self.members.set_attributes(batch, attributes)?;
        }
        if let Some(downgrade) = &request.downgrade_info_set {
            let json = serde_json::json!({ "target-version": downgrade.ver, "enabled": downgrade.enabled });
            let stored = json.to_string();
            let mut cluster = batch.bucket(tables::CLUSTER)?;
            cluster.insert(tables::cluster::DOWNGRADE, stored.as_bytes()).map_err(StoreError::from)?;
        }
        Ok(Response::Done)
    }

    /// What an alarm forbids: with damaged data everything, without space whatever takes some.
    fn refuse_alarmed(&self, request: &InternalRaftRequest) -> Result<(), EtcdError> {
        let touches = request.put.is_some()
            || request.delete_range.is_some()
            || request.txn.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some()
            || request.lease_revoke.is_some();
        if touches && self.alarms.is_on(AlarmType::Corrupt) {
            return Err(EtcdError::Corrupt);
        }
        let takes = request.put.is_some() || request.lease_grant.is_some() || request.txn.as_ref().is_some_and(puts);
        if takes && self.alarms.is_on(AlarmType::Nospace) {
            return Err(EtcdError::NoSpace);
        }
        Ok(())
    }
}

fn header_of(batch: &Batch<'_>) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: batch.revision(), ..ResponseHeader::default() })
}

/// Whether a transaction may write.
fn puts(request: &TxnRequest) -> bool {
    let op_puts = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    };
    request.success.iter().chain(&request.failure).any(op_puts)
}

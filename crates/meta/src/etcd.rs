//! The store of several sentinels: an etcd cluster, external or our own, spoken to over etcd's v3 interface.
//!
//! Reads are linearizable. A write is sent once: whether to send it again after an unknown outcome is for the caller to
//! decide, who can read what became of it. Endpoints are tried in turn, from the one that answered last.

mod endpoints;
mod lease;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use goulette_proto::etcd::etcdserverpb::{self as pb, compare, kv_client::KvClient, request_op};
use goulette_types::Revision;
use tonic::transport::Channel;

use crate::{
    keys,
    store::{Answer, Guard, MetaError, MetaStore, MetaTxn, MetaWatch, Outcome, Snapshot, Stored},
};
use endpoints::{Attempt, Endpoints};
use watch::EtcdWatch;

/// Keys read by one request, so that no answer outgrows what gRPC takes.
const PAGE: i64 = 1_000;
/// The largest answer taken, in bytes: a page of keys at etcd's own limit of 1.5 MiB each is refused.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How an etcd cluster is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Its members' client addresses, `host:port`; at least one.
    pub endpoints: Vec<String>,
    /// What keys begin with in place of `/goulette`; without a slash at its end.
    pub prefix: String,
    /// Name and password, for an etcd with users.
    pub user: Option<(String, String)>,
    /// Certificates; without them the connection is not encrypted.
    pub tls: Option<EtcdTls>,
    /// How long one request may take on one endpoint. Default: 3 s.
    pub request_timeout: Duration,
}

impl EtcdOptions {
    /// These endpoints, and the defaults.
    pub fn new(endpoints: Vec<String>) -> Self {
        let prefix = keys::PREFIX.trim_end_matches('/').to_owned();
        Self { endpoints, prefix, user: None, tls: None, request_timeout: Duration::from_secs(3) }
    }
}

/// Certificates for an encrypted etcd, as PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs the etcd's certificates.
    pub ca: Vec<u8>,
    /// Our own certificate chain and its key, for an etcd that asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the password.
        let user = self.user.as_ref().map(|(name, _)| name);
        out.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &user)
            .field("encrypted", &self.tls.is_some())
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// Metadata in an etcd cluster.
#[derive(Debug)]
pub struct EtcdStore {
    endpoints: Endpoints,
    names: Names,
}

impl EtcdStore {
    /// A store that connects when it is first used.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if there is no endpoint, or one is no address.
    pub fn new(options: &EtcdOptions) -> Result<Self, MetaError> {
        let names = Names { ours: keys::PREFIX.trim_end_matches('/'), theirs: options.prefix.clone() };
        Ok(Self { endpoints: Endpoints::new(options)?, names })
    }

    fn kv(channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    async fn page(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, MetaError> {
        let call = |channel: Channel, attempt: Attempt| {
            let request = request.clone();
            async move { Self::kv(channel).range(attempt.request(request)).await }
        };
        Ok(self.endpoints.read(call).await?.into_inner())
    }

    fn stored(&self, found: goulette_proto::etcd::mvccpb::KeyValue) -> Result<Stored, MetaError> {
        let revision = Revision(found.mod_revision.unsigned_abs());
        Ok(Stored { key: self.names.ours(&found.key)?, value: found.value, revision })
    }
}

impl MetaStore for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>> {
        Box::pin(async move {
            let answer = self.page(pb::RangeRequest { key: self.names.theirs(key), ..Default::default() }).await?;
            answer.kvs.into_iter().next().map(|found| self.stored(found)).transpose()
        })
    }

    fn range<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            let first = self.names.theirs(prefix);
            let mut request =
                pb::RangeRequest { range_end: behind(&first), key: first, limit: PAGE, ..Default::default() };
            let mut entries = Vec::new();
            loop {
                let answer = self.page(request.clone()).await?;
                if request.revision == 0 {
                    // All further pages as of the same moment.
                    request.revision = answer.header.map_or(0, |header| header.revision);
                }
                let last = answer.kvs.last().map(|found| found.key.clone());
                for found in answer.kvs {
                    entries.push(self.stored(found)?);
                }
                match last {
                    Some(last) if answer.more => request.key = [&last[..], &[0]].concat().into(),
                    _ => return Ok(Snapshot { revision: Revision(request.revision.unsigned_abs()), entries }),
                }
            }
        })
    }

    fn txn(&self, txn: MetaTxn) -> Answer<'_, Outcome> {
        Box::pin(async move {
            txn.check()?;
            let lease = txn.lease.map_or(0, |lease| lease.0);
            let request = pb::TxnRequest {
                compare: txn.guards.into_iter().map(|guard| self.compare(guard)).collect(),
                success: txn.writes.into_iter().map(|write| self.write(write, lease)).collect(),
                failure: Vec::new(),
            };
            let call = |channel: Channel, attempt: Attempt| {
                let request = request.clone();
                async move { Self::kv(channel).txn(attempt.request(request)).await }
            };
            let answer = self.endpoints.write(call).await?.into_inner();
            if !answer.succeeded {
                return Ok(Outcome::Conflict);
            }
            Ok(Outcome::Committed(Revision(answer.header.map_or(0, |header| header.revision).unsigned_abs())))
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn MetaWatch> {
        Box::new(EtcdWatch::new(self.endpoints.clone(), self.names.clone(), self.names.theirs(prefix), from))
    }
}

impl EtcdStore {
    fn compare(&self, guard: Guard) -> pb::Compare {
        pb::Compare {
            key: self.names.theirs(&guard.key),
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            target_union: Some(compare::TargetUnion::ModRevision(guard.revision.0 as i64)),
            ..Default::default()
        }
    }

    fn write(&self, (key, value): (String, Option<Bytes>), lease: i64) -> pb::RequestOp {
        let key = self.names.theirs(&key);
        let request = match value {
            Some(value) => request_op::Request::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() }),
            None => request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
        };
        pb::RequestOp { request: Some(request) }
    }
}

/// Our keys' names in this etcd.
#[derive(Clone, Debug)]
struct Names {
    ours: &'static str,
    theirs: String,
}

impl Names {
    fn theirs(&self, key: &str) -> Bytes {
        match key.strip_prefix(self.ours) {
            Some(rest) => format!("{}{rest}", self.theirs).into(),
            None => key.to_owned().into(),
        }
    }

    fn ours(&self, key: &Bytes) -> Result<String, MetaError> {
        let key = std::str::from_utf8(key).map_err(|_| MetaError::ForeignKey)?;
        Ok(match key.strip_prefix(&self.theirs) {
            Some(rest) => format!("{}{rest}", self.ours),
            None => key.to_owned(),
        })
    }
}

/// The first key behind all that begin with `prefix`; `\0`, etcd's word for no end, where there is none.
fn behind(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_to_another_prefix_and_back() {
        let names = Names { ours: "/goulette", theirs: "/teams/blue".to_owned() };
        assert_eq!(names.theirs("/goulette/topics/a"), "/teams/blue/topics/a");
        assert_eq!(names.ours(&"/teams/blue/topics/a".into()).unwrap(), "/goulette/topics/a");
        assert!(matches!(names.ours(&Bytes::from_static(b"\xff")), Err(MetaError::ForeignKey)));
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(behind(&"/a/".into()), "/a0");
        assert_eq!(behind(&Bytes::from_static(b"a\xff\xff")), "b");
        assert_eq!(behind(&Bytes::from_static(b"\xff")), Bytes::from_static(b"\0"));
    }

    #[test]
    fn options_never_show_the_password() {
        let options = EtcdOptions { user: Some(("root".into(), "secret".into())), ..EtcdOptions::new(vec![]) };
        let shown = format!("{options:?}");
        assert!(shown.contains("root") && !shown.contains("secret"), "{shown}");
    }
}

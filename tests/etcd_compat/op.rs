//! One step of a run, complete in itself: it can be replayed without the steps before it.

use std::fmt;

use crate::pb::{authpb::permission, etcdserverpb as pb};

/// Revisions in stored requests are relative to the current one when they stand this high, so that a step keeps its
/// meaning when steps before it are taken out.
const RELATIVE: i64 = 1 << 40;

pub(crate) fn relative(delta: i64) -> i64 {
    RELATIVE + delta
}

fn resolve(revision: &mut i64, current: i64) {
    if *revision > RELATIVE / 2 && *revision < RELATIVE * 2 {
        // Below zero means something else to etcd; what is left of a short history is its beginning.
        *revision = (current + (*revision - RELATIVE)).max(1);
    }
}

/// A call, and whose token goes with it.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) user: Option<usize>,
    pub(crate) call: Call,
}

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(i64),
    LeaseKeepAlive(i64),
    LeaseTimeToLive(i64, bool),
    Leases,
    /// Grants a lease of the shortest time (101 - id: one second or less) with a key, and waits until it is over.
    LeaseExpire(i64),
    /// Two callers and one lock; whether the second one's lease ends while it waits.
    LockStory(&'static str, bool),
    /// Two candidates.
    ElectionStory(&'static str),
    /// Opens a stream anew with the user's token. The watchers on it are gone.
    WatchOpen(usize),
    WatchCreate(usize, pb::WatchCreateRequest),
    WatchCancel(usize, i64),
    /// Waits until all watchers have seen everything, and compares what they saw.
    WatchCheck,
    HashKv(i64),
    Hash,
    Status,
    Alarm(pb::AlarmRequest),
    Defragment,
    MoveLeader(u64),
    Downgrade(pb::DowngradeRequest),
    MemberList(bool),
    MemberAdd(Vec<String>),
    MemberRemove(u64),
    MemberUpdate(u64, Vec<String>),
    MemberPromote(u64),
    AuthEnable,
    AuthDisable,
    AuthStatus,
    Authenticate(usize, String),
    UserAdd(pb::AuthUserAddRequest),
    UserGet(String),
    UserList,
    UserDelete(String),
    UserChangePassword(String, String),
    UserGrantRole(String, String),
    UserRevokeRole(String, String),
    RoleAdd(String),
    RoleGet(String),
    RoleList,
    RoleDelete(String),
    RoleGrantPermission(String, permission::Type, Vec<u8>, Vec<u8>),
    RoleRevokePermission(String, Vec<u8>, Vec<u8>),
}

pub(crate) const USERS: [&str; 4] = ["root", "ann", "bob", "cat"];

impl Op {
    /// With all relative revisions made absolute.
    pub(crate) fn resolved(&self, current: i64) -> Self {
        let mut op = self.clone();
        match &mut op.call {
            Call::Range(range) => resolve_range(range, current),
            Call::Txn(txn) => resolve_txn(txn, current),
            Call::Compact(request) => resolve(&mut request.revision, current),
            Call::WatchCreate(_, request) => resolve(&mut request.start_revision, current),
            Call::HashKv(revision) => resolve(revision, current),
            _ => {}
        }
        op
    }

    pub(crate) fn name(&self) -> String {
        let text = format!("{:?}", self.call);
        text.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }
}

fn resolve_range(range: &mut pb::RangeRequest, current: i64) {
    resolve(&mut range.revision, current);
    for revision in [
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        resolve(revision, current);
    }
}

fn resolve_txn(txn: &mut pb::TxnRequest, current: i64) {
    use pb::{compare::TargetUnion, request_op::Request};
    for compare in &mut txn.compare {
        if let Some(TargetUnion::ModRevision(revision) | TargetUnion::CreateRevision(revision)) =
            &mut compare.target_union
        {
            resolve(revision, current);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestRange(range)) => resolve_range(range, current),
            Some(Request::RequestTxn(inner)) => resolve_txn(inner, current),
            _ => {}
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.user {
            None => write!(f, "{}", brief(&format!("{:?}", self.call))),
            Some(user) => write!(f, "[{}] {}", USERS[user], brief(&format!("{:?}", self.call))),
        }
    }
}

/// A message's debug text without the fields that hold their default.
pub(crate) fn brief(text: &str) -> String {
    let mut out = text.to_owned();
    for default in ["0", "false", "b\"\"", "\"\"", "None", "[]"] {
        for (end, kept) in [(", ", ""), (" }", " }")] {
            let needle = format!(": {default}{end}");
            while let Some(at) = out.find(&needle) {
                let start = out[..at].rfind([' ', '{', '(']).map_or(0, |space| space + 1);
                out.replace_range(start..at + needle.len(), kept);
            }
        }
    }
    for (from, to) in [(",  }", " }"), ("{  }", "{}"), ("header: Some(ResponseHeader", "header: (ResponseHeader")] {
        out = out.replace(from, to);
    }
    out
}

//! What a request needs permission for, asked of the same state that it is then carried out on.

use bytes::Bytes;
use goulette_proto::etcd::etcdserverpb as pb;

use super::state::{AuthState, Caller};
use crate::EtcdError;

/// The keys that hang on a lease; none for a lease that is unknown.
pub(crate) type LeaseKeys<'a> = &'a dyn Fn(i64) -> Vec<Bytes>;

/// Reading a range.
pub(crate) fn check_range(auth: &AuthState, caller: &Caller, request: &pb::RangeRequest) -> Result<(), EtcdError> {
    auth.check_read(caller, &request.key, &request.range_end)
}

/// Writing a key. Who hangs it on a lease must be able to write all keys of that lease: they share their end.
pub(crate) fn check_put(
    auth: &AuthState,
    caller: &Caller,
    keys: LeaseKeys<'_>,
    request: &pb::PutRequest,
) -> Result<(), EtcdError> {
    auth.check_write(caller, &request.key, &[])?;
    check_lease_writable(auth, caller, keys, request.lease)?;
    if request.prev_kv {
        auth.check_read(caller, &request.key, &[])?;
    }
    Ok(())
}

/// Deleting a range; the deleted values are told to those who may read them.
pub(crate) fn check_delete(
    auth: &AuthState,
    caller: &Caller,
    request: &pb::DeleteRangeRequest,
) -> Result<(), EtcdError> {
    auth.check_write(caller, &request.key, &request.range_end)?;
    if request.prev_kv {
        auth.check_read(caller, &request.key, &request.range_end)?;
    }
    Ok(())
}

/// A transaction: every comparison reads, and both branches must be allowed, whichever is taken.
///
/// Nested transactions are as deep as the service lets in.
pub(crate) fn check_txn(
    auth: &AuthState,
    caller: &Caller,
    keys: LeaseKeys<'_>,
    request: &pb::TxnRequest,
) -> Result<(), EtcdError> {
    for compare in &request.compare {
        auth.check_read(caller, &compare.key, &compare.range_end)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        use pb::request_op::Request;
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(auth, caller, range)?,
            Some(Request::RequestPut(put)) => check_put(auth, caller, keys, put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete(auth, caller, delete)?,
            Some(Request::RequestTxn(txn)) => check_txn(auth, caller, keys, txn)?,
            None => {}
        }
    }
    Ok(())
}

/// Revoking or renewing a lease, which decides over all its keys.
pub(crate) fn check_lease_writable(
    auth: &AuthState,
    caller: &Caller,
    keys: LeaseKeys<'_>,
    lease: i64,
) -> Result<(), EtcdError> {
    if lease == 0 || auth.check_admin(caller).is_ok() {
        return Ok(());
    }
    keys(lease).iter().try_for_each(|key| auth.check_write(caller, key, &[]))
}

/// Seeing the keys of a lease.
pub(crate) fn check_lease_readable(
    auth: &AuthState,
    caller: &Caller,
    keys: LeaseKeys<'_>,
    lease: i64,
) -> Result<(), EtcdError> {
    if auth.check_admin(caller).is_ok() {
        return Ok(());
    }
    keys(lease).iter().try_for_each(|key| auth.check_read(caller, key, &[]))
}

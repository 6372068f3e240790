//! etcd's transactions: compare with the state before, then do one of two lists of operations, which may hold
//! transactions again.

use std::{cmp::Ordering, collections::BTreeSet};

use bytes::Bytes;
use goulette_proto::etcd::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RequestOp,
        ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};
use redb::ReadableTable;

use super::{Batch, Failure, KeyRange, Memory, RangeEnd, Reading, Store, StoreError, batch::Transaction, change_at};
use crate::{EtcdError, lease::Lessor};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

impl Batch<'_> {
    /// Writes a key.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`], [`EtcdError::KeyNotFound`] if something of an absent key is to be kept.
    pub fn put(&mut self, request: &PutRequest, leases: &Lessor) -> Result<PutResponse, Failure> {
        if request.lease != 0 && !leases.exists(request.lease) {
            return Err(EtcdError::LeaseNotFound.into());
        }
        let mut transaction = self.transaction(leases);
        let response = put(&mut transaction, request);
        transaction.end();
        response
    }

    /// Deletes a range of keys.
    ///
    /// # Errors
    /// [`Failure::Fatal`] only.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        leases: &Lessor,
    ) -> Result<DeleteRangeResponse, Failure> {
        let mut transaction = self.transaction(leases);
        let response = delete_range(&mut transaction, request);
        transaction.end();
        response
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// Those of its operations; then none of them is carried out.
    pub fn txn(&mut self, request: &TxnRequest, leases: &Lessor) -> Result<TxnResponse, Failure> {
        let path = {
            let memory = self.store.memory();
            let view =
                View { memory: &memory, table: &self.key, revision: self.revision, compacted: self.compacted, leases };
            let path = view.path(request)?;
            view.check(request, &path)?;
            path
        };
        let mut transaction = self.transaction(leases);
        let response = execute(&mut transaction, request, &path);
        let revision = transaction.end();
        let mut response = response?;
        response.header = header(revision);
        Ok(response)
    }
}

impl Store {
    /// Carries out a transaction of nothing but reads.
    ///
    /// # Errors
    /// Those of its reads.
    pub fn txn_read(&self, request: &TxnRequest, leases: &Lessor) -> Result<TxnResponse, Failure> {
        let reading = self.read()?;
        let (revision, compacted) = (reading.memory.revision, reading.memory.compacted);
        let view = View { memory: &reading.memory, table: &reading.table, revision, compacted, leases };
        let path = view.path(request)?;
        view.check(request, &path)?;
        execute_reads(&reading, request, &path)
    }
}

/// Which way a transaction goes, and the transactions within that list, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

fn chosen<'r>(request: &'r TxnRequest, path: &Path) -> &'r [RequestOp] {
    if path.succeeded { &request.success } else { &request.failure }
}

/// The state before a transaction.
struct View<'v, T> {
    memory: &'v Memory,
    table: &'v T,
    revision: i64,
    compacted: i64,
    leases: &'v Lessor,
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> View<'_, T> {
    fn path(&self, request: &TxnRequest) -> Result<Path, StoreError> {
        let mut succeeded = true;
        for compare in &request.compare {
            succeeded = succeeded && self.holds(compare)?;
        }
        let mut path = Path { succeeded, nested: Vec::new() };
        for op in chosen(request, &path) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                let nested = self.path(nested)?;
                path.nested.push(nested);
            }
        }
        Ok(path)
    }

    /// Whether all keys of the range stand to the target as asked. Where there is none, a value stands in no relation
    /// to anything, and numbers count as 0.
    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        let keys = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        let mut changes = Vec::new();
        self.memory.index.for_each_live(&keys, self.revision, |_, change| changes.push(change));
        if changes.is_empty() {
            let absent = KeyValue::default();
            return Ok(compare.target != CompareTarget::Value as i32 && stands(compare, &absent));
        }
        for change in changes {
            let needs_stored = matches!(compare.target(), CompareTarget::Value | CompareTarget::Lease);
            let kv = if needs_stored {
                change_at(self.table, change.revision)?
            } else {
                KeyValue {
                    create_revision: change.created,
                    mod_revision: change.revision.main,
                    version: change.version,
                    ..KeyValue::default()
                }
            };
            if !stands(compare, &kv) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Refuses, before anything is done, what would fail halfway.
    fn check(&self, request: &TxnRequest, path: &Path) -> Result<(), EtcdError> {
        let mut nested = path.nested.iter();
        for op in chosen(request, path) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.check_range(range)?,
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("each nested transaction has its path");
                    self.check(request, path)?;
                }
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_range(&self, range: &RangeRequest) -> Result<(), EtcdError> {
        match range.revision {
            0 => Ok(()),
            revision if revision > self.revision => Err(EtcdError::FutureRev),
            revision if revision < self.compacted => Err(EtcdError::Compacted),
            _ => Ok(()),
        }
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), EtcdError> {
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && self.memory.index.live(&put.key, self.revision).is_none() {
            return Err(EtcdError::KeyNotFound);
        }
        if put.lease != 0 && !self.leases.exists(put.lease) {
            return Err(EtcdError::LeaseNotFound);
        }
        Ok(())
    }
}

fn stands(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    // A target of another kind than the one announced counts as 0 or empty; an unknown one as equal.
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.cmp(&Bytes::new()),
        },
        Ok(CompareTarget::Create) => match union {
            Some(&TargetUnion::CreateRevision(revision)) => kv.create_revision.cmp(&revision),
            _ => kv.create_revision.cmp(&0),
        },
        Ok(CompareTarget::Mod) => match union {
            Some(&TargetUnion::ModRevision(revision)) => kv.mod_revision.cmp(&revision),
            _ => kv.mod_revision.cmp(&0),
        },
        Ok(CompareTarget::Version) => match union {
            Some(&TargetUnion::Version(version)) => kv.version.cmp(&version),
            _ => kv.version.cmp(&0),
        },
        Ok(CompareTarget::Lease) => match union {
            Some(&TargetUnion::Lease(lease)) => kv.lease.cmp(&lease),
            _ => kv.lease.cmp(&0),
        },
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering == Ordering::Equal,
        Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
        Ok(CompareResult::Greater) => ordering == Ordering::Greater,
        Ok(CompareResult::Less) => ordering == Ordering::Less,
        Err(_) => true,
    }
}

fn put(transaction: &mut Transaction<'_, '_>, request: &PutRequest) -> Result<PutResponse, Failure> {
    let keeps = request.ignore_value || request.ignore_lease;
    let previous = if keeps || request.prev_kv { transaction.live(&request.key)? } else { None };
    if keeps && previous.is_none() {
        return Err(EtcdError::KeyNotFound.into());
    }
    let kept = previous.as_ref();
    let value = kept.filter(|_| request.ignore_value).map_or_else(|| request.value.clone(), |kv| kv.value.clone());
    let lease = kept.filter(|_| request.ignore_lease).map_or(request.lease, |kv| kv.lease);
    transaction.put(&request.key, value, lease)?;
    Ok(PutResponse { header: header(transaction.revision()), prev_kv: previous.filter(|_| request.prev_kv) })
}

fn delete_range(
    transaction: &mut Transaction<'_, '_>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Failure> {
    let keys = KeyRange::new(request.key.clone(), request.range_end.clone());
    let mut prev_kvs = Vec::new();
    if request.prev_kv {
        let range =
            RangeRequest { key: request.key.clone(), range_end: request.range_end.clone(), ..RangeRequest::default() };
        prev_kvs = transaction.range(&range)?.kvs;
    }
    let deleted = transaction.delete_range(&keys)?;
    Ok(DeleteRangeResponse { header: header(transaction.revision()), deleted, prev_kvs })
}

fn execute(transaction: &mut Transaction<'_, '_>, request: &TxnRequest, path: &Path) -> Result<TxnResponse, Failure> {
    let mut nested = path.nested.iter();
    let mut responses = Vec::new();
    for op in chosen(request, path) {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => Some(Response::ResponseRange(transaction.range(range)?)),
            Some(Request::RequestPut(request)) => Some(Response::ResponsePut(put(transaction, request)?)),
            Some(Request::RequestDeleteRange(request)) => {
                Some(Response::ResponseDeleteRange(delete_range(transaction, request)?))
            }
            Some(Request::RequestTxn(request)) => {
                let path = nested.next().expect("each nested transaction has its path");
                Some(Response::ResponseTxn(execute(transaction, request, path)?))
            }
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: path.succeeded, responses })
}

fn execute_reads(reading: &Reading<'_>, request: &TxnRequest, path: &Path) -> Result<TxnResponse, Failure> {
    let mut responses = Vec::new();
    for op in chosen(request, path) {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => Some(Response::ResponseRange(reading.range(range)?)),
            _ => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse { header: header(reading.memory.revision), succeeded: path.succeeded, responses })
}

/// Refuses what no state could make valid: absent keys, too many operations, keys that are written twice.
pub(crate) fn check_txn_request(request: &TxnRequest, ops_max: usize) -> Result<(), EtcdError> {
    check_shape(request, ops_max)?;
    check_overlap(&request.success)?;
    check_overlap(&request.failure)?;
    Ok(())
}

fn check_shape(request: &TxnRequest, ops_max: usize) -> Result<(), EtcdError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    // What remains for transactions within.
    let Some(rest) = ops_max.checked_sub(ops) else { return Err(EtcdError::TooManyOps) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range_request(range)?,
            Some(Request::RequestPut(put)) => check_put_request(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_request(delete)?,
            Some(Request::RequestTxn(nested)) => check_shape(nested, rest)?,
            None => return Err(EtcdError::KeyNotFound),
        }
    }
    Ok(())
}

/// Refuses a range that no state could make valid.
pub(crate) fn check_range_request(request: &RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(EtcdError::InvalidSortOption) }
}

/// Refuses a write that no state could make valid.
pub(crate) fn check_put_request(request: &PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        Err(EtcdError::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(EtcdError::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(EtcdError::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Refuses a deletion that no state could make valid.
pub(crate) fn check_delete_request(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

/// What a list of operations writes, transactions within it included.
#[derive(Default)]
struct Written<'r> {
    puts: BTreeSet<&'r Bytes>,
    deletes: Vec<KeyRange>,
}

impl Written<'_> {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// Refuses a list in which a key is written twice, or written and deleted. The two lists of a transaction within exclude
/// each other, so they may share keys.
fn check_overlap(ops: &[RequestOp]) -> Result<Written<'_>, EtcdError> {
    let mut written = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
            // etcd takes the end `\0` for an ordinary key here: no key lies between.
            if range.end != RangeEnd::Open {
                written.deletes.push(range);
            }
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (success, failure) = (check_overlap(&nested.success)?, check_overlap(&nested.failure)?);
        for key in &success.puts {
            if written.deletes(key) || !written.puts.insert(key) {
                return Err(EtcdError::DuplicateKey);
            }
        }
        for key in &failure.puts {
            if written.deletes(key) || (!written.puts.insert(key) && !success.puts.contains(key)) {
                return Err(EtcdError::DuplicateKey);
            }
        }
        written.deletes.extend(success.deletes);
        written.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (written.deletes(&put.key) || !written.puts.insert(&put.key))
        {
            return Err(EtcdError::DuplicateKey);
        }
    }
    Ok(written)
}

//! Reading ranges of keys, with etcd's filters, orders and limits.

use std::cmp::Ordering;

use goulette_proto::etcd::{
    etcdserverpb::{
        RangeRequest, RangeResponse, ResponseHeader,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};
use redb::ReadableTable;

use super::{Failure, KeyRange, Memory, Reading, Revision, Store, StoreError, batch::Transaction, change_at};
use crate::EtcdError;

/// The revisions under which a range's values are stored.
struct Positions {
    revisions: Vec<Revision>,
    /// How many keys lie in the range, whatever the limit.
    total: i64,
}

/// What a range is read from: the store's revision, and what is compacted.
#[derive(Clone, Copy)]
struct At {
    current: i64,
    compacted: i64,
}

impl Store {
    /// Reads a range.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the revision asked for is not readable.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let Reading { memory, table } = self.read()?;
        let at = At { current: memory.revision, compacted: memory.compacted };
        let positions = find(&memory, at, request)?;
        // The table is a snapshot that holds all of them: writers need not wait for the values.
        drop(memory);
        Ok(respond(&table, at, request, positions)?)
    }

    /// The value of a key just before revision `before`, for watchers; `None` if it did not live, or is compacted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn previous(&self, key: &[u8], before: i64) -> Result<Option<KeyValue>, StoreError> {
        let Reading { memory, table } = self.read()?;
        if before - 1 < memory.compacted {
            return Ok(None);
        }
        let change = memory.index.live(key, before - 1);
        drop(memory);
        change.map(|change| change_at(&table, change.revision)).transpose()
    }
}

impl Reading<'_> {
    /// Reads a range of this view.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let at = At { current: self.memory.revision, compacted: self.memory.compacted };
        Ok(respond(&self.table, at, request, find(&self.memory, at, request)?)?)
    }
}

impl Transaction<'_, '_> {
    /// Reads a range as the transaction has made it.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let at = At { current: self.revision(), compacted: self.batch.compacted };
        let positions = find(&self.batch.store.memory(), at, request)?;
        Ok(respond(&self.batch.key, at, request, positions)?)
    }
}

/// Checks the revision and looks the keys up; none for a request that only counts.
fn find(memory: &Memory, at: At, request: &RangeRequest) -> Result<Positions, EtcdError> {
    let revision = match request.revision {
        revision if revision > at.current => return Err(EtcdError::FutureRev),
        revision if revision > 0 => revision,
        _ => at.current,
    };
    if revision < at.compacted {
        return Err(EtcdError::Compacted);
    }
    let keys = KeyRange::new(request.key.clone(), request.range_end.clone());
    let fetched_max = if request.count_only {
        0
    } else if is_filtered(request) || request.limit <= 0 {
        usize::MAX
    } else {
        // One more tells whether there are more.
        usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_add(1)
    };
    let mut found = Positions { revisions: Vec::new(), total: 0 };
    memory.index.for_each_live(&keys, revision, |_, change| {
        found.total += 1;
        if found.revisions.len() < fetched_max {
            found.revisions.push(change.revision);
        }
    });
    Ok(found)
}

/// Whether everything must be looked at before the limit counts.
fn is_filtered(request: &RangeRequest) -> bool {
    request.sort_order != SortOrder::None as i32
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn respond(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    at: At,
    request: &RangeRequest,
    found: Positions,
) -> Result<RangeResponse, StoreError> {
    let mut kvs = Vec::with_capacity(found.revisions.len());
    for revision in found.revisions {
        let kv = change_at(table, revision)?;
        if passes(request, &kv) {
            kvs.push(kv);
        }
    }
    sort(request, &mut kvs);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    let header = Some(ResponseHeader { revision: at.current, ..ResponseHeader::default() });
    Ok(RangeResponse { header, kvs, more, count: found.total })
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    // 0 is no bound.
    let low = |bound: i64, value: i64| bound == 0 || value >= bound;
    let high = |bound: i64, value: i64| bound == 0 || value <= bound;
    high(request.max_mod_revision, kv.mod_revision)
        && low(request.min_mod_revision, kv.mod_revision)
        && high(request.max_create_revision, kv.create_revision)
        && low(request.min_create_revision, kv.create_revision)
}

/// Sorts what comes in the order of keys. An order of keys that ascends is there already; any other target ascends
/// unless it is told to descend.
fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let by: fn(&KeyValue, &KeyValue) -> Ordering = match request.sort_target() {
        SortTarget::Key => |a, b| a.key.cmp(&b.key),
        SortTarget::Version => |a, b| a.version.cmp(&b.version),
        SortTarget::Create => |a, b| a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => |a, b| a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => |a, b| a.value.cmp(&b.value),
    };
    match (request.sort_target(), request.sort_order()) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => {}
        (_, SortOrder::None | SortOrder::Ascend) => kvs.sort_by(by),
        (_, SortOrder::Descend) => kvs.sort_by(|a, b| by(b, a)),
    }
}

//! The operation log, as it is stored.

use goulette_meta::{Entry, Key, keys::OperationId};
use goulette_proto::pb;

use super::Context;
use crate::RequestError;

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

pub(super) async fn list(
    context: &Context,
    request: pb::ListOperationsRequest,
) -> Result<pb::ListOperationsResponse, RequestError> {
    let limit = match request.limit {
        0 => LIMIT,
        limit => limit.min(LIMIT_MAX),
    } as usize;
    // Paths end with 20 digits, so their order is that of the numbers.
    let first = Key::Operation(OperationId(0)).path();
    let folder = first.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let stored = context.store.range(folder).await.map_err(|error| context.silent(&error))?;
    let from = if request.newest { 0 } else { request.from };
    let operations = stored.entries.iter().filter_map(|stored| match Entry::parse(&stored.key, &stored.value) {
        Ok(Some(Entry::Operation(id, record))) if id.0 >= from => Some((id, record, &stored.value)),
        _ => None,
    });
    let mut operations: Vec<_> = operations.collect();
    let mut next = 0;
    if request.newest {
        operations.drain(..operations.len().saturating_sub(limit));
    } else if operations.len() > limit {
        next = operations[limit].0.0;
        operations.truncate(limit);
    }
    let entry = |(id, record, value): (OperationId, goulette_meta::keys::OperationRecord, &bytes::Bytes)| {
        let json = String::from_utf8_lossy(value).into_owned();
        pb::OperationEntry {
            id: id.0,
            name: record.operation.name(),
            at_ms: u64::try_from(record.at.0).unwrap_or(0),
            request_id: record.request_id.unwrap_or_default(),
            json,
        }
    };
    Ok(pb::ListOperationsResponse { operations: operations.into_iter().map(entry).collect(), next })
}

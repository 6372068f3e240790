//! Offsets of a partition, and positions of groups in it.

use std::{sync::Arc, time::Duration};

use goulette_proto::{convert::partition_id, pb};
use goulette_types::{GroupName, Offset, Timestamp};

use super::parse::name;
use crate::{error::RequestError, node::Node, partition::Partition};

/// How long a position may take to become durable before the caller is told that the outcome is unknown.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);

pub(super) async fn list_offsets(
    node: &Node,
    request: pb::ListOffsetsRequest,
) -> Result<pb::ListOffsetsResponse, RequestError> {
    let partition = led(node, &request.topic_id, request.partition)?;
    partition.fresh().await?;
    let log = partition.log();
    let found = match request.timestamp_ms {
        Some(time) => {
            let log = Arc::clone(log);
            node.disk_reads.run(move || log.offset_at(Timestamp(time))).await??
        }
        None => None,
    };
    let committed = partition.committed();
    let found = found.filter(|&(offset, _)| offset < committed);
    Ok(pb::ListOffsetsResponse {
        start: log.start().0,
        committed: committed.0,
        offset: found.map(|(offset, _)| offset.0),
        timestamp_ms: found.map_or(0, |(_, time)| time.0),
    })
}

pub(super) async fn commit_position(
    node: &Node,
    request: pb::CommitPositionRequest,
) -> Result<pb::CommitPositionResponse, RequestError> {
    let partition = led(node, &request.topic_id, request.partition)?;
    let group: GroupName = name(&request.group)?;
    if !request.member.is_empty()
        && let Some(member) = node.groups.holder(&group, partition.id())
        && member != request.member
    {
        return Err(RequestError::Taken { group: request.group, member });
    }
    // Up to the end: a new leader may know less of what is committed than its predecessor had told.
    let (position, end) = (Offset(request.position), partition.log().end());
    if position > end {
        return Err(RequestError::OutOfRange { given: position, start: partition.log().start(), end });
    }
    match tokio::time::timeout(COMMIT_DEADLINE, partition.commit_position(&group, position)).await {
        Ok(result) => result?,
        Err(_) => return Err(RequestError::Late { seconds: COMMIT_DEADLINE.as_secs() }),
    }
    Ok(pb::CommitPositionResponse {})
}

pub(super) async fn fetch_position(
    node: &Node,
    request: &pb::FetchPositionRequest,
) -> Result<pb::FetchPositionResponse, RequestError> {
    let partition = led(node, &request.topic_id, request.partition)?;
    let group: GroupName = name(&request.group)?;
    partition.fresh().await?;
    Ok(pb::FetchPositionResponse { position: partition.log().position(&group).map(|position| position.0) })
}

fn led(node: &Node, topic_id: &[u8], index: u32) -> Result<Arc<Partition>, RequestError> {
    let id = partition_id(topic_id, index).map_err(RequestError::Invalid)?;
    let partition = node.partition(id)?;
    partition.led()?;
    Ok(partition)
}

//! What several calls read from a request: names, and where to start.

use std::{str::FromStr, sync::Arc};

use goulette_proto::pb;
use goulette_types::{Acks, NameError, Offset, PartitionIndex, Timestamp, TopicName};

use crate::{error::RequestError, node::Node, partition::Partition};

/// Bytes that a member's name may have.
const MEMBER_BYTES_MAX: usize = 255;

/// A name of a type that checks it.
pub(super) fn name<T: FromStr<Err = NameError>>(text: &str) -> Result<T, RequestError> {
    text.parse().map_err(|error: NameError| RequestError::Invalid(error.to_string()))
}

/// A member's name: any text that fits on a line.
pub(super) fn member_name(text: &str) -> Result<&str, RequestError> {
    if text.is_empty() || text.len() > MEMBER_BYTES_MAX || text.chars().any(char::is_control) {
        let message = format!("a member's name has 1 to {MEMBER_BYTES_MAX} bytes and no control characters");
        return Err(RequestError::Invalid(message));
    }
    Ok(text)
}

/// The level of acknowledgement asked for.
pub(super) fn acks(asked: i32) -> Result<Acks, RequestError> {
    let acks = pb::Acks::try_from(asked);
    acks.map(Acks::from)
        .map_err(|_| RequestError::Invalid(format!("acks {asked} is none of 0 (all), 1 (leader), 2 (none)")))
}

/// The partitions of a topic that are led here, in order; at least one.
pub(super) fn led(node: &Node, topic: &TopicName) -> Result<Vec<Arc<Partition>>, RequestError> {
    let led = node.registry.led(topic);
    if led.is_empty() {
        node.ready()?;
        return Err(RequestError::NotLeader { partition: format!("any partition of {topic}") });
    }
    Ok(led)
}

/// The place of the partition `index` among those that are led here.
pub(super) fn find(led: &[Arc<Partition>], topic: &str, index: PartitionIndex) -> Result<usize, RequestError> {
    let place = led.iter().position(|partition| partition.id().index == index);
    place.ok_or_else(|| RequestError::NotLeader { partition: format!("{topic}/{index}") })
}

/// The offset that a start means.
pub(super) async fn resolve(
    node: &Node,
    partition: &Partition,
    start: Option<&pb::Start>,
) -> Result<Offset, RequestError> {
    use pb::start::At;
    let log = partition.log();
    let at = start.and_then(|start| start.at.as_ref());
    match at.ok_or_else(|| RequestError::Invalid("the request does not say where to start".to_owned()))? {
        At::Beginning(_) => Ok(log.start()),
        At::End(_) => {
            partition.fresh().await?;
            Ok(partition.committed())
        }
        At::Offset(given) => {
            // Up to the end, not only to what is committed: what is behind that will be, and the reader waits for it.
            let (given, start, end) = (Offset(*given), log.start(), log.end());
            if given < start || end < given {
                return Err(RequestError::OutOfRange { given, start, end });
            }
            Ok(given)
        }
        At::TimestampMs(time) => {
            let (log, time) = (Arc::clone(log), Timestamp(*time));
            let found = node.disk_reads.run(move || log.offset_at(time)).await??;
            // Later than every record: what comes from now on.
            Ok(found.map_or(partition.committed(), |(offset, _)| offset))
        }
    }
}

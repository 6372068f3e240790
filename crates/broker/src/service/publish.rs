//! `Publish`: the simple way in, for programs that do not build batches. Here the broker does it for them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use goulette_proto::pb;
use goulette_records::{Batch, BatchBuilder, Compression, PushError, RecordHeader, partition_for_key};
use goulette_types::{Acks, LeaderEpoch, PartitionIndex, Timestamp};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    parse::{acks, find, led, name},
    produce::observe,
};
use crate::{
    error::RequestError,
    node::Node,
    partition::{Partition, Stored},
};

/// How long a batch may take to become durable before the caller is told that the outcome is unknown.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);

/// A batch of some of a request's records.
struct Part {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    batch: Batch,
    /// The places of its records in the request.
    records: Vec<usize>,
}

pub(super) async fn publish(node: &Node, request: pb::PublishRequest) -> Result<pb::PublishResponse, RequestError> {
    let acks = acks(request.acks)?;
    if request.records.is_empty() {
        return Err(RequestError::Invalid("the request has no records".to_owned()));
    }
    let led = led(node, &name(&request.topic)?)?;
    let targets = targets(&led, &request)?;
    let partitions = targets.iter().map(|&target| led[target].id().index.0).collect();
    let records = request.records.len();
    let parts = build(node, &led, &targets, request.records)?;
    let bytes = parts.iter().map(|part| part.batch.encoded_bytes()).sum();
    let charge = Arc::new(node.budget.charge(bytes).await);
    let mut offsets = vec![0; records];
    let mut pending = Vec::with_capacity(parts.len());
    for Part { partition, epoch, batch, records: places } in parts {
        let (done, reached) = oneshot::channel();
        let observe = observe(&batch, Instant::now(), node.metrics.clone());
        let answer = move |result| {
            observe(&result);
            // Whoever asked may have gone away; the batch is stored all the same.
            let _ = done.send(result);
        };
        if let Err((answer, error)) = partition.append(epoch, acks, batch, Arc::clone(&charge), Box::new(answer)) {
            answer(Err(error));
        }
        pending.push((places, reached));
    }
    if acks == Acks::None {
        return Ok(pb::PublishResponse { offsets: Vec::new(), partitions });
    }

    let deadline = Instant::now() + PUBLISH_DEADLINE;
    let (sent, mut stored, mut failed) = (pending.len(), 0, None);
    for (places, reached) in pending {
        match settled(deadline, reached).await {
            Ok(appended) => {
                stored += 1;
                // Only a duplicate has no offset, and what is built here has no sequence to be recognised by.
                let base = appended.base_offset.unwrap_or_default();
                for (delta, place) in places.into_iter().enumerate() {
                    offsets[place] = base.plus(delta as u64).0;
                }
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(pb::PublishResponse { offsets, partitions }),
        Some(error) if stored == 0 => Err(error),
        Some(error) => Err(RequestError::Partly { stored, sent, source: Box::new(error) }),
    }
}

async fn settled(
    deadline: Instant,
    reached: oneshot::Receiver<Result<Stored, RequestError>>,
) -> Result<Stored, RequestError> {
    match timeout_at(deadline, reached).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(RequestError::Internal("the log dropped a batch".to_owned())),
        Err(_) => Err(RequestError::Late { seconds: PUBLISH_DEADLINE.as_secs() }),
    }
}

/// For each record the place of its partition among those that are led here.
///
/// The partition is the one that the request names, else the one that Kafka's partitioner finds for the key among all of
/// the topic's: the same that a client of ours chooses. A record without a key goes to the first one that is led here.
fn targets(led: &[Arc<Partition>], request: &pb::PublishRequest) -> Result<Vec<usize>, RequestError> {
    // While partitions are being added, some may not have heard of it yet.
    let partitions = led.iter().map(|partition| partition.topic_partitions()).max().unwrap_or_default();
    let target = |record: &pb::Record| match (request.partition, &record.key) {
        (Some(index), _) => find(led, &request.topic, PartitionIndex(index)),
        (None, Some(key)) => find(led, &request.topic, partition_for_key(key, partitions)),
        (None, None) => Ok(0),
    };
    request.records.iter().map(target).collect()
}

/// Batches for the records, in the request's order within each partition.
fn build(
    node: &Node,
    led: &[Arc<Partition>],
    targets: &[usize],
    records: Vec<pb::Record>,
) -> Result<Vec<Part>, RequestError> {
    let now = Timestamp(node.env.clock.wall_ms());
    let mut open: BTreeMap<usize, Draft> = BTreeMap::new();
    let mut parts = Vec::new();
    for (place, record) in records.into_iter().enumerate() {
        let target = targets[place];
        let draft = open.entry(target).or_insert_with(|| Draft::new(node));
        let timestamp = record.timestamp_ms.map_or(now, Timestamp);
        let headers: Vec<_> = record.headers.into_iter().map(header).collect();
        let push =
            |draft: &mut Draft| draft.builder.push(record.key.as_deref(), record.value.as_deref(), &headers, timestamp);
        let mut pushed = push(draft);
        if matches!(pushed, Err(PushError::Full)) {
            parts.push(std::mem::replace(draft, Draft::new(node)).seal(&led[target])?);
            pushed = push(draft);
        }
        pushed.map_err(|error| RequestError::TooLarge(format!("record {place} of the request: {error}")))?;
        draft.records.push(place);
    }
    for (target, draft) in open {
        parts.push(draft.seal(&led[target])?);
    }
    Ok(parts)
}

/// A batch in the making.
struct Draft {
    builder: BatchBuilder,
    records: Vec<usize>,
}

impl Draft {
    fn new(node: &Node) -> Self {
        Self { builder: BatchBuilder::new(Compression::None, node.options().limits), records: Vec::new() }
    }

    fn seal(self, partition: &Arc<Partition>) -> Result<Part, RequestError> {
        let epoch = partition.led()?;
        Ok(Part { partition: Arc::clone(partition), epoch, batch: self.builder.build(), records: self.records })
    }
}

fn header(header: pb::Header) -> RecordHeader {
    RecordHeader { key: header.key.into(), value: header.value }
}

//! Metadata out and in, and what brokers hold beside it.

use std::{collections::BTreeMap, pin::Pin};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use goulette_meta::{Entry, keys};
use goulette_proto::pb;
use goulette_types::{BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionIndex, TopicId, TopicName};
use serde::{Deserialize, Serialize};
use tonic::{Status, Streaming};

use super::{Context, wire};
use crate::{
    RequestError,
    plan::adopt::{Adoption, Copy},
};

/// What the first line calls it.
const FORMAT: &str = "goulette-metadata";
const VERSION: u32 = 1;
/// Bytes of one message.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes that an import may have: 10,000 partitions and as many operations have less than a tenth of it.
const IMPORT_BYTES_MAX: usize = 256 << 20;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    cluster_id: String,
    revision: u64,
    generation: u64,
}

/// Every further line.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: serde_json::Value,
}

pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<pb::MetadataChunk, Status>> + Send>>;

/// All metadata but who runs at the moment, as of one revision.
pub(super) async fn export(context: &Context) -> Result<Chunks, RequestError> {
    let snapshot = context.store.range(keys::PREFIX).await.map_err(|error| context.silent(&error))?;
    let (cluster_id, generation) = (context.cluster_id()?.to_string(), context.state.catalog().generation());
    let format = FORMAT.to_owned();
    let head = Head { format, version: VERSION, cluster_id, revision: snapshot.revision.0, generation };
    let mut text = BytesMut::new();
    push(&mut text, &head)?;
    for stored in &snapshot.entries {
        match Entry::parse(&stored.key, &stored.value) {
            Ok(Some(Entry::Sentinel(..) | Entry::LeadingSentinel(_)) | None) | Err(_) => {}
            Ok(Some(_)) => {
                let value = serde_json::from_slice(&stored.value).map_err(internal)?;
                push(&mut text, &Line { key: stored.key.clone(), value })?;
            }
        }
    }
    Ok(Box::pin(stream::iter(chunks(text.freeze()).into_iter().map(Ok))))
}

/// The text, cut into messages.
pub(super) fn chunks(mut rest: Bytes) -> Vec<pb::MetadataChunk> {
    let mut chunks = Vec::with_capacity(rest.len() / CHUNK_BYTES + 1);
    while !rest.is_empty() {
        chunks.push(pb::MetadataChunk { data: rest.split_to(rest.len().min(CHUNK_BYTES)) });
    }
    chunks
}

fn push<T: Serialize>(text: &mut BytesMut, line: &T) -> Result<(), RequestError> {
    text.extend_from_slice(&serde_json::to_vec(line).map_err(internal)?);
    text.extend_from_slice(b"\n");
    Ok(())
}

fn internal(error: serde_json::Error) -> RequestError {
    RequestError::Invalid(format!("metadata is no JSON: {error}"))
}

/// Gathers what is sent.
pub(super) async fn gather(mut chunks: Streaming<pb::MetadataChunk>) -> Result<Bytes, Status> {
    let mut text = BytesMut::new();
    while let Some(chunk) = chunks.message().await? {
        if text.len() + chunk.data.len() > IMPORT_BYTES_MAX {
            return Err(RequestError::Invalid(format!("an import has at most {IMPORT_BYTES_MAX} bytes")).into());
        }
        text.extend_from_slice(&chunk.data);
    }
    Ok(text.freeze())
}

pub(super) async fn import(context: &Context, text: Bytes) -> Result<pb::ImportMetadataResponse, RequestError> {
    let entries = parse(&text)?;
    let count = |kind: fn(&Entry) -> bool| entries.iter().filter(|entry| kind(entry)).count() as u32;
    let topics = count(|entry| matches!(entry, Entry::Topic(..)));
    let partitions = count(|entry| matches!(entry, Entry::Partition(..)));
    let operations = count(|entry| matches!(entry, Entry::Operation(..)));
    let generation = context.controller.import(entries).await?;
    Ok(pb::ImportMetadataResponse { topics, partitions, operations, generation })
}

fn parse(text: &[u8]) -> Result<Vec<Entry>, RequestError> {
    let mut lines = text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let invalid = |number: usize, what: String| RequestError::Invalid(format!("line {}: {what}", number + 1));
    let Some((_, first)) = lines.next() else { return Err(invalid(0, "nothing is there".to_owned())) };
    let head: Head = serde_json::from_slice(first).map_err(|error| invalid(0, error.to_string()))?;
    if head.format != FORMAT || head.version > VERSION {
        let text = format!("{} of version {}, not {FORMAT} of version {VERSION} or below", head.format, head.version);
        return Err(invalid(0, text));
    }
    let entry = |(number, line): (usize, &[u8])| {
        let line: Line = serde_json::from_slice(line).map_err(|error| invalid(number, error.to_string()))?;
        let value = serde_json::to_vec(&line.value).map_err(|error| invalid(number, error.to_string()))?;
        match Entry::parse(&line.key, &value) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(invalid(number, format!("key {} is not known", line.key))),
            Err(error) => Err(invalid(number, error.to_string())),
        }
    };
    lines.map(entry).collect()
}

pub(super) async fn adopt(
    context: &Context,
    request: pb::AdoptPartitionsRequest,
) -> Result<pb::AdoptPartitionsResponse, RequestError> {
    let adoptions = adoptions(context, &request)?;
    let names: Vec<_> = adoptions.iter().map(|adoption| adoption.name.clone()).collect();
    context.controller.adopt(adoptions).await?;
    let catalog = context.state.catalog();
    let topics = names.iter().filter_map(|name| Some(wire::topic(&catalog, name, catalog.topic(name)?)));
    Ok(pb::AdoptPartitionsResponse { topics: topics.collect() })
}

fn adoptions(context: &Context, request: &pb::AdoptPartitionsRequest) -> Result<Vec<Adoption>, RequestError> {
    let invalid = |error: &dyn std::fmt::Display| RequestError::Invalid(format!("topic_ids: {error}"));
    let asked = request.topic_ids.iter().map(|id| TopicId::try_from(&id[..]).map_err(|error| invalid(&error)));
    let asked = asked.collect::<Result<Vec<_>, _>>()?;
    let mut found: BTreeMap<TopicId, Adoption> = BTreeMap::new();
    for (broker, held) in context.state.unknown() {
        let Ok(topic) = TopicId::try_from(&held.topic_id[..]) else { continue };
        if !asked.is_empty() && !asked.contains(&topic) {
            continue;
        }
        let name: TopicName = match request.names.get(&topic.to_string()) {
            Some(name) => name.parse()?,
            None => held.topic.parse()?,
        };
        let missing_may_be_empty = request.missing_may_be_empty;
        let new = || Adoption { topic, name, held: BTreeMap::new(), missing_may_be_empty };
        let adoption = found.entry(topic).or_insert_with(new);
        adoption.held.entry(PartitionIndex(held.partition)).or_default().push(copy(broker, &held));
    }
    if let Some(absent) = asked.iter().find(|topic| !found.contains_key(topic)) {
        return Err(RequestError::Invalid(format!("no broker holds partitions of an unknown topic {absent}")));
    }
    Ok(found.into_values().collect())
}

fn copy(broker: BrokerId, held: &pb::Held) -> Copy {
    Copy {
        broker,
        leader_epoch: LeaderEpoch(held.leader_epoch),
        partition_epoch: PartitionEpoch(held.partition_epoch),
        log_epoch: LeaderEpoch(if held.log_epoch == 0 { held.leader_epoch } else { held.log_epoch }),
        end: Offset(held.end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_export_is_refused_with_its_line() {
        let head = r#"{"format":"goulette-metadata","version":1,"cluster_id":"c","revision":1,"generation":0}"#;
        for (text, expected) in [
            (String::new(), "line 1"),
            ("{}".to_owned(), "line 1"),
            (head.replace("metadata\"", "other\""), "goulette-other"),
            (head.replace(":1,", ":2,"), "of version 2"),
            (format!("{head}\nx"), "line 2"),
            (format!("{head}\n\n{{\"key\":\"/goulette/x/y\",\"value\":1}}"), "line 3: key /goulette/x/y is not known"),
            (format!("{head}\n{{\"key\":\"/goulette/topics/a\",\"value\":{{}}}}"), "/goulette/topics/a"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse(head.as_bytes()).unwrap().is_empty());
    }
}

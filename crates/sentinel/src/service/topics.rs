//! Topics: create, list, describe, alter, delete.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use goulette_proto::pb;
use goulette_types::{Revision, TopicName};

use super::{Context, wire};
use crate::{
    RequestError,
    plan::{
        PARTITIONS_MAX, REPLICATION_FACTOR_MAX,
        topic::{Alteration, NewTopic},
    },
    topic_config,
};

/// How long the answer to a creation waits for the brokers to know of it, so that a first produce does not bounce.
const SETTLE_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes that a request id may have.
const REQUEST_ID_BYTES_MAX: usize = 64;

pub(super) async fn create(
    context: &Context,
    request: pb::CreateTopicRequest,
) -> Result<pb::CreateTopicResponse, RequestError> {
    let name: TopicName = request.name.parse()?;
    let partitions = match request.partitions {
        0 => context.options.default_partitions,
        partitions => check_partitions(partitions)?,
    };
    let replication_factor = check_factor(request.replication_factor)?;
    let config = request.config.into_iter().collect();
    topic_config::check(&config)?;
    let request_id = request_id(&request.request_id)?;
    let topic = NewTopic { name: name.clone(), partitions, replication_factor, config, request_id };
    create_and_settle(context, topic).await?;
    Ok(pb::CreateTopicResponse { topic: Some(find(context, &name)?) })
}

/// Creates a topic, and waits a while for its leaders to know that they lead.
pub(super) async fn create_and_settle(context: &Context, topic: NewTopic) -> Result<(), RequestError> {
    let name = topic.name.clone();
    let revision = context.controller.create_topic(topic).await?;
    settle(context, &name, revision).await;
    Ok(())
}

async fn settle(context: &Context, name: &TopicName, revision: Revision) {
    let leaders: Vec<_> = {
        let catalog = context.state.catalog();
        let partitions = catalog.topic(name).into_iter().flat_map(|topic| catalog.partitions(topic.id));
        let leaders: BTreeSet<_> = partitions.filter_map(|(_, partition)| catalog.leader(partition).ok()).collect();
        leaders.into_iter().cloned().collect()
    };
    context.state.await_applied(&leaders, revision, SETTLE_DEADLINE).await;
}

pub(super) fn list(context: &Context) -> pb::ListTopicsResponse {
    let catalog = context.state.catalog();
    let topics = catalog.topics().map(|(name, topic)| wire::topic(&catalog, name, topic)).collect();
    pb::ListTopicsResponse { topics }
}

pub(super) fn describe(
    context: &Context,
    request: pb::DescribeTopicRequest,
) -> Result<pb::DescribeTopicResponse, RequestError> {
    let name: TopicName = request.name.parse()?;
    let catalog = context.state.catalog();
    let Some(topic) = catalog.topic(&name) else { return Err(RequestError::UnknownTopic { topic: name }) };
    Ok(pb::DescribeTopicResponse {
        topic: Some(wire::topic(&catalog, &name, topic)),
        brokers: wire::brokers(&catalog, topic),
    })
}

pub(super) async fn alter(
    context: &Context,
    request: pb::AlterTopicRequest,
) -> Result<pb::AlterTopicResponse, RequestError> {
    let name: TopicName = request.name.parse()?;
    let set = request.set.into_iter().collect();
    topic_config::check(&set)?;
    topic_config::check_names(&request.unset)?;
    if let Some(setting) = request.unset.iter().find(|setting| set.contains_key(*setting)) {
        return Err(RequestError::Invalid(format!("topic setting {setting} is both set and unset")));
    }
    let partitions = match request.partitions {
        0 => None,
        partitions => Some(check_partitions(partitions)?),
    };
    let replication_factor = check_factor(request.replication_factor)?;
    let alteration = Alteration { set, unset: request.unset, partitions, replication_factor };
    let revision = context.controller.alter_topic(name.clone(), alteration).await?;
    settle(context, &name, revision).await;
    Ok(pb::AlterTopicResponse { topic: Some(find(context, &name)?) })
}

pub(super) async fn delete(
    context: &Context,
    request: pb::DeleteTopicRequest,
) -> Result<pb::DeleteTopicResponse, RequestError> {
    let id = context.controller.delete_topic(request.name.parse()?).await?;
    Ok(pb::DeleteTopicResponse { topic_id: Bytes::copy_from_slice(&id.to_bytes()) })
}

fn find(context: &Context, name: &TopicName) -> Result<pb::Topic, RequestError> {
    let catalog = context.state.catalog();
    let Some(topic) = catalog.topic(name) else { return Err(RequestError::UnknownTopic { topic: name.clone() }) };
    Ok(wire::topic(&catalog, name, topic))
}

fn check_partitions(partitions: u32) -> Result<u32, RequestError> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(partitions);
    }
    Err(RequestError::Invalid(format!("partitions must be 1 to {PARTITIONS_MAX}, not {partitions}")))
}

/// The factor asked for; `None` for 0, which leaves it to others.
fn check_factor(factor: u32) -> Result<Option<u32>, RequestError> {
    match factor {
        0 => Ok(None),
        1..=REPLICATION_FACTOR_MAX => Ok(Some(factor)),
        _ => {
            let text = format!("replication factor must be 1 to {REPLICATION_FACTOR_MAX}, not {factor}");
            Err(RequestError::Invalid(text))
        }
    }
}

/// The request id as it is stored: hexadecimal digits.
fn request_id(bytes: &[u8]) -> Result<Option<String>, RequestError> {
    if bytes.len() > REQUEST_ID_BYTES_MAX {
        return Err(RequestError::Invalid(format!("request_id has more than {REQUEST_ID_BYTES_MAX} bytes")));
    }
    let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(Some(digits).filter(|digits| !digits.is_empty()))
}

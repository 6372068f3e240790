//! `GetBrokers`: who leads a topic's partitions.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use goulette_proto::pb;
use goulette_types::{BrokerId, Revision, TopicName};

use super::{Context, topics, wire};
use crate::{RequestError, plan::topic::NewTopic};

/// How long a client that has seen more than this sentinel waits for it to catch up.
const REVISION_DEADLINE: Duration = Duration::from_secs(5);
/// How long a reported broker may take to answer.
const REPORT_DEADLINE: Duration = Duration::from_secs(3);
/// Brokers that one request may report.
const REPORTED_MAX: usize = 64;

/// The answer, where this sentinel's copy of the metadata is enough for it: nothing is to be looked into or created.
pub(super) async fn look_up(
    context: &Context,
    request: &pb::GetBrokersRequest,
) -> Result<Option<pb::GetBrokersResponse>, RequestError> {
    let name: TopicName = request.topic.parse()?;
    if !request.unreachable_brokers.is_empty() {
        return Ok(None);
    }
    reach(context, request).await?;
    let is_there = context.state.catalog().topic(&name).is_some();
    if is_there { answer(context, &name).map(Some) } else { Ok(None) }
}

/// What a client has seen, this sentinel has to have seen too.
async fn reach(context: &Context, request: &pb::GetBrokersRequest) -> Result<(), RequestError> {
    let generation = context.state.catalog().generation();
    if request.generation != generation {
        // Of another life of the metadata, or of a client that does not keep it.
        return Ok(());
    }
    context.state.reach(Revision(request.revision_min), REVISION_DEADLINE).await
}

/// The leader's answer.
pub(super) async fn get_brokers(
    context: &Context,
    request: pb::GetBrokersRequest,
) -> Result<pb::GetBrokersResponse, RequestError> {
    let name: TopicName = request.topic.parse()?;
    if request.unreachable_brokers.len() > REPORTED_MAX {
        return Err(RequestError::Invalid(format!("at most {REPORTED_MAX} unreachable_brokers can be reported")));
    }
    let reported =
        request.unreachable_brokers.iter().map(|id| id.parse()).collect::<Result<BTreeSet<BrokerId>, _>>()?;
    reach(context, &request).await?;
    // Nothing is believed before the sentinel has looked for itself.
    join_all(reported.into_iter().map(|broker| context.detector.report(broker, REPORT_DEADLINE))).await;
    if context.state.catalog().topic(&name).is_none() {
        create(context, &name, request.create).await?;
    }
    answer(context, &name)
}

async fn create(context: &Context, name: &TopicName, asked: bool) -> Result<(), RequestError> {
    if !context.options.auto_create_topics {
        return Err(RequestError::NoAutoCreation { topic: name.clone() });
    }
    if !asked {
        return Err(RequestError::UnknownTopic { topic: name.clone() });
    }
    let topic = NewTopic {
        name: name.clone(),
        partitions: context.options.default_partitions,
        replication_factor: None,
        config: Default::default(),
        request_id: None,
    };
    match topics::create_and_settle(context, topic).await {
        // Another client was faster.
        Ok(()) | Err(RequestError::TopicExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn answer(context: &Context, name: &TopicName) -> Result<pb::GetBrokersResponse, RequestError> {
    let catalog = context.state.catalog();
    let Some(topic) = catalog.topic(name) else { return Err(RequestError::UnknownTopic { topic: name.clone() }) };
    if !catalog.is_complete(topic) {
        return Err(RequestError::TopicIncomplete { topic: name.clone() });
    }
    Ok(pb::GetBrokersResponse {
        revision: catalog.revision().0,
        topic: Some(wire::topic(&catalog, name, topic)),
        brokers: wire::brokers(&catalog, topic),
        generation: catalog.generation(),
        stale_ms: context.stale().as_millis() as u64,
    })
}

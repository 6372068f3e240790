//! Calls of people and scripts: topics, log levels, what a process says of itself.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use goulette_proto::pb;
use goulette_types::{PartitionIndex, TopicId, TopicName};
use tokio::time::Instant;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{Client, ClientError, PartitionOffsets, client::call_error, connection};

/// How long a creation that got no answer is asked for again.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The administrative calls of a [`Client`].
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// What a topic is to be like; 0 stands for the cluster's default.
#[derive(Clone, Debug, Default)]
pub struct TopicSpec {
    /// Number of partitions.
    pub partitions: u32,
    /// Replicas wanted of each partition.
    pub replication_factor: u32,
    /// Settings of this topic.
    pub config: BTreeMap<String, String>,
}

/// What to change of a topic.
#[derive(Clone, Debug, Default)]
pub struct TopicChange {
    /// The new number of partitions, which may only grow; 0 leaves it.
    pub partitions: u32,
    /// Replicas wanted of each partition from now on; 0 leaves it.
    pub replication_factor: u32,
    /// Settings to set.
    pub set: BTreeMap<String, String>,
    /// Settings to go back to the default.
    pub unset: Vec<String>,
}

/// A topic, and where the brokers that hold it listen.
#[derive(Clone, Debug)]
pub struct TopicDescription {
    /// The topic with its partitions.
    pub topic: pb::Topic,
    /// Addresses by broker id.
    pub brokers: BTreeMap<String, String>,
}

impl Client {
    /// The administrative calls.
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone() }
    }
}

impl Admin {
    /// Creates a topic; with the sentinel away, tries for 5 s.
    ///
    /// # Errors
    /// Of kind `AlreadyExists` or `Invalid` as the sentinel says; [`ClientError::Unreachable`] without a sentinel.
    pub async fn create_topic(&self, name: &TopicName, spec: TopicSpec) -> Result<pb::Topic, ClientError> {
        let request_id = [self.client.random().to_be_bytes(), self.client.random().to_be_bytes()].concat();
        let request = pb::CreateTopicRequest {
            name: name.to_string(),
            partitions: spec.partitions,
            replication_factor: spec.replication_factor,
            config: spec.config.into_iter().collect(),
            request_id: request_id.into(),
        };
        let deadline = Instant::now() + CREATE_TIMEOUT;
        let mut failures = 0;
        loop {
            let call = |mut sentinel: pb::sentinel_client::SentinelClient<_>| {
                let request = request.clone();
                async move { sentinel.create_topic(request).await }
            };
            match self.client.sentinel_call(call).await {
                // The answer may be all that was lost: the same request again is recognised by its id.
                Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {
                    failures += 1;
                    tokio::time::sleep(self.client.pause(failures)).await;
                }
                answer => return self.expect_topic(answer?.topic),
            }
        }
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without a sentinel.
    pub async fn list_topics(&self) -> Result<Vec<pb::Topic>, ClientError> {
        let call = |mut sentinel: pb::sentinel_client::SentinelClient<_>| async move {
            sentinel.list_topics(pb::ListTopicsRequest {}).await
        };
        let mut topics = self.client.sentinel_call(call).await?.topics;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic with its brokers' addresses.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown topic; [`ClientError::Unreachable`] without a sentinel.
    pub async fn describe_topic(&self, name: &TopicName) -> Result<TopicDescription, ClientError> {
        let request = pb::DescribeTopicRequest { name: name.to_string() };
        let answer = self
            .client
            .sentinel_call(|mut sentinel| {
                let request = request.clone();
                async move { sentinel.describe_topic(request).await }
            })
            .await?;
        Ok(TopicDescription { topic: self.expect_topic(answer.topic)?, brokers: addresses(answer.brokers) })
    }

    /// Changes a topic's settings or its number of partitions.
    ///
    /// # Errors
    /// Of kind `NotFound` or `Invalid` as the sentinel says; [`ClientError::Unreachable`] without a sentinel.
    pub async fn alter_topic(&self, name: &TopicName, change: TopicChange) -> Result<pb::Topic, ClientError> {
        let request = pb::AlterTopicRequest {
            name: name.to_string(),
            replication_factor: change.replication_factor,
            set: change.set.into_iter().collect::<HashMap<_, _>>(),
            unset: change.unset,
            partitions: change.partitions,
        };
        let answer = self
            .client
            .sentinel_call(|mut sentinel| {
                let request = request.clone();
                async move { sentinel.alter_topic(request).await }
            })
            .await?;
        self.expect_topic(answer.topic)
    }

    /// Deletes a topic and all of its records.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown topic; [`ClientError::Unreachable`] without a sentinel.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<TopicId, ClientError> {
        let request = pb::DeleteTopicRequest { name: name.to_string() };
        let answer = self
            .client
            .sentinel_call(|mut sentinel| {
                let request = request.clone();
                async move { sentinel.delete_topic(request).await }
            })
            .await?;
        TopicId::try_from(&answer.topic_id[..]).map_err(|error| self.malformed(error.to_string()))
    }

    /// What a partition holds, as its leader says.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown topic or partition; others if no leader answers in time.
    pub async fn offsets(&self, topic: &TopicName, partition: PartitionIndex) -> Result<PartitionOffsets, ClientError> {
        let routes = self.client.routes(topic, false).await?;
        self.client.list_offsets(&routes, partition).await
    }

    /// Sets the log level of the process at `address` and returns the previous one.
    ///
    /// # Errors
    /// Of kind `Invalid` for an unknown level; [`ClientError::Unreachable`] if nobody answers there.
    pub async fn set_log_level(&self, address: &str, level: &str) -> Result<String, ClientError> {
        let request = pb::SetLogLevelRequest { level: level.to_owned() };
        let answer = connection::admin(self.client.control(address)?).set_log_level(request).await;
        answer
            .map(|answer| answer.into_inner().previous)
            .map_err(|status| call_error("broker or sentinel", address, &status))
    }

    /// What the process at `address` says of itself.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if nobody answers there.
    pub async fn info(&self, address: &str) -> Result<pb::GetInfoResponse, ClientError> {
        let answer = connection::admin(self.client.control(address)?).get_info(pb::GetInfoRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| call_error("broker or sentinel", address, &status))
    }

    /// Whether the process at `address` serves; `false` while it starts or stops.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if nobody answers there.
    pub async fn is_healthy(&self, address: &str) -> Result<bool, ClientError> {
        let mut health = HealthClient::new(self.client.control(address)?);
        let answer = health.check(HealthCheckRequest { service: String::new() }).await;
        answer
            .map(|answer| answer.get_ref().status() == ServingStatus::Serving)
            .map_err(|status| call_error("broker or sentinel", address, &status))
    }

    /// What the first sentinel that answers says of itself.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with all addresses if none answers.
    pub async fn any_sentinel_info(&self) -> Result<pb::GetInfoResponse, ClientError> {
        self.client
            .any_sentinel(|channel| async move { connection::admin(channel).get_info(pb::GetInfoRequest {}).await })
            .await
    }

    fn expect_topic(&self, topic: Option<pb::Topic>) -> Result<pb::Topic, ClientError> {
        topic.ok_or_else(|| self.malformed("no topic".to_owned()))
    }

    fn malformed(&self, reason: String) -> ClientError {
        ClientError::Malformed { role: "sentinel", address: self.client.options().sentinels.join(","), reason }
    }
}

fn addresses(brokers: Vec<pb::BrokerAddress>) -> BTreeMap<String, String> {
    brokers.into_iter().map(|broker| (broker.id, broker.address)).collect()
}

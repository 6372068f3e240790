//! Which broker leads which partition, as last heard from a sentinel.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use goulette_proto::pb;
use goulette_types::{BrokerId, ErrorKind, LeaderEpoch, PartitionIndex, Revision, TopicId, TopicName};
use tokio::sync::mpsc;

use crate::{Backoff, Client, ClientError, client::lock};

/// Who leads a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub broker: BrokerId,
    /// Where it listens, `host:port`.
    pub address: String,
    /// The epoch of its leadership.
    pub epoch: LeaderEpoch,
}

/// One partition's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRoute {
    /// Who leads it, if anybody does.
    pub leader: Option<Leader>,
    /// Why nobody leads; empty when somebody does.
    pub offline: String,
}

/// Where the partitions of one topic are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRoutes {
    /// The topic's name.
    pub topic: TopicName,
    /// The topic's identity: one made anew under the same name has another.
    pub id: TopicId,
    /// The version of the metadata that says so, within its generation.
    pub revision: Revision,
    /// The metadata's: rises when it is restored, and revisions begin anew.
    pub generation: u64,
    /// Rises with each answer that this client has taken.
    answers: u64,
    /// By partition index, from 0; never empty.
    pub partitions: Vec<PartitionRoute>,
}

impl TopicRoutes {
    /// Who leads `partition`.
    ///
    /// # Errors
    /// [`ClientError::NoPartition`] or [`ClientError::NoLeader`].
    pub fn leader(&self, partition: PartitionIndex) -> Result<&Leader, ClientError> {
        let Some(route) = self.partitions.get(partition.0 as usize) else {
            return Err(ClientError::NoPartition {
                topic: self.topic.to_string(),
                partition: partition.0,
                partitions: self.partitions.len(),
            });
        };
        route.leader.as_ref().ok_or_else(|| ClientError::NoLeader {
            topic: self.topic.to_string(),
            partition: partition.0,
            why: if route.offline.is_empty() { String::new() } else { format!(": {}", route.offline) },
        })
    }

    /// What orders two answers: the greater one is newer.
    fn version(&self) -> (u64, Revision) {
        (self.generation, self.revision)
    }

    fn parse(topic: &TopicName, answer: pb::GetBrokersResponse) -> Result<Self, String> {
        let described = answer.topic.ok_or("no topic")?;
        let id = TopicId::try_from(&described.id[..]).map_err(|error| error.to_string())?;
        let addresses: HashMap<_, _> = answer.brokers.into_iter().map(|broker| (broker.id, broker.address)).collect();
        let mut partitions = Vec::with_capacity(described.partitions.len());
        for (index, partition) in described.partitions.into_iter().enumerate() {
            if partition.index as usize != index {
                return Err(format!("partition {} stands at place {index}", partition.index));
            }
            // A leader without an address is one that nobody can reach: as good as none, until the next answer.
            let leader = match addresses.get(&partition.leader) {
                Some(address) if !partition.leader.is_empty() => Some(Leader {
                    broker: partition.leader.parse().map_err(|error| format!("{error}"))?,
                    address: address.clone(),
                    epoch: LeaderEpoch(partition.leader_epoch),
                }),
                _ => None,
            };
            partitions.push(PartitionRoute { leader, offline: partition.offline });
        }
        if partitions.is_empty() {
            return Err("a topic without partitions".to_owned());
        }
        let (revision, generation) = (Revision(answer.revision), answer.generation);
        Ok(Self { topic: topic.clone(), id, revision, generation, answers: 0, partitions })
    }
}

/// What the sentinels said last, by topic. One call per topic is under way at a time.
#[derive(Default)]
pub(crate) struct RouteCache {
    topics: Mutex<HashMap<TopicName, Arc<Entry>>>,
}

type Entry = tokio::sync::Mutex<Option<Arc<TopicRoutes>>>;

impl RouteCache {
    pub(crate) async fn get(
        &self,
        client: &Client,
        topic: &TopicName,
        create: bool,
    ) -> Result<Arc<TopicRoutes>, ClientError> {
        let entry = self.entry(topic);
        let mut known = entry.lock().await;
        match &*known {
            Some(routes) => Ok(Arc::clone(routes)),
            None => ask(client, topic, &mut known, Vec::new(), create).await,
        }
    }

    /// For one who begins with a topic: it may have been made anew since this client heard of it. What was heard then
    /// does if no sentinel is reachable.
    pub(crate) async fn newest(
        &self,
        client: &Client,
        topic: &TopicName,
        create: bool,
    ) -> Result<Arc<TopicRoutes>, ClientError> {
        let entry = self.entry(topic);
        let mut known = entry.lock().await;
        match ask(client, topic, &mut known, Vec::new(), create).await {
            Err(error @ ClientError::Unreachable { .. }) => known.clone().ok_or(error),
            answer => answer,
        }
    }

    pub(crate) async fn refresh(
        &self,
        client: &Client,
        stale: &TopicRoutes,
        unreachable: Vec<String>,
    ) -> Result<Arc<TopicRoutes>, ClientError> {
        let entry = self.entry(&stale.topic);
        let mut known = entry.lock().await;
        match &*known {
            // Another caller has asked while this one waited for the lock.
            Some(routes) if routes.answers > stale.answers || routes.id != stale.id => Ok(Arc::clone(routes)),
            _ => ask(client, &stale.topic, &mut known, unreachable, false).await,
        }
    }

    fn entry(&self, topic: &TopicName) -> Arc<Entry> {
        Arc::clone(lock(&self.topics).entry(topic.clone()).or_default())
    }
}

/// Tells where the partitions are, every [`ClientOptions::refresh_interval`](crate::ClientOptions::refresh_interval),
/// until nobody listens. Whoever watches the same topic shares the calls, as with [`Client::refresh_routes`].
///
/// Without an answer it says nothing: whoever needs a route asks for it and hears why there is none.
pub(crate) async fn watch(client: Client, mut known: Arc<TopicRoutes>, tell: mpsc::Sender<Arc<TopicRoutes>>) {
    // Many clients that started in one moment do not ask in one moment.
    let interval = client.options().refresh_interval;
    let pauses = Backoff { first: interval, max: interval };
    loop {
        tokio::time::sleep(pauses.pause(1, client.random())).await;
        if let Ok(routes) = client.refresh_routes(&known, Vec::new()).await {
            known = Arc::clone(&routes);
            if tell.send(routes).await.is_err() {
                return;
            }
        }
    }
}

/// Asks a sentinel and keeps the answer, unless it is older than what is known.
async fn ask(
    client: &Client,
    topic: &TopicName,
    known: &mut Option<Arc<TopicRoutes>>,
    unreachable: Vec<String>,
    create: bool,
) -> Result<Arc<TopicRoutes>, ClientError> {
    let (generation, revision_min) = known.as_ref().map(|routes| routes.version()).unwrap_or_default();
    let request = pb::GetBrokersRequest {
        topic: topic.to_string(),
        unreachable_brokers: unreachable,
        revision_min: revision_min.0,
        create,
        generation,
    };
    let answer = client
        .sentinel_call(|mut sentinel| {
            let request = request.clone();
            async move { sentinel.get_brokers(request).await }
        })
        .await
        .inspect_err(|error| {
            // Whoever comes next must not be sent to a topic that is gone.
            if error.kind() == ErrorKind::NotFound {
                *known = None;
            }
        })?;
    let mut routes = TopicRoutes::parse(topic, answer).map_err(|reason| ClientError::Malformed {
        role: "sentinel",
        address: client.options().sentinels.join(","),
        reason,
    })?;
    if let Some(known) = known {
        if routes.version() < known.version() {
            return Ok(Arc::clone(known));
        }
        routes.answers = known.answers + 1;
    }
    note_changes(known.as_deref(), &routes);
    let routes = Arc::new(routes);
    *known = Some(Arc::clone(&routes));
    Ok(routes)
}

/// One line in the log per partition that is found without a leader, loses it, or has one again.
fn note_changes(before: Option<&TopicRoutes>, after: &TopicRoutes) {
    for (index, now) in after.partitions.iter().enumerate() {
        let known = before.and_then(|before| before.partitions.get(index));
        let was_led = known.map(|route| route.leader.is_some());
        match (&now.leader, was_led) {
            (None, None | Some(true)) => {
                tracing::warn!("partition {index} of {} has no leader: {}", after.topic, now.offline);
            }
            (Some(leader), Some(false)) => {
                tracing::info!("broker {} leads partition {index} of {}", leader.broker, after.topic);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(partitions: Vec<pb::Partition>) -> pb::GetBrokersResponse {
        pb::GetBrokersResponse {
            revision: 7,
            topic: Some(pb::Topic { name: "t".into(), id: vec![1; 16].into(), partitions, ..Default::default() }),
            brokers: vec![pb::BrokerAddress { id: "b1".into(), address: "127.0.0.1:1".into() }],
            ..Default::default()
        }
    }

    fn partition(index: u32, leader: &str) -> pb::Partition {
        pb::Partition { index, leader: leader.into(), leader_epoch: 3, ..Default::default() }
    }

    #[test]
    fn a_partition_is_led_by_a_broker_with_an_address() {
        let topic = "t".parse().unwrap();
        let answer = answer(vec![partition(0, "b1"), partition(1, "b2"), partition(2, "")]);
        let routes = TopicRoutes::parse(&topic, answer).unwrap();
        assert_eq!(routes.leader(PartitionIndex(0)).unwrap().epoch, LeaderEpoch(3));
        assert!(matches!(routes.leader(PartitionIndex(1)), Err(ClientError::NoLeader { .. })));
        assert!(matches!(routes.leader(PartitionIndex(2)), Err(ClientError::NoLeader { .. })));
        assert!(matches!(routes.leader(PartitionIndex(3)), Err(ClientError::NoPartition { .. })));
    }

    #[test]
    fn a_restored_cluster_counts_its_revisions_anew() {
        let topic = "t".parse().unwrap();
        let parse = |generation, revision| {
            let answer = pb::GetBrokersResponse { generation, revision, ..answer(vec![partition(0, "b1")]) };
            TopicRoutes::parse(&topic, answer).unwrap().version()
        };
        assert!(parse(1, 3) > parse(0, 900), "newer, though of a lower revision");
        assert!(parse(1, 3) < parse(1, 4));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_refused() {
        let topic = "t".parse().unwrap();
        assert!(TopicRoutes::parse(&topic, answer(vec![])).is_err());
        assert!(TopicRoutes::parse(&topic, answer(vec![partition(1, "b1")])).is_err());
        assert!(TopicRoutes::parse(&topic, answer(vec![partition(0, "b1"), partition(0, "b1")])).is_err());
        assert!(TopicRoutes::parse(&topic, pb::GetBrokersResponse::default()).is_err());
    }
}

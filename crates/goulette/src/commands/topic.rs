//! `goulette topic`: creates, lists, describes, alters and deletes topics.

use std::{collections::BTreeMap, time::Duration};

use goulette_client::{Client, ClientOptions, PartitionOffsets, TopicChange, TopicDescription, TopicSpec};
use goulette_proto::pb;
use goulette_types::{PartitionIndex, TopicId, TopicName};
use serde_json::{Value, json};

use super::{connect, connect_with};
use crate::{
    cli::{AlterFlags, CreateFlags, DeleteFlags, DescribeFlags, KeyValue, ListFlags, TopicCommand},
    exit::Failure,
    output::{Output, Table, print, print_json},
};

pub(crate) async fn run(command: TopicCommand) -> Result<(), Failure> {
    match command {
        TopicCommand::Create(flags) => create(flags).await,
        TopicCommand::List(flags) => list(flags).await,
        TopicCommand::Describe(flags) => describe(flags).await,
        TopicCommand::Alter(flags) => alter(flags).await,
        TopicCommand::Delete(flags) => delete(flags).await,
    }
}

async fn create(flags: CreateFlags) -> Result<(), Failure> {
    let spec = TopicSpec {
        partitions: flags.partitions.unwrap_or(0),
        replication_factor: flags.replication_factor.unwrap_or(0),
        config: settings(flags.config),
    };
    let topic = connect(&flags.cluster.sentinel).await?.admin().create_topic(&flags.name, spec).await?;
    show("created", &topic, flags.cluster.output)
}

async fn alter(flags: AlterFlags) -> Result<(), Failure> {
    let numbers = [flags.partitions, flags.replication_factor];
    if numbers == [None, None] && flags.config.is_empty() && flags.unset.is_empty() {
        return Err(Failure::usage("nothing to change: give -partitions, -replication-factor, -config or -unset"));
    }
    let change = TopicChange {
        partitions: flags.partitions.unwrap_or(0),
        replication_factor: flags.replication_factor.unwrap_or(0),
        set: settings(flags.config),
        unset: flags.unset,
    };
    let client = connect(&flags.cluster.sentinel).await?;
    let topic = client.admin().alter_topic(&flags.name, change).await?;
    show("altered", &topic, flags.cluster.output)
}

async fn delete(flags: DeleteFlags) -> Result<(), Failure> {
    let id = connect(&flags.cluster.sentinel).await?.admin().delete_topic(&flags.name).await?;
    match flags.cluster.output {
        Output::Text => print(&format!("deleted topic {} (id {id})\n", flags.name)),
        Output::Json => print_json(&json!({ "name": flags.name.as_str(), "id": id.to_string() })),
    }
}

async fn list(flags: ListFlags) -> Result<(), Failure> {
    let topics = connect(&flags.cluster.sentinel).await?.admin().list_topics().await?;
    if flags.cluster.output == Output::Json {
        return print_json(&topics.iter().map(topic_json).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["topic", "partitions", "replicas", "offline", "id"]);
    for topic in &topics {
        let offline = topic.partitions.iter().filter(|partition| partition.leader.is_empty()).count();
        table.row([
            topic.name.clone(),
            topic.partitions.len().to_string(),
            replicas(topic),
            offline.to_string(),
            id_of(topic),
        ]);
    }
    print(&table.to_string())
}

async fn describe(flags: DescribeFlags) -> Result<(), Failure> {
    // Whoever looks at a topic wants to see which leaders do not answer, not to wait for them.
    let options = ClientOptions { retry_timeout: Duration::from_secs(2), ..ClientOptions::default() };
    let client = connect_with(&flags.cluster.sentinel, options).await?;
    let described = client.admin().describe_topic(&flags.name).await?;
    let bounds = bounds(&client, &flags.name, &described.topic).await;
    match flags.cluster.output {
        Output::Json => {
            let mut json = topic_json(&described.topic);
            for (partition, bounds) in json["partitions"].as_array_mut().into_iter().flatten().zip(&bounds) {
                partition["start"] = json!(bounds.as_ref().ok().map(|bounds| bounds.start.0));
                partition["committed"] = json!(bounds.as_ref().ok().map(|bounds| bounds.committed.0));
            }
            json["brokers"] = json!(described.brokers);
            print_json(&json)
        }
        Output::Text => print(&describe_text(&described, &bounds)),
    }
}

/// Asks the leader of each partition; an answer that does not come is shown, not fatal.
async fn bounds(client: &Client, name: &TopicName, topic: &pb::Topic) -> Vec<Result<PartitionOffsets, String>> {
    let mut all = Vec::with_capacity(topic.partitions.len());
    for partition in &topic.partitions {
        if partition.leader.is_empty() {
            all.push(Err(partition.offline.clone()));
            continue;
        }
        let answer = client.admin().offsets(name, PartitionIndex(partition.index)).await;
        all.push(answer.map_err(|error| error.to_string()));
    }
    all
}

fn describe_text(described: &TopicDescription, bounds: &[Result<PartitionOffsets, String>]) -> String {
    let topic = &described.topic;
    let created =
        jiff::Timestamp::from_millisecond(i64::try_from(topic.created_at_ms).unwrap_or(0)).unwrap_or_default();
    let mut text = format!(
        "topic     {}\nid        {}\nreplicas  {}\ncreated   {created:.0}\n",
        topic.name,
        id_of(topic),
        replicas(topic)
    );
    for (key, value) in config_of(topic) {
        text += &format!("config    {key}={value}\n");
    }
    let mut table =
        Table::new(&["partition", "leader", "address", "epoch", "replicas", "in sync", "start", "committed", "note"]);
    for (partition, bounds) in topic.partitions.iter().zip(bounds) {
        let (start, committed, note) = match bounds {
            Ok(bounds) => (bounds.start.to_string(), bounds.committed.to_string(), String::new()),
            Err(reason) => ("?".to_owned(), "?".to_owned(), reason.clone()),
        };
        table.row([
            partition.index.to_string(),
            if partition.leader.is_empty() { "none".to_owned() } else { partition.leader.clone() },
            described.brokers.get(&partition.leader).cloned().unwrap_or_default(),
            partition.leader_epoch.to_string(),
            partition.replicas.join(","),
            partition.isr.join(","),
            start,
            committed,
            note,
        ]);
    }
    text + &table.to_string()
}

fn show(done: &str, topic: &pb::Topic, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => print_json(&topic_json(topic)),
        Output::Text => print(&format!(
            "{done} topic {} (partitions {}, replicas {}, id {})\n",
            topic.name,
            topic.partitions.len(),
            replicas(topic),
            id_of(topic)
        )),
    }
}

/// How many replicas each partition has, of how many are wanted: `1 of 3`.
fn replicas(topic: &pb::Topic) -> String {
    let have = topic.partitions.iter().map(|partition| partition.replicas.len()).min().unwrap_or(0);
    format!("{have} of {}", topic.replication_factor_wanted)
}

pub(super) fn topic_json(topic: &pb::Topic) -> Value {
    let partition = |partition: &pb::Partition| {
        json!({
            "index": partition.index,
            "leader": partition.leader,
            "leader_epoch": partition.leader_epoch,
            "partition_epoch": partition.partition_epoch,
            "replicas": partition.replicas,
            "isr": partition.isr,
            "eligible": partition.eligible,
            "min_insync_replicas": partition.min_insync_replicas,
            "offline": partition.offline,
        })
    };
    json!({
        "name": topic.name,
        "id": id_of(topic),
        "replication_factor_wanted": topic.replication_factor_wanted,
        "replicas": replicas(topic),
        "config": config_of(topic),
        "created_at_ms": topic.created_at_ms,
        "partitions": topic.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}

fn id_of(topic: &pb::Topic) -> String {
    TopicId::try_from(&topic.id[..]).map_or_else(|error| error.to_string(), |id| id.to_string())
}

fn config_of(topic: &pb::Topic) -> BTreeMap<&str, &str> {
    topic.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn settings(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

//! What a sentinel keeps in etcd, checked from outside: registration, topics, the operation log, election, recovery.
//!
//! `cargo run --example etcd_integration -- -sentinel 127.0.0.1:50052 -etcd-endpoints 127.0.0.1:2379`
//!
//! Both are the defaults; the etcd may be an external one or the one inside of the sentinel. It waits up to a minute for
//! them, runs two brokers of its own in a temporary folder, and ends with exit code 1 at the first check that fails. Its
//! topic and its brokers' data are gone afterwards; their entries in the operation log stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    future::Future,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use goulette_broker::{Broker, BrokerOptions};
use goulette_client::{
    Client, ClientOptions, Consumer, ConsumerOptions, Producer, ProducerOptions, ProducerRecord, Start, TopicSpec,
};
use goulette_env::Env;
use goulette_proto::etcd::{
    etcdserverpb::{DeleteRangeRequest, RangeRequest, kv_client::KvClient},
    mvccpb::KeyValue,
};
use goulette_types::TopicName;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// For whatever is started beside us.
const STARTUP: Duration = Duration::from_secs(60);
/// For whatever the cluster does by itself.
const PATIENCE: Duration = Duration::from_secs(20);
const PARTITIONS: u32 = 16;
const RECORDS: usize = 200;

struct Flags {
    sentinel: String,
    etcd: Vec<String>,
    prefix: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match flags() {
        Ok(flags) => run(&flags).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {
            println!("all checks passed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn flags() -> Result<Flags> {
    let mut flags = Flags {
        sentinel: "127.0.0.1:50052".to_owned(),
        etcd: vec!["127.0.0.1:2379".to_owned()],
        prefix: "/goulette".to_owned(),
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let flag = argument.trim_start_matches('-');
        let (flag, value) = match flag.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (flag.to_owned(), arguments.next()),
        };
        let value = value.with_context(|| format!("-{flag} needs a value"))?;
        match flag.as_str() {
            "sentinel" => flags.sentinel = value,
            "etcd-endpoints" => flags.etcd = value.split(',').map(ToOwned::to_owned).collect(),
            "etcd-prefix" => flags.prefix = value,
            _ => bail!("no flag -{flag}: there are -sentinel, -etcd-endpoints and -etcd-prefix"),
        }
    }
    Ok(flags)
}

async fn run(flags: &Flags) -> Result<()> {
    let client = until("a sentinel that answers", STARTUP, || async {
        let client = Client::connect(ClientOptions::for_sentinels(&flags.sentinel)).await?;
        client.cluster().status().await?;
        Ok(client)
    })
    .await?;
    let etcd = until("an etcd that answers", STARTUP, || Etcd::connect(flags)).await?;
    println!("ready: sentinel {}, etcd {}", flags.sentinel, flags.etcd.join(","));

    let folder = tempfile::tempdir()?;
    let unique = std::process::id();
    let ids = [format!("example-{unique}-a"), format!("example-{unique}-b")];
    let mut brokers = BTreeMap::new();
    for id in &ids {
        brokers.insert(id.clone(), start_broker(id, folder.path(), flags).await?);
    }
    let topic: TopicName = format!("example-{unique}").parse()?;
    let checked = check(&client, &etcd, &mut brokers, &topic, folder.path(), flags).await;
    // What was made goes, whatever was found.
    let deleted = client.admin().delete_topic(&topic).await;
    for broker in brokers.into_values() {
        let _ = timeout(PATIENCE, broker.stop()).await;
    }
    checked?;
    deleted.context("deleting the topic")?;
    until("the topic's key gone", PATIENCE, || async {
        ensure!(etcd.get(&format!("topics/{topic}")).await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    println!("cleaned up: topic and partitions are gone from etcd");
    Ok(())
}

async fn check(
    client: &Client,
    etcd: &Etcd,
    brokers: &mut BTreeMap<String, Broker>,
    topic: &TopicName,
    folder: &Path,
    flags: &Flags,
) -> Result<()> {
    check_registration(client, etcd, brokers).await?;
    check_topic(client, etcd, topic).await?;
    check_operations(client, etcd).await?;
    check_election(client, etcd, topic).await?;
    check_recovery(client, etcd, brokers, topic, folder, flags).await
}

async fn check_registration(client: &Client, etcd: &Etcd, brokers: &BTreeMap<String, Broker>) -> Result<()> {
    for (id, broker) in brokers {
        let name = format!("brokers/{id}");
        let key = until("the broker's key", PATIENCE, || etcd.json(&name)).await?;
        let address = broker.address().to_string();
        ensure!(key.to_string().contains(&address), "{name} does not hold the address {address}: {key}");
    }
    until("both brokers healthy", PATIENCE, || async {
        let status = client.cluster().status().await?;
        let healthy = |id: &String| status.brokers.iter().any(|broker| broker.id == *id && broker.state == 1);
        ensure!(brokers.keys().all(healthy), "they are not: {:?}", status.brokers);
        Ok(())
    })
    .await?;
    println!("registration: {} brokers are in etcd and healthy", brokers.len());
    Ok(())
}

async fn check_topic(client: &Client, etcd: &Etcd, topic: &TopicName) -> Result<()> {
    let spec = TopicSpec { partitions: PARTITIONS, ..TopicSpec::default() };
    let created = client.admin().create_topic(topic, spec).await.context("creating the topic")?;
    let id: String = created.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = etcd.json(&format!("topics/{topic}")).await?;
    ensure!(key.to_string().contains(&id), "topics/{topic} does not hold the id {id}: {key}");
    let partitions = etcd.below(&format!("partitions/{id}/")).await?;
    ensure!(partitions.len() == PARTITIONS as usize, "{} partition keys instead of {PARTITIONS}", partitions.len());
    for (key, value) in &partitions {
        let value: Value = serde_json::from_slice(value).with_context(|| format!("{key} is no JSON"))?;
        ensure!(value.to_string().contains("replicas"), "{key} names no replicas: {value}");
    }
    let values = send_and_read(client, topic, "before").await?;
    println!("topics: {topic} has {} partition keys; {values} records sent and read back", partitions.len());
    Ok(())
}

async fn check_operations(client: &Client, etcd: &Etcd) -> Result<()> {
    let stored = etcd.below("operations/").await?;
    let mut ids = Vec::new();
    let mut names = BTreeSet::new();
    for (key, value) in &stored {
        let digits = key.rsplit('/').next().unwrap_or_default();
        // Beside the entries there may be a snapshot, under a name.
        let Ok(id) = digits.parse::<u64>() else { continue };
        ensure!(digits.len() == 20, "{key} is not padded to 20 digits");
        let value: Value = serde_json::from_slice(value).with_context(|| format!("{key} is no JSON"))?;
        for name in ["addBrokerToHashRing", "registerBroker", "generateTopicReplicas"] {
            if value.to_string().contains(&format!("\"{name}\"")) {
                names.insert(name);
            }
        }
        ids.push(id);
    }
    ensure!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids do not rise: {ids:?}");
    ensure!(names.len() == 3, "of the operations that happened here only {names:?} are recorded");
    let newest = client.cluster().operations(0, 1_000, true).await?.operations;
    let told: Vec<u64> = newest.iter().map(|operation| operation.id).collect();
    ensure!(!told.is_empty() && ids.ends_with(&told), "the sentinel tells other operations than etcd holds");
    println!("operations: {} entries, ids rising, and the sentinel tells the same", ids.len());
    Ok(())
}

/// Takes the leadership away from the leading sentinel, as an operator might: somebody must lead again, and go on.
async fn check_election(client: &Client, etcd: &Etcd, topic: &TopicName) -> Result<()> {
    let before = etcd.get("sentinel/leader").await?.context("no sentinel leads")?;
    let last = *operation_ids(etcd).await?.last().context("no operations")?;
    let described = client.admin().describe_topic(topic).await?;
    etcd.delete("sentinel/leader").await?;
    let took = Instant::now();
    let after = until("a new leadership", PATIENCE, || async {
        let key = etcd.get("sentinel/leader").await?.context("nobody leads")?;
        ensure!(key.create_revision > before.create_revision, "it is the old one");
        Ok(key)
    })
    .await?;
    let took = took.elapsed();
    let other: TopicName = format!("{topic}-elected").parse()?;
    until("a topic under the new leadership", PATIENCE, || async {
        match client.admin().create_topic(&other, TopicSpec::default()).await {
            Err(error) if error.kind() != goulette_types::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    })
    .await?;
    client.admin().delete_topic(&other).await?;
    let ids = operation_ids(etcd).await?;
    ensure!(ids.iter().any(|id| *id > last), "the new leader recorded nothing beyond {last}");
    ensure!(ids.iter().collect::<BTreeSet<_>>().len() == ids.len(), "an id was given twice");
    let same = client.admin().describe_topic(topic).await?;
    ensure!(same.topic.id == described.topic.id, "the topic has another id now");
    println!(
        "election: the leader key came back after {} ms (revision {}), and topics can be made",
        took.as_millis(),
        after.create_revision
    );
    Ok(())
}

/// Stops a broker and starts it again on its folder.
async fn check_recovery(
    client: &Client,
    etcd: &Etcd,
    brokers: &mut BTreeMap<String, Broker>,
    topic: &TopicName,
    folder: &Path,
    flags: &Flags,
) -> Result<()> {
    let (id, broker) = brokers.pop_first().context("no brokers")?;
    let last = *operation_ids(etcd).await?.last().context("no operations")?;
    timeout(PATIENCE, broker.stop()).await.context("the broker does not stop")??;
    until("its unregistration in the log", PATIENCE, || async {
        let operations = client.cluster().operations(last + 1, 1_000, false).await?.operations;
        let found = operations.iter().any(|entry| entry.name == "unregisterBroker" && entry.json.contains(&id));
        ensure!(found, "there is none");
        Ok(())
    })
    .await?;
    let topic_now = client.admin().describe_topic(topic).await?.topic;
    for partition in &topic_now.partitions {
        // It is led by somebody else, or says who is awaited.
        let is_told = !partition.leader.is_empty() || partition.offline.contains(&id);
        ensure!(partition.leader != id && is_told, "partition {}: {partition:?}", partition.index);
    }
    brokers.insert(id.clone(), start_broker(&id, folder, flags).await?);
    until("every partition led", PATIENCE, || async {
        let topic_now = client.admin().describe_topic(topic).await?.topic;
        ensure!(topic_now.partitions.iter().all(|partition| !partition.leader.is_empty()), "one is not");
        Ok(())
    })
    .await?;
    let values = send_and_read(client, topic, "after").await?;
    ensure!(values == 2 * RECORDS, "{values} records instead of {}", 2 * RECORDS);
    println!("recovery: broker {id} came back with its folder; all {values} records are there");
    Ok(())
}

async fn start_broker(id: &str, folder: &Path, flags: &Flags) -> Result<Broker> {
    let sentinels = flags.sentinel.split(',').map(ToOwned::to_owned).collect();
    let options = BrokerOptions::new(id.parse()?, "127.0.0.1:0".parse()?, folder.join(id), sentinels);
    Ok(timeout(STARTUP, Broker::start(options, Env::real())).await.context("the broker does not start")??)
}

/// Sends records and reads the topic from its beginning; returns how many there are, each once.
async fn send_and_read(client: &Client, topic: &TopicName, word: &str) -> Result<usize> {
    let producer = Producer::new(client, topic, ProducerOptions::default()).await?;
    for number in 0..RECORDS {
        let record = ProducerRecord::new(format!("{word} {number}")).with_key(number.to_string());
        drop(producer.send(record).await?);
    }
    timeout(PATIENCE, producer.flush()).await.context("not all was acknowledged in time")??;
    producer.close().await?;
    let options =
        ConsumerOptions { group: None, start: Some(Start::Beginning), until_end: true, ..ConsumerOptions::default() };
    let mut consumer = Consumer::new(client, topic, options).await?;
    let mut values = BTreeSet::new();
    while let Some(record) = timeout(PATIENCE, consumer.next()).await.context("reading takes too long")?? {
        ensure!(values.insert(record.value.clone()), "{:?} was read twice", record.value);
    }
    Ok(values.len())
}

async fn operation_ids(etcd: &Etcd) -> Result<Vec<u64>> {
    let stored = etcd.below("operations/").await?;
    Ok(stored.iter().filter_map(|(key, _)| key.rsplit('/').next()?.parse().ok()).collect())
}

/// Tries until it works, with a deadline, and then tells why not.
async fn until<T, F: Future<Output = Result<T>>>(what: &str, patience: Duration, attempt: impl Fn() -> F) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let tried = timeout(patience, attempt()).await.unwrap_or_else(|_| bail!("no answer"));
        match tried {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => return Err(error.context(format!("in vain: {what}"))),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The keys below our prefix.
struct Etcd {
    kv: KvClient<Channel>,
    prefix: String,
}

impl Etcd {
    async fn connect(flags: &Flags) -> Result<Self> {
        let mut last = None;
        for endpoint in &flags.etcd {
            let url = if endpoint.contains("://") { endpoint.clone() } else { format!("http://{endpoint}") };
            match Endpoint::from_shared(url)?.connect_timeout(Duration::from_secs(2)).connect().await {
                Ok(channel) => {
                    let etcd = Self { kv: KvClient::new(channel), prefix: flags.prefix.clone() };
                    etcd.get("cluster").await?;
                    return Ok(etcd);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("no endpoint"), Into::into))
    }

    async fn range(&self, key: String, range_end: Vec<u8>) -> Result<Vec<KeyValue>> {
        let request = RangeRequest { key: key.into(), range_end: range_end.into(), ..RangeRequest::default() };
        Ok(self.kv.clone().range(request).await?.into_inner().kvs)
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        Ok(self.range(format!("{}/{key}", self.prefix), Vec::new()).await?.into_iter().next())
    }

    async fn json(&self, key: &str) -> Result<Value> {
        let found = self.get(key).await?.with_context(|| format!("there is no key {key}"))?;
        serde_json::from_slice(&found.value).with_context(|| format!("{key} is no JSON"))
    }

    /// Keys that begin so, in order, with their values.
    async fn below(&self, start: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let key = format!("{}/{start}", self.prefix);
        let mut end = key.clone().into_bytes();
        // They end in a slash; what follows it in order begins the first key that is not below.
        *end.last_mut().context("no prefix")? += 1;
        let found = self.range(key, end).await?;
        found.into_iter().map(|kv| Ok((String::from_utf8(kv.key.to_vec())?, kv.value.to_vec()))).collect()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let request =
            DeleteRangeRequest { key: format!("{}/{key}", self.prefix).into(), ..DeleteRangeRequest::default() };
        self.kv.clone().delete_range(request).await?;
        Ok(())
    }
}

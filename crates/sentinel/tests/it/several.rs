//! Several sentinels over one etcd, each on a thread and a runtime of its own, so that it can be killed or stopped.

use std::{collections::BTreeSet, thread, time::Duration};

use goulette_env::Env;
use goulette_etcd::{Config, EtcdServer};
use goulette_meta::{EtcdStore, Guard, MetaStore, MetaTxn, Outcome};
use goulette_proto::{
    pb::{self, sentinel_client::SentinelClient},
    status::leader_of,
};
use goulette_sentinel::{EtcdMode, EtcdOptions, Sentinel, SentinelOptions, StartError, Store};
use goulette_types::{ClusterId, ErrorKind};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::harness::{Client, FakeBroker, PATIENCE, ask, eventually, options, refusal};

/// Within this a cluster whose leader was killed takes changes again.
const TAKEOVER: Duration = Duration::from_secs(3);

/// An etcd of one member, in this process.
struct Etcd {
    server: EtcdServer,
    address: String,
    folder: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> Self {
        Self::start_at(free_address().await, tempfile::tempdir().unwrap()).await
    }

    async fn start_at(address: String, folder: tempfile::TempDir) -> Self {
        let peer = format!("http://{}", free_address().await);
        let data = folder.path().join("data");
        let flags = [
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls=http://{address}"),
            format!("--advertise-client-urls=http://{address}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=500".to_owned(),
        ];
        let config = Config::parse(&flags, |_| None, |_| Err("there is no file".to_owned())).unwrap();
        let server = EtcdServer::start(config, Env::real()).await.unwrap();
        assert!(timeout(PATIENCE, server.ready()).await.unwrap());
        Self { server, address, folder }
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(&goulette_meta::EtcdOptions::new(vec![self.address.clone()])).unwrap()
    }

    async fn stop(self) -> (String, tempfile::TempDir) {
        self.server.stop().await;
        (self.address, self.folder)
    }
}

async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

enum Order {
    Stop,
    /// The whole process sleeps, and says when it wakes.
    Pause(Duration, oneshot::Sender<()>),
}

/// A sentinel's process.
struct Process {
    address: String,
    cluster: ClusterId,
    orders: mpsc::Sender<Order>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Process {
    async fn start(id: &str, etcd: &str) -> Self {
        Self::try_start(id, etcd).await.unwrap()
    }

    async fn try_start(id: &str, etcd: &str) -> Result<Self, StartError> {
        let mut options: SentinelOptions = options(std::path::Path::new("unused"));
        options.id = id.parse().unwrap();
        options.store = Store::Etcd(EtcdOptions::new(EtcdMode::External, vec![etcd.to_owned()]));
        Self::run(options).await
    }

    async fn run(options: SentinelOptions) -> Result<Self, StartError> {
        let (tell, told) = oneshot::channel();
        let (orders, taken) = mpsc::channel(1);
        let thread = thread::spawn(move || {
            // One thread for everything of it, so that it can be held up as a whole.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(live(options, tell, taken));
            // What still runs is cut off in the middle.
            runtime.shutdown_background();
        });
        let (address, cluster) = told.await.unwrap()?;
        Ok(Self { address, cluster, orders, thread: Some(thread) })
    }

    async fn client(&self) -> Client {
        SentinelClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    async fn stop(mut self) {
        self.orders.send(Order::Stop).await.unwrap();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    }

    /// Without a word to anybody.
    fn kill(self) {}

    /// The answer comes when it wakes up.
    async fn pause(&self, time: Duration) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.orders.send(Order::Pause(time, wake)).await.unwrap();
        woken
    }
}

async fn live(
    options: SentinelOptions,
    tell: oneshot::Sender<Result<(String, ClusterId), StartError>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let sentinel = match Sentinel::start(options, Env::real()).await {
        Ok(sentinel) => sentinel,
        Err(error) => return drop(tell.send(Err(error))),
    };
    drop(tell.send(Ok((sentinel.address().to_string(), sentinel.cluster_id()))));
    loop {
        match orders.recv().await {
            Some(Order::Stop) => return sentinel.stop().await,
            Some(Order::Pause(time, wake)) => {
                sleep_all(time);
                let _ = wake.send(());
            }
            None => return std::mem::forget(sentinel),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a process that is stopped runs nothing meanwhile")]
fn sleep_all(time: Duration) {
    thread::sleep(time);
}

/// Which of them leads, as they all say.
async fn leader(processes: &[&Process]) -> usize {
    let search = async {
        loop {
            let mut leaders = BTreeSet::new();
            for process in processes {
                let registration = FakeBroker::new("nobody").await.registration();
                match process
                    .client()
                    .await
                    .register_broker(pb::RegisterBrokerRequest { id: "?".to_owned(), ..registration })
                    .await
                {
                    // The one that leads looks at the request.
                    Err(status) if goulette_proto::status::kind_of(&status) == ErrorKind::Invalid => {
                        leaders.insert(process.address.clone())
                    }
                    Err(status) => leaders.insert(leader_of(&status).unwrap_or_default()),
                    Ok(_) => panic!("no broker is called ?"),
                };
            }
            let place = processes.iter().position(|process| leaders.contains(&process.address));
            if let (1, Some(place)) = (leaders.len(), place) {
                return place;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, search).await.expect("they come to agree")
}

fn new_topic(name: &str, partitions: u32) -> pb::CreateTopicRequest {
    pb::CreateTopicRequest {
        name: name.to_owned(),
        partitions,
        request_id: name.as_bytes().to_vec().into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sentinel_answers_and_passes_changes_on_to_the_one_that_leads() {
    let etcd = Etcd::start().await;
    let one = Process::start("s1", &etcd.address).await;
    let two = Process::start("s2", &etcd.address).await;
    let three = Process::start("s3", &etcd.address).await;
    let all = [&one, &two, &three];
    assert!(all.iter().all(|process| process.cluster == one.cluster), "one cluster");
    let leading = leader(&all).await;
    let mut leads = all[leading].client().await;
    let others: Vec<_> = all.into_iter().filter(|process| process.address != all[leading].address).collect();
    let (mut a, mut b) = (others[0].client().await, others[1].client().await);

    let broker = FakeBroker::new("b1").await;
    let status = a.register_broker(broker.registration()).await.unwrap_err();
    assert_eq!(leader_of(&status), Some(all[leading].address.clone()), "a broker is told whom to ask");
    let pulse = broker.live(&mut leads).await;

    let made = a.create_topic(new_topic("orders", 3)).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(made.partitions.len(), 3);
    pulse.sees(|seen| seen.leads.len() == 3).await;
    let begun = Instant::now();
    for client in [&mut a, &mut b, &mut leads] {
        let seen = eventually(client, "orders", |topic| topic.partitions.iter().all(|p| p.leader == "b1")).await;
        assert_eq!(seen.id, made.id);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let first = b.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner().producer_id;
    let second = a.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner().producer_id;
    assert_eq!(second, first + 1);
    // What a client says of a broker is looked into by the leader, and not believed.
    let complaint = pb::GetBrokersRequest { unreachable_brokers: vec!["b1".to_owned()], ..ask("orders") };
    let answer = b.get_brokers(complaint).await.unwrap().into_inner();
    assert!(answer.topic.unwrap().partitions.iter().all(|partition| partition.leader == "b1"));
    let auto = b.get_brokers(ask("made-by-use")).await.unwrap().into_inner();
    assert_eq!(auto.topic.unwrap().partitions.len(), 1);
    // A sentinel that has not seen what the client has waits for it.
    let behind = pb::GetBrokersRequest { revision_min: auto.revision, ..ask("made-by-use") };
    assert!(a.get_brokers(behind).await.unwrap().into_inner().revision >= auto.revision);
    a.delete_topic(pb::DeleteTopicRequest { name: "orders".to_owned() }).await.unwrap();
    drop(pulse);
    for process in [one, two, three] {
        process.stop().await;
    }
    etcd.stop().await;
}

/// How often the leader is killed: more often where somebody asks for it.
fn kills() -> usize {
    std::env::var("GOULETTE_LEADER_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_within_seconds_and_nothing_is_lost_or_done_twice() {
    let etcd = Etcd::start().await;
    let mut processes = Vec::new();
    for id in ["s1", "s2", "s3"] {
        processes.push((id, Process::start(id, &etcd.address).await));
    }
    let broker = FakeBroker::new("b1").await;
    let mut producers = BTreeSet::new();
    let mut slowest = Duration::ZERO;
    for round in 0..kills() {
        let place = leader(&processes.iter().map(|(_, process)| process).collect::<Vec<_>>()).await;
        let pulse = broker.live(&mut processes[place].1.client().await).await;
        let (id, killed) = processes.remove(place);
        killed.kill();
        let begun = Instant::now();
        let name = format!("topic{round}");
        let mut client = processes[0].1.client().await;
        loop {
            match client.create_topic(new_topic(&name, 2)).await {
                Ok(_) => break,
                Err(status) => println!("round {round}, {:?}: {}", begun.elapsed(), status.message()),
            }
            assert!(begun.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slowest = slowest.max(begun.elapsed());
        let given = client.init_producer(pb::InitProducerRequest::default()).await.unwrap().into_inner().producer_id;
        assert!(producers.insert(given), "producer id {given} was given before");
        drop(pulse);
        processes.push((id, Process::start(id, &etcd.address).await));
    }
    println!("the slowest of {} takeovers took {slowest:?}", kills());
    assert!(slowest < TAKEOVER, "{slowest:?}");
    // Every topic was made once, and the log numbers every operation once and without a gap.
    let log = etcd.store().range("/goulette/operations/").await.unwrap();
    let texts: Vec<_> = log.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value)).collect();
    assert_eq!(texts.iter().filter(|text| text.contains("createTopic")).count(), kills());
    let last: u64 = log.entries.last().unwrap().key.rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(last as usize, log.entries.len());
    for (_, process) in processes {
        process.stop().await;
    }
    etcd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_leads_no_more_and_buries_nobody() {
    let etcd = Etcd::start().await;
    let sleeper = Process::start("s1", &etcd.address).await;
    let other = Process::start("s2", &etcd.address).await;
    assert_eq!(leader(&[&sleeper, &other]).await, 0, "the first one was alone");
    let mut client = other.client().await;
    let broker = FakeBroker::new("b1").await;
    let pulse = broker.live(&mut sleeper.client().await).await;
    client.create_topic(new_topic("orders", 1)).await.unwrap();
    let woken = sleeper.pause(Duration::from_secs(8)).await;
    let begun = Instant::now();
    let next = broker.live(&mut leading_client(&other).await).await;
    assert!(begun.elapsed() < TAKEOVER, "{:?}", begun.elapsed());
    client.create_topic(new_topic("while-it-slept", 1)).await.unwrap();
    drop(pulse);
    timeout(PATIENCE, woken).await.expect("it wakes").unwrap();
    // It cannot write for itself any more: what it is asked for is done by the other.
    let mut woken = sleeper.client().await;
    woken.create_topic(new_topic("after-it-woke", 1)).await.unwrap();
    assert_eq!(leader(&[&sleeper, &other]).await, 1);
    let topic = client.get_brokers(ask("orders")).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((topic.partitions[0].leader.as_str(), topic.partitions[0].leader_epoch), ("b1", 1));
    let log = etcd.store().range("/goulette/operations/").await.unwrap();
    let died = log.entries.iter().any(|entry| String::from_utf8_lossy(&entry.value).contains("handleUnreachable"));
    assert!(!died, "nobody is declared dead for another one's sleep");
    drop(next);
    sleeper.stop().await;
    other.stop().await;
    etcd.stop().await;
}

/// A client of a sentinel, once that leads.
async fn leading_client(process: &Process) -> Client {
    timeout(PATIENCE, leader(&[process])).await.unwrap();
    process.client().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_cannot_write() {
    let etcd = Etcd::start().await;
    let process = Process::start("s1", &etcd.address).await;
    leader(&[&process]).await;
    let store = etcd.store();
    let led = store.get("/goulette/sentinel/leader").await.unwrap().unwrap();
    // What another sentinel does when it finds this one silent.
    let mut usurped: serde_json::Value = serde_json::from_slice(&led.value).unwrap();
    usurped["id"] = "s9".into();
    usurped["incarnation"] = "f".repeat(32).into();
    usurped["address"] = free_address().await.into();
    let guard = Guard { key: led.key.clone(), revision: led.revision };
    let stale = MetaTxn {
        guards: vec![guard.clone()],
        writes: vec![("/goulette/written-by-the-deposed".to_owned(), Some("x".into()))],
        lease: None,
    };
    let txn = MetaTxn { guards: vec![guard], writes: vec![(led.key, Some(usurped.to_string().into()))], lease: None };
    assert!(matches!(store.txn(txn).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(store.txn(stale).await.unwrap(), Outcome::Conflict);
    // It knows, and names the other; nobody answers there, so it takes its place back.
    leader(&[&process]).await;
    process.stop().await;
    assert_eq!(store.get("/goulette/sentinel/leader").await.unwrap(), None, "handed on in order");
    etcd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_is_for_one_sentinel_at_a_time() {
    let etcd = Etcd::start().await;
    let first = Process::start("s1", &etcd.address).await;
    leader(&[&first]).await;
    let error = Process::try_start("s1", &etcd.address).await.err().expect("the id is taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&first.address), "{error}");
    first.kill();
    let second = Process::start("s1", &etcd.address).await;
    leader(&[&second]).await;
    second.stop().await;
    etcd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_insisted_on_must_be_the_one_that_is_there() {
    let etcd = Etcd::start().await;
    let first = Process::start("s1", &etcd.address).await;
    let mut options = options(std::path::Path::new("unused"));
    options.id = "s2".parse().unwrap();
    options.cluster_id = Some(ClusterId(0xbad));
    options.store = Store::Etcd(EtcdOptions::new(EtcdMode::External, vec![etcd.address.clone()]));
    let error = Process::run(options).await.err().expect("another cluster");
    assert!(matches!(error, StartError::OtherCluster { given: ClusterId(0xbad), .. }), "{error}");
    first.stop().await;
    etcd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_is_waited_for_and_one_that_goes_is_missed_and_found_again() {
    let address = free_address().await;
    let mut starting = tokio::spawn({
        let address = address.clone();
        async move { Process::start("s1", &address).await }
    });
    assert!(timeout(Duration::from_millis(500), &mut starting).await.is_err(), "it waits");
    let etcd = Etcd::start_at(address, tempfile::tempdir().unwrap()).await;
    let process = timeout(PATIENCE, starting).await.unwrap().unwrap();
    leader(&[&process]).await;
    let broker = FakeBroker::new("b1").await;
    let mut client = process.client().await;
    let _pulse = broker.live(&mut client).await;
    client.create_topic(new_topic("orders", 1)).await.unwrap();

    let (address, folder) = etcd.stop().await;
    let stale = async {
        loop {
            let answer = client.get_brokers(ask("orders")).await.unwrap().into_inner();
            assert_eq!(answer.topic.unwrap().partitions[0].leader, "b1", "answered from the copy");
            if answer.stale_ms > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, stale).await.expect("and says so");
    let (kind, _) = refusal(client.create_topic(new_topic("refused", 1)).await);
    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::NotLeader), "{kind:?}");

    let etcd = Etcd::start_at(address, folder).await;
    leader(&[&process]).await;
    broker.register(&mut client).await;
    client.create_topic(new_topic("found-again", 1)).await.unwrap();
    let fresh = async {
        while client.get_brokers(ask("orders")).await.unwrap().into_inner().stale_ms > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, fresh).await.expect("nothing is stale any more");
    process.stop().await;
    etcd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_value_under_the_prefix_does_not_count_and_harms_nobody() {
    let etcd = Etcd::start().await;
    let process = Process::start("s1", &etcd.address).await;
    leader(&[&process]).await;
    let store = etcd.store();
    let foreign = |key: &str| (format!("/goulette/{key}"), Some(r#"{"hello":"world"}"#.into()));
    let writes = vec![foreign("topics/mine"), foreign("brokers/b7"), foreign("nobody/knows/this")];
    store.txn(MetaTxn { guards: Vec::new(), writes, lease: None }).await.unwrap();
    let broker = FakeBroker::new("b1").await;
    let mut client = process.client().await;
    let _pulse = broker.live(&mut client).await;
    client.create_topic(new_topic("orders", 1)).await.unwrap();
    process.stop().await;
    let process = Process::start("s1", &etcd.address).await;
    let topics = process.client().await.list_topics(pb::ListTopicsRequest {}).await.unwrap().into_inner().topics;
    assert_eq!(topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["orders"]);
    process.stop().await;
    etcd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_is_removed_under_a_sentinel_is_begun_anew_as_the_same_cluster() {
    let etcd = Etcd::start().await;
    let process = Process::start("s1", &etcd.address).await;
    leader(&[&process]).await;
    let broker = FakeBroker::new("b1").await;
    let mut client = process.client().await;
    let pulse = broker.live(&mut client).await;
    client.create_topic(new_topic("orders", 1)).await.unwrap();
    let before = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    let store = etcd.store();
    for stored in store.range("/goulette/").await.unwrap().entries {
        let txn = MetaTxn { guards: Vec::new(), writes: vec![(stored.key, None)], lease: None };
        store.txn(txn).await.unwrap();
    }
    drop(pulse);
    let registered = async {
        while client.register_broker(broker.registration()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, registered).await.expect("it begins anew");
    let answer = client.register_broker(broker.registration()).await.unwrap().into_inner();
    assert_eq!(answer.cluster_id, process.cluster.to_bytes()[..], "the same cluster");
    let topics = client.list_topics(pb::ListTopicsRequest {}).await.unwrap().into_inner().topics;
    assert!(topics.is_empty(), "{topics:?}");
    client.create_topic(new_topic("orders", 1)).await.unwrap();
    let after = client.get_brokers(ask("orders")).await.unwrap().into_inner();
    assert!(after.generation > before.generation);
    process.stop().await;
    etcd.stop().await;
}

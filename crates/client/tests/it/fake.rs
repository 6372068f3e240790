//! A sentinel and brokers as small as can be: they keep topics in memory, check what a broker would check, and fail
//! when told to. Each runs on a runtime of its own, so that a kill closes its sockets as a dying process does.

mod broker;
mod sentinel;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use goulette_client::{Backoff, Client, ClientOptions};
use goulette_proto::pb::{admin_server::AdminServer, broker_server::BrokerServer, sentinel_server::SentinelServer};
use goulette_records::{Batch, Limits};
use goulette_types::{ErrorKind, TopicId, TopicName};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tonic::transport::{
    Server,
    server::{Router, TcpIncoming},
};

use broker::FakeBroker;
use sentinel::{FakeAdmin, FakeSentinel};

/// What the fake cluster knows, and which faults it is to commit.
pub(crate) struct State {
    pub(crate) topic_id: TopicId,
    pub(crate) partitions: Vec<Log>,
    /// Addresses by broker id.
    pub(crate) brokers: BTreeMap<String, SocketAddr>,
    pub(crate) revision: u64,
    pub(crate) grant: u32,
    pub(crate) faults: Faults,
    pub(crate) seen: Seen,
    next_producer: u64,
    next_epoch: u32,
    pub(crate) positions: HashMap<(String, u32), u64>,
    /// Who reads which partition, by group and partition.
    pub(crate) members: HashMap<(String, u32), String>,
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) leader: String,
    pub(crate) epoch: u32,
    pub(crate) batches: Vec<Batch>,
    pub(crate) start: u64,
    /// By producer id: epoch and the next sequence.
    producers: HashMap<u64, (u16, u32)>,
}

impl Log {
    /// Empty, and led by `b1`.
    fn led() -> Self {
        Log { leader: "b1".into(), epoch: 1, ..Log::default() }
    }

    pub(crate) fn end(&self) -> u64 {
        self.batches.last().map_or(self.start, |batch| batch.next_offset().0)
    }

    /// All values, in offset order.
    pub(crate) fn values(&self) -> Vec<Bytes> {
        let records = self.batches.iter().flat_map(|batch| batch.decode(&Limits::WIDEST).unwrap());
        records.map(|record| record.value.unwrap()).collect()
    }
}

/// Each is used up by being committed, unless it is a switch.
#[derive(Default)]
pub(crate) struct Faults {
    /// Store so many batches without an answer, then cut the stream.
    pub(crate) cut_produce_after: Option<u32>,
    /// Answer the next batches so instead of storing them.
    pub(crate) refuse: VecDeque<ErrorKind>,
    /// Answer each batch twice.
    pub(crate) duplicate_acks: bool,
    /// Cut each fetch stream after so many batches: a switch.
    pub(crate) cut_fetch_after: Option<u32>,
    /// Send each batch of a fetch twice.
    pub(crate) duplicate_batches: bool,
    /// Batches in one frame of a fetch, beside the first.
    pub(crate) more_per_frame: usize,
    /// The end that a question for offsets is told, though there are more records already.
    pub(crate) end_told: Option<u64>,
    /// Make topics without an answer, so many times.
    pub(crate) lose_creations: u32,
    /// Flip a bit of the batch with this base offset.
    pub(crate) corrupt: Option<u64>,
}

/// What was observed.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) unreachable: Vec<String>,
    pub(crate) get_brokers: u32,
    /// Batches that came in, also those not stored.
    pub(crate) produced: u32,
    pub(crate) duplicates: u32,
    /// Unanswered batches at most.
    pub(crate) in_flight_max: u32,
    in_flight: u32,
    /// Encoded bytes pushed beyond the credit at that time.
    pub(crate) overdrawn: i64,
    pub(crate) fetch_streams: u32,
    /// The ids of the requests to make a topic.
    pub(crate) creations: Vec<Bytes>,
}

/// The whole fake cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    /// Rises with each batch stored.
    stored: watch::Sender<u64>,
    /// While true, batches are stored and not answered.
    hold_acks: watch::Sender<bool>,
}

/// A server that can be killed.
pub(crate) struct Process {
    runtime: Option<Runtime>,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Closes its sockets, as a process that dies. On return its port is free.
    pub(crate) fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().expect("alive until now");
        let ended = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        ended.join().unwrap();
        self.address
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn topic() -> TopicName {
    "t".parse().unwrap()
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Waits for something that must come about soon.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {what}");
}

impl Cluster {
    /// Knows a topic of so many partitions, led by `b1`.
    pub(crate) fn new(partitions: usize) -> Self {
        let state = State {
            topic_id: TopicId(77),
            partitions: (0..partitions).map(|_| Log::led()).collect(),
            brokers: BTreeMap::new(),
            revision: 1,
            grant: 32,
            faults: Faults::default(),
            seen: Seen::default(),
            next_producer: 1,
            next_epoch: 1,
            positions: HashMap::new(),
            members: HashMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        Self { state, stored: watch::channel(0).0, hold_acks: watch::channel(false).0 }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// While held, batches are stored and not answered.
    pub(crate) fn hold_acks(&self, hold: bool) {
        self.hold_acks.send_replace(hold);
    }

    pub(crate) fn lead(&self, partition: usize, broker: &str) {
        let mut state = self.state();
        state.revision += 1;
        let log = &mut state.partitions[partition];
        log.leader = broker.to_owned();
        log.epoch += 1;
        self.stored.send_modify(|count| *count += 1);
    }

    /// Adds a partition, led by `b1`.
    pub(crate) fn add_partition(&self) {
        let mut state = self.state();
        state.revision += 1;
        state.partitions.push(Log::led());
    }

    /// Deletes the topic and makes another one of its name.
    pub(crate) fn make_anew(&self) {
        let mut state = self.state();
        state.revision += 1;
        state.topic_id = TopicId(state.topic_id.0 + 1);
        state.partitions = vec![Log::led()];
    }

    pub(crate) fn sentinel(&self, address: SocketAddr) -> Process {
        let router = Server::builder()
            .add_service(SentinelServer::new(FakeSentinel(self.clone())))
            .add_service(AdminServer::new(FakeAdmin));
        serve(address, router)
    }

    /// Starts a broker and makes its address known.
    pub(crate) fn broker(&self, id: &str, address: SocketAddr) -> Process {
        let service = FakeBroker { id: id.to_owned(), cluster: self.clone() };
        let process = serve(
            address,
            Server::builder().add_service(BrokerServer::new(service).max_decoding_message_size(64 << 20)),
        );
        let mut state = self.state();
        state.brokers.insert(id.to_owned(), process.address);
        state.revision += 1;
        process
    }

    /// A client that is quick to try again.
    pub(crate) fn client(sentinels: &[SocketAddr]) -> Client {
        Client::new(Self::options(sentinels)).unwrap()
    }

    /// The same, and asks for routes about so often.
    pub(crate) fn watchful_client(sentinels: &[SocketAddr], refresh_interval: Duration) -> Client {
        Client::new(ClientOptions { refresh_interval, ..Self::options(sentinels) }).unwrap()
    }

    fn options(sentinels: &[SocketAddr]) -> ClientOptions {
        ClientOptions {
            sentinels: sentinels.iter().map(SocketAddr::to_string).collect(),
            connect_timeout: Duration::from_secs(1),
            rpc_timeout: Duration::from_secs(2),
            retry_timeout: Duration::from_secs(10),
            backoff: Backoff { first: Duration::from_millis(5), max: Duration::from_millis(100) },
            ..ClientOptions::default()
        }
    }
}

fn serve(address: SocketAddr, router: Router) -> Process {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (bound, ready) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let listener = TcpListener::bind(address).await.unwrap();
        bound.send(listener.local_addr().unwrap()).unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        router.serve_with_incoming(incoming).await.unwrap();
    });
    let address = ready.recv_timeout(Duration::from_secs(10)).expect("the fake server starts");
    Process { runtime: Some(runtime), address }
}

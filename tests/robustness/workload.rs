//! Clients that write and read, and what they remember of it; and watchers of every member.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use goulette_proto::etcd::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, HashKvRequest, MoveLeaderRequest, PutRequest, RangeRequest, RequestOp,
        StatusRequest, StatusResponse, TxnRequest, WatchCreateRequest, WatchRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        kv_client::KvClient,
        maintenance_client::MaintenanceClient,
        request_op::Request,
        watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    mvccpb::event::EventType,
};
use goulette_types::SplitMix64;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::checker::{Action, Operation, Value};

/// A client gives up before the server does.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
const WORKERS_PER_MEMBER: usize = 10;
/// Keys in use at the same time, and how long: what one key goes through must stay small for the search.
const KEYS: u64 = 5;
const KEYS_CHANGE_EVERY: Duration = Duration::from_secs(2);

/// What a client remembers of one operation.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "the member is for whoever reads about a violation")]
pub(crate) struct Remembered {
    /// Which member was asked.
    pub(crate) member: usize,
    pub(crate) key: String,
    pub(crate) operation: Operation,
    /// The revision of the answer, if there was one.
    pub(crate) revision: Option<i64>,
}

/// One change that a watcher was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) key: String,
    pub(crate) value: Value,
}

pub(crate) struct Workload {
    start: Instant,
    urls: Vec<String>,
    stop: AtomicBool,
    next_value: AtomicU64,
    random: AtomicU64,
    pub(crate) history: Mutex<Vec<Remembered>>,
    pub(crate) watched: Vec<Mutex<Vec<Change>>>,
}

pub(crate) fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap().connect_timeout(Duration::from_secs(1));
    endpoint
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .connect_lazy()
}

impl Workload {
    pub(crate) fn new(urls: Vec<String>, seed: u64) -> Arc<Self> {
        let watched = urls.iter().map(|_| Mutex::default()).collect();
        Arc::new(Self {
            start: Instant::now(),
            urls,
            stop: AtomicBool::new(false),
            next_value: AtomicU64::new(1),
            random: AtomicU64::new(seed),
            history: Mutex::default(),
            watched,
        })
    }

    /// Starts clients and watchers; the clients end when they are stopped, the watchers when the set is dropped.
    pub(crate) fn run(self: &Arc<Self>) -> (JoinSet<()>, JoinSet<()>) {
        let (mut clients, mut watchers) = (JoinSet::new(), JoinSet::new());
        for member in 0..self.urls.len() {
            for _ in 0..WORKERS_PER_MEMBER {
                clients.spawn(work(self.clone(), member));
            }
            watchers.spawn(watch(self.clone(), member));
        }
        (clients, watchers)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub(crate) fn random(&self) -> u64 {
        SplitMix64::mix(self.random.fetch_add(SplitMix64::STEP, Ordering::Relaxed))
    }

    /// The highest revision that all watchers have seen.
    pub(crate) fn seen_by_all(&self) -> i64 {
        let last = |watched: &Mutex<Vec<Change>>| watched.lock().unwrap().last().map_or(0, |change| change.revision);
        self.watched.iter().map(last).min().unwrap_or(0)
    }
}

async fn work(workload: Arc<Workload>, member: usize) {
    let mut client = KvClient::new(channel(&workload.urls[member]));
    // What this worker last saw of each key: a swap is tried from there.
    let mut seen: Value = None;
    while !workload.stop.load(Ordering::Relaxed) {
        let epoch = workload.now() / KEYS_CHANGE_EVERY.as_nanos() as u64;
        let key = format!("k{epoch}-{}", workload.random() % KEYS);
        let value = workload.next_value.fetch_add(1, Ordering::Relaxed);
        let choice = workload.random() % 10;
        let called = workload.now();
        let answered = timeout(CALL_DEADLINE, act(&mut client, &key, choice, value, seen)).await;
        let returned = workload.now();
        let remembered = match answered {
            Ok(Ok((action, revision))) => {
                if let Action::Get { found } = action {
                    seen = found;
                }
                let operation = Operation { called, returned, action };
                Some(Remembered { member, key, operation, revision: Some(revision) })
            }
            // May be carried out or not; a read that failed does not matter.
            _ => unknown(choice, value, seen).map(|action| {
                let operation = Operation { called, returned: u64::MAX, action };
                Remembered { member, key, operation, revision: None }
            }),
        };
        let failed = remembered.as_ref().is_none_or(|remembered| remembered.revision.is_none());
        workload.history.lock().unwrap().extend(remembered);
        let pause = if failed { 100 } else { 5 + workload.random() % 15 };
        sleep(Duration::from_millis(pause)).await;
    }
}

/// What is done for each choice: half reads, and of the writes mostly puts.
fn unknown(choice: u64, value: u64, seen: Value) -> Option<Action> {
    match choice {
        0..=4 => None,
        5..=6 => Some(Action::Put { value }),
        7 => Some(Action::Delete { existed: None }),
        _ => Some(Action::Swap { expected: seen, new: value, swapped: None }),
    }
}

async fn act(
    client: &mut KvClient<Channel>,
    key: &str,
    choice: u64,
    value: u64,
    seen: Value,
) -> Result<(Action, i64), Status> {
    let put = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.to_string().into_bytes().into(),
        ..PutRequest::default()
    };
    let revision =
        |header: Option<goulette_proto::etcd::etcdserverpb::ResponseHeader>| header.unwrap_or_default().revision;
    match unknown(choice, value, seen) {
        None => {
            let request = RangeRequest { key: put.key, ..RangeRequest::default() };
            let answer = client.range(request).await?.into_inner();
            let found = answer.kvs.first().map(|kv| parse(&kv.value));
            Ok((Action::Get { found }, revision(answer.header)))
        }
        Some(Action::Put { value }) => {
            let answer = client.put(put).await?.into_inner();
            Ok((Action::Put { value }, revision(answer.header)))
        }
        Some(Action::Delete { .. }) => {
            let request = DeleteRangeRequest { key: put.key, ..DeleteRangeRequest::default() };
            let answer = client.delete_range(request).await?.into_inner();
            Ok((Action::Delete { existed: Some(answer.deleted > 0) }, revision(answer.header)))
        }
        Some(_) => {
            let target = match seen {
                Some(seen) => TargetUnion::Value(seen.to_string().into_bytes().into()),
                None => TargetUnion::Version(0),
            };
            let target_kind = if seen.is_some() { CompareTarget::Value } else { CompareTarget::Version };
            let compare = Compare {
                result: CompareResult::Equal as i32,
                target: target_kind as i32,
                key: put.key.clone(),
                target_union: Some(target),
                ..Compare::default()
            };
            let request = TxnRequest {
                compare: vec![compare],
                success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
                failure: vec![],
            };
            let answer = client.txn(request).await?.into_inner();
            let action = Action::Swap { expected: seen, new: value, swapped: Some(answer.succeeded) };
            Ok((action, revision(answer.header)))
        }
    }
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("only numbers are written")
}

/// Follows all changes on one member, from the first revision on, over every lost connection.
async fn watch(workload: Arc<Workload>, member: usize) {
    loop {
        // Any end of a stream is a reason to go on from what was seen.
        let _ = watch_once(&workload, member).await;
        sleep(Duration::from_millis(200)).await;
    }
}

async fn watch_once(workload: &Workload, member: usize) -> Result<(), Status> {
    let watched = &workload.watched[member];
    let start_revision = watched.lock().unwrap().last().map_or(1, |change| change.revision + 1);
    let create = WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let (requests, to_send) = tokio::sync::mpsc::channel(1);
    requests.send(request).await.map_err(|_| Status::cancelled("stopped"))?;
    let requests_stream = tokio_stream::wrappers::ReceiverStream::new(to_send);
    let mut client = WatchClient::new(channel(&workload.urls[member]));
    let mut answers = client.watch(requests_stream).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        assert_eq!(answer.compact_revision, 0, "member {member}: revision {start_revision} was compacted too early");
        let mut watched = watched.lock().unwrap();
        for event in answer.events {
            let deleted = event.r#type() == EventType::Delete;
            let kv = event.kv.expect("an event has a key");
            watched.push(Change {
                revision: kv.mod_revision,
                key: String::from_utf8_lossy(&kv.key).into_owned(),
                value: (!deleted).then(|| parse(&kv.value)),
            });
        }
    }
    drop(requests);
    Ok(())
}

/// Calls of the other services, for scenarios and the end.
pub(crate) struct Admin(Channel);

impl Admin {
    pub(crate) fn of(url: &str) -> Self {
        Self(channel(url))
    }

    pub(crate) async fn status(&self) -> Option<StatusResponse> {
        let mut client = MaintenanceClient::new(self.0.clone());
        Some(timeout(Duration::from_secs(1), client.status(StatusRequest {})).await.ok()?.ok()?.into_inner())
    }

    pub(crate) async fn move_leader(&self, to: u64) {
        let mut client = MaintenanceClient::new(self.0.clone());
        let _ = timeout(CALL_DEADLINE, client.move_leader(MoveLeaderRequest { target_id: to })).await;
    }

    pub(crate) async fn compact(&self, revision: i64) -> bool {
        let mut client = KvClient::new(self.0.clone());
        let request = goulette_proto::etcd::etcdserverpb::CompactionRequest { revision, physical: true };
        matches!(timeout(CALL_DEADLINE, client.compact(request)).await, Ok(Ok(_)))
    }

    pub(crate) async fn defragment(&self) {
        let mut client = MaintenanceClient::new(self.0.clone());
        let request = goulette_proto::etcd::etcdserverpb::DefragmentRequest {};
        let _ = timeout(CALL_DEADLINE, client.defragment(request)).await;
    }

    /// The current revision, by a linearizable read.
    pub(crate) async fn revision(&self) -> Option<i64> {
        let mut client = KvClient::new(self.0.clone());
        let request = RangeRequest { key: b"none".to_vec().into(), ..RangeRequest::default() };
        let answer = timeout(CALL_DEADLINE, client.range(request)).await.ok()?.ok()?;
        Some(answer.into_inner().header?.revision)
    }

    /// The hash over all that is stored up to a revision.
    pub(crate) async fn hash(&self, revision: i64) -> Result<u32, Status> {
        let mut client = MaintenanceClient::new(self.0.clone());
        Ok(client.hash_kv(HashKvRequest { revision }).await?.into_inner().hash)
    }
}

//! A sentinel in a folder of its own, and a broker that leads nothing but its name.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use goulette_env::{Env, Random, RealRandom};
use goulette_proto::{
    PROTOCOL_VERSION,
    pb::{self, admin_server, sentinel_client::SentinelClient},
    status,
};
use goulette_sentinel::{Sentinel, SentinelOptions};
use goulette_types::{ErrorKind, Incarnation, StorageId};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server, server::TcpIncoming},
};

pub(crate) type Client = SentinelClient<Channel>;

/// Longer than anything here takes, shorter than anybody's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn options(folder: &Path) -> SentinelOptions {
    let mut options = SentinelOptions::new("s1".parse().unwrap(), "127.0.0.1:0".parse().unwrap(), folder.to_path_buf());
    options.session = Duration::from_millis(1200);
    options.heartbeat = Duration::from_millis(200);
    options
}

pub(crate) async fn start(options: SentinelOptions) -> (Sentinel, Client) {
    let sentinel = Sentinel::start(options, Env::real()).await.unwrap();
    let client = connect(&sentinel).await;
    (sentinel, client)
}

pub(crate) async fn connect(sentinel: &Sentinel) -> Client {
    SentinelClient::connect(format!("http://{}", sentinel.address())).await.unwrap()
}

/// The kind and the text of a refusal.
pub(crate) fn refusal<T>(result: Result<T, Status>) -> (ErrorKind, String) {
    let status = result.err().expect("a refusal");
    (status::kind_of(&status), status.message().to_owned())
}

pub(crate) fn ask(topic: &str) -> pb::GetBrokersRequest {
    pb::GetBrokersRequest { topic: topic.to_owned(), create: true, ..Default::default() }
}

/// Asks for a topic's leaders until the answer is as wanted.
pub(crate) async fn eventually(client: &mut Client, topic: &str, wanted: impl Fn(&pb::Topic) -> bool) -> pb::Topic {
    let search = async {
        loop {
            let answer = client.get_brokers(ask(topic)).await.unwrap().into_inner().topic.unwrap();
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, search).await.expect("the metadata comes to say what is wanted")
}

/// A broker's process: an id, a disk, a start of its own, and an answer to probes.
pub(crate) struct FakeBroker {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) storage: StorageId,
    pub(crate) cluster_id: Bytes,
    pub(crate) held: Vec<pb::Held>,
    pub(crate) producer_id_max: u64,
    server: JoinHandle<()>,
}

impl FakeBroker {
    /// A process with a new disk.
    pub(crate) async fn new(id: &str) -> Self {
        Self::with_disk(id, StorageId(RealRandom.next_id())).await
    }

    /// A process with a disk that was there before.
    pub(crate) async fn with_disk(id: &str, storage: StorageId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incarnation = Incarnation(RealRandom.next_id());
        let admin = admin_server::AdminServer::new(Admin { incarnation });
        let serve = Server::builder().add_service(admin).serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        let (cluster_id, held) = (Bytes::new(), Vec::new());
        Self { id: id.to_owned(), address, incarnation, storage, cluster_id, held, producer_id_max: 0, server }
    }

    pub(crate) fn registration(&self) -> pb::RegisterBrokerRequest {
        pb::RegisterBrokerRequest {
            id: self.id.clone(),
            address: self.address.clone(),
            incarnation: bytes(self.incarnation.to_bytes()),
            storage_id: bytes(self.storage.to_bytes()),
            cluster_id: self.cluster_id.clone(),
            protocol_version: PROTOCOL_VERSION,
            version: "test".to_owned(),
            held: self.held.clone(),
            producer_id_max: self.producer_id_max,
            ..Default::default()
        }
    }

    pub(crate) async fn register(&self, client: &mut Client) -> pb::RegisterBrokerResponse {
        client.register_broker(self.registration()).await.unwrap().into_inner()
    }

    /// The process dies: nobody answers at its address any more.
    pub(crate) fn die(self) {}

    /// Registers, and beats until the pulse is dropped.
    pub(crate) async fn live(&self, client: &mut Client) -> Pulse {
        let registered = self.register(client).await;
        self.beat(client, registered).await
    }

    pub(crate) async fn beat(&self, client: &mut Client, registered: pb::RegisterBrokerResponse) -> Pulse {
        let (beats, stream) = mpsc::channel(16);
        let (tell, seen) = watch::channel(Seen::default());
        let template = pb::HeartbeatRequest {
            id: self.id.clone(),
            incarnation: bytes(self.incarnation.to_bytes()),
            revision_applied: registered.revision,
            oldest_unsynced_ms: 0,
        };
        let revision = Arc::new(Mutex::new(registered.revision));
        let beat = {
            let revision = Arc::clone(&revision);
            move || pb::HeartbeatRequest { revision_applied: *revision.lock().unwrap(), ..template.clone() }
        };
        let interval = Duration::from_millis(registered.heartbeat_ms.into());
        tell.send_modify(|seen| seen.take(registered.assignments));
        beats.send(beat()).await.unwrap();
        let mut answers = client.heartbeat(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let task = tokio::spawn(async move {
            loop {
                match timeout(interval, answers.message()).await {
                    Ok(Ok(Some(answer))) => {
                        *revision.lock().unwrap() = answer.revision;
                        tell.send_modify(|seen| {
                            seen.take(answer.assignments);
                            seen.deleted.extend(answer.deleted_topics);
                            seen.told_to_register |= answer.register;
                        });
                    }
                    Ok(_) => break,
                    Err(_elapsed) => {}
                }
                if beats.send(beat()).await.is_err() {
                    break;
                }
            }
        });
        Pulse { seen, task }
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn bytes(id: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&id)
}

/// What a broker has been told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Leader epochs by topic name and partition.
    pub(crate) leads: BTreeMap<(String, u32), u32>,
    pub(crate) configs: BTreeMap<String, BTreeMap<String, String>>,
    /// How many partitions each topic has.
    pub(crate) partitions: BTreeMap<String, u32>,
    pub(crate) deleted: Vec<Bytes>,
    pub(crate) told_to_register: bool,
}

impl Seen {
    fn take(&mut self, assignments: Vec<pb::Assignment>) {
        for assignment in assignments {
            self.partitions.insert(assignment.topic.clone(), assignment.partitions);
            self.configs.insert(assignment.topic.clone(), assignment.config.into_iter().collect());
            self.leads.insert((assignment.topic, assignment.partition), assignment.leader_epoch);
        }
    }
}

/// A broker's heartbeat; it stops when this is dropped.
pub(crate) struct Pulse {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Pulse {
    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until the broker has been told what is wanted.
    pub(crate) async fn sees(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        let found = timeout(PATIENCE, seen.wait_for(|seen| wanted(seen))).await;
        found.expect("the broker is told in time").unwrap().clone()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Admin {
    incarnation: Incarnation,
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn set_log_level(
        &self,
        _request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<pb::SetLogLevelResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_info(&self, _request: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        let details = [("incarnation".to_owned(), self.incarnation.to_string())].into();
        Ok(Response::new(pb::GetInfoResponse { role: "broker".to_owned(), details, ..Default::default() }))
    }
}

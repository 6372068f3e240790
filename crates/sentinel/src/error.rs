//! Why a sentinel did not start, did not do what it was asked, or stopped.

use std::{io, net::SocketAddr, path::PathBuf};

use goulette_admin_http::BindError;
use goulette_meta::{KeyError, MetaError};
use goulette_mvcc::OpenError;
use goulette_proto::{
    PROTOCOL_VERSION,
    status::{self, LEADER_TRAILER},
};
use goulette_types::{BrokerId, ClusterId, ErrorKind, NameError, PartitionId, Revision, SentinelId, TopicName};

/// Why a sentinel did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options make no sense.
    #[error("{}", .mistakes.join("; "))]
    Options {
        /// All the mistakes.
        mistakes: Vec<String>,
    },
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}: choose another address, or stop what uses it")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The admin port cannot be opened.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// Another process uses the folder.
    #[error("two sentinels on one data folder: {} is in use by another process; stop that one, or choose another folder", .folder.display())]
    FolderInUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder belongs to another sentinel.
    #[error("{} is the data folder of sentinel {owner}, not of {id}: choose another folder, or start with -id {owner}", .folder.display())]
    FolderOfAnother {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        owner: SentinelId,
        /// Who asked.
        id: SentinelId,
    },
    /// The metadata could not be opened.
    #[error("cannot open the metadata")]
    Open(#[source] OpenError),
    /// The folder's identity file is damaged, of a later version, or not accessible.
    #[error("cannot use {}", .path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The metadata could not be read or written.
    #[error("cannot load the metadata")]
    Load(#[from] MetaError),
    /// The metadata is of a later version, or not ours.
    #[error("cannot load the metadata")]
    Key(#[from] KeyError),
    /// Another process runs under this id.
    #[error("sentinel id {id} is taken by a live process at {address}: stop that one, or choose another id")]
    SentinelTaken {
        /// The id.
        id: SentinelId,
        /// Where the other one answers.
        address: String,
    },
    /// It failed before it served.
    #[error(transparent)]
    Failed(Failure),
    /// The cluster could not be made.
    #[error("cannot make the cluster")]
    Make(#[source] RequestError),
    /// The stored cluster is not the one that was asked for.
    #[error(
        "the metadata belongs to cluster {stored}, not to {given}: leave -cluster-id out, or choose other metadata (-data, -etcd-endpoints, -etcd-prefix)"
    )]
    OtherCluster {
        /// The cluster stored.
        stored: ClusterId,
        /// The cluster asked for.
        given: ClusterId,
    },
}

impl StartError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StartError::Options { .. } => ErrorKind::Invalid,
            StartError::Admin(error) => error.kind(),
            StartError::Bind { .. } => ErrorKind::Unavailable,
            StartError::FolderInUse { .. }
            | StartError::FolderOfAnother { .. }
            | StartError::SentinelTaken { .. }
            | StartError::OtherCluster { .. } => ErrorKind::Conflict,
            StartError::Failed(_) => ErrorKind::Unavailable,
            StartError::Open(error) => error.kind(),
            StartError::Identity { .. } => ErrorKind::Unavailable,
            StartError::Load(error) => error.kind(),
            StartError::Key(error) => error.kind(),
            StartError::Make(error) => error.kind(),
        }
    }
}

/// Why a running sentinel stopped by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What happened, with its causes.
    pub message: String,
}

/// Why a request was refused. Unless the variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A field of the request makes no sense; the text says which and why.
    #[error("{0}")]
    Invalid(String),
    /// There is no such topic.
    #[error("topic {topic} does not exist: create it with `goulette topic create {topic}`")]
    UnknownTopic {
        /// The name asked for.
        topic: TopicName,
    },
    /// There is no such topic, and this sentinel creates none by itself.
    #[error("topic {topic} does not exist and auto-creation is off: create it with `goulette topic create {topic}`")]
    NoAutoCreation {
        /// The name asked for.
        topic: TopicName,
    },
    /// There is such a topic.
    #[error("topic {topic} exists already")]
    TopicExists {
        /// The name.
        topic: TopicName,
    },
    /// Not all partitions are placed yet.
    #[error("topic {topic} is being created: try again")]
    TopicIncomplete {
        /// The name.
        topic: TopicName,
    },
    /// Partitions cannot be taken away: their records would go with them.
    #[error("topic {topic} has {present} partitions and can only grow, not become {wanted}")]
    PartitionsShrink {
        /// The name.
        topic: TopicName,
        /// Partitions that it has.
        present: u32,
        /// Partitions asked for.
        wanted: u32,
    },
    /// Nobody could hold a partition, because nobody ever registered.
    #[error("no broker is registered: start one with `goulette broker`")]
    NoBroker,
    /// Nobody can hold a partition now.
    #[error("no broker is live: {} awaited", list(.awaited))]
    NoLiveBroker {
        /// The brokers that are known.
        awaited: Vec<BrokerId>,
    },
    /// The broker's data belongs to another cluster.
    #[error(
        "broker {broker} belongs to cluster {theirs}, this sentinel serves cluster {ours}: point it at its own sentinel, or give it an empty data folder"
    )]
    OtherCluster {
        /// Which broker.
        broker: BrokerId,
        /// Its cluster.
        theirs: ClusterId,
        /// This sentinel's.
        ours: ClusterId,
    },
    /// The broker is of a later major version.
    #[error(
        "broker {broker} speaks protocol {theirs}, this sentinel speaks {PROTOCOL_VERSION}: upgrade the sentinel first"
    )]
    NewerProtocol {
        /// Which broker.
        broker: BrokerId,
        /// Its version.
        theirs: u32,
    },
    /// Another process lives under this id.
    #[error("broker id {broker} is taken by a live process at {address}: stop that one, or choose another id")]
    BrokerTaken {
        /// The id.
        broker: BrokerId,
        /// Where the other one answers.
        address: String,
    },
    /// The broker was told of several sentinels, and this one shares its metadata with none.
    #[error(
        "broker {broker} was given {sentinels} sentinels, and this one keeps its metadata in its own folder, where no other can see it: give the broker this one alone (-sentinel), or let the sentinels share an etcd"
    )]
    NotOneOfSeveral {
        /// Which broker.
        broker: BrokerId,
        /// How many it was given.
        sentinels: u32,
    },
    /// The caller speaks for a start of the broker that has been replaced, or that never registered.
    #[error("broker {broker} is not registered with this incarnation: register first")]
    BrokerFenced {
        /// Which broker.
        broker: BrokerId,
    },
    /// No broker of this name has registered, or it cannot take part in what is asked for.
    #[error("broker {broker} is not known, or keeps only partitions of its own: see `goulette cluster status`")]
    UnknownBroker {
        /// The name.
        broker: BrokerId,
    },
    /// Everything is to leave the last broker.
    #[error("no other broker is there to take the {partitions} partitions of {broker}: start one first")]
    NowhereToGo {
        /// The last one.
        broker: BrokerId,
        /// How many it holds.
        partitions: usize,
    },
    /// A partition cannot be led or held as asked for.
    #[error("partition {partition}: {reason}")]
    Refused {
        /// Which.
        partition: PartitionId,
        /// Why.
        reason: String,
    },
    /// There is no such producer.
    #[error("producer {id} was never given out here: ask for a new id")]
    UnknownProducer {
        /// The id.
        id: u64,
    },
    /// The client has seen metadata that this sentinel has not.
    #[error("the metadata is at revision {present} here, not yet at {wanted}: try again")]
    Behind {
        /// This sentinel's revision.
        present: Revision,
        /// The client's.
        wanted: Revision,
    },
    /// Another sentinel leads, or none does at the moment.
    #[error("this sentinel does not lead: {}", match .leader { Some(address) => format!("ask the one at {address}"), None => "none does at the moment, try again".to_owned() })]
    NotLeader {
        /// Where the one that leads answers.
        leader: Option<String>,
    },
    /// The metadata store does not answer, or takes nothing: nothing is changed.
    #[error("nothing can be changed now: {0}")]
    StoreSilent(String),
    /// Too many requests wait already.
    #[error("too many requests are waiting: try again")]
    Busy,
    /// The sentinel is stopping.
    #[error("the sentinel is stopping")]
    Stopping,
    /// What it shared a transaction with was not confirmed; the change may have happened.
    #[error("not confirmed: {0}")]
    Unclear(String),
    /// No answer in time; the change may come yet.
    #[error("no answer in time: the change may have happened or not")]
    Late,
    /// Another writer was faster.
    #[error("the metadata has changed meanwhile: try again")]
    Overtaken,
    /// The store failed; the sentinel stops. The change may have happened.
    #[error("the metadata could not be written: {0}")]
    Store(String),
}

fn list(brokers: &[BrokerId]) -> String {
    brokers.iter().map(BrokerId::as_str).collect::<Vec<_>>().join(", ")
}

impl RequestError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RequestError::Name(_) | RequestError::Invalid(_) | RequestError::PartitionsShrink { .. } => {
                ErrorKind::Invalid
            }
            RequestError::UnknownTopic { .. }
            | RequestError::NoAutoCreation { .. }
            | RequestError::UnknownBroker { .. }
            | RequestError::UnknownProducer { .. } => ErrorKind::NotFound,
            RequestError::TopicExists { .. } => ErrorKind::AlreadyExists,
            RequestError::OtherCluster { .. }
            | RequestError::BrokerTaken { .. }
            | RequestError::NotOneOfSeveral { .. }
            | RequestError::NowhereToGo { .. }
            | RequestError::Refused { .. } => ErrorKind::Conflict,
            RequestError::NewerProtocol { .. } => ErrorKind::Unsupported,
            RequestError::BrokerFenced { .. } => ErrorKind::Fenced,
            RequestError::Busy => ErrorKind::Busy,
            RequestError::NotLeader { .. } => ErrorKind::NotLeader,
            RequestError::StoreSilent(_) => ErrorKind::Unavailable,
            RequestError::TopicIncomplete { .. }
            | RequestError::NoBroker
            | RequestError::NoLiveBroker { .. }
            | RequestError::Behind { .. }
            | RequestError::Stopping
            | RequestError::Overtaken => ErrorKind::Unavailable,
            RequestError::Late | RequestError::Unclear(_) | RequestError::Store(_) => ErrorKind::OutcomeUnknown,
        }
    }
}

impl From<RequestError> for tonic::Status {
    fn from(error: RequestError) -> Self {
        let mut status = status::to_status(error.kind(), error.to_string());
        if let RequestError::NotLeader { leader: Some(address) } = &error
            && let Ok(address) = address.parse()
        {
            status.metadata_mut().insert(LEADER_TRAILER, address);
        }
        status
    }
}

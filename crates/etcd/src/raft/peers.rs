//! Connections to the other members.
//!
//! Three per member: one for entries, one for heartbeats, votes and questions, one for snapshots. So nothing that decides
//! who leads ever waits behind data.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use goulette_logging::{info, warn};
use goulette_proto::raft::raft_client::RaftClient;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::types::Membership;
use crate::{consensus::MemberId, tls::connect};

/// The version of the protocol among members; another one is refused.
pub(crate) const PROTOCOL: u64 = 1;
pub(crate) const META_PROTOCOL: &str = "raft-protocol";
pub(crate) const META_CLUSTER: &str = "raft-cluster";
pub(crate) const META_FROM: &str = "raft-from";
pub(crate) const META_TO: &str = "raft-to";
/// A message carries entries of about 1 MiB, or one that is larger alone.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A member that is silent for so long is worth a line in the log; members of a new cluster start one after the other.
const TELL_AFTER: Duration = Duration::from_secs(2);
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Entries,
    Control,
    Snapshots,
}

pub(crate) type Client = RaftClient<InterceptedService<Channel, Marks>>;

/// The connections of one member.
pub(crate) struct Peers {
    cluster: u64,
    own: MemberId,
    connect_timeout: Duration,
    tls: Option<TlsConnector>,
    table: Mutex<HashMap<MemberId, Peer>>,
}

/// A member, and the connections to one of its URLs.
struct Peer {
    urls: Vec<String>,
    /// Which of the URLs is in use.
    current: usize,
    channels: Option<[Channel; 3]>,
    /// Since when it has answered whenever it was asked.
    connected_since: Option<Instant>,
    /// Since when it has not.
    silent_since: Option<Instant>,
    /// Whether the log says so.
    is_told: bool,
}

impl Peer {
    fn at(urls: &[String]) -> Self {
        Self {
            urls: urls.to_vec(),
            current: 0,
            channels: None,
            connected_since: None,
            silent_since: None,
            is_told: false,
        }
    }
}

/// Writes on each call which cluster and member it is of, and for whom.
#[derive(Clone)]
pub(crate) struct Marks {
    values: [(&'static str, AsciiMetadataValue); 4],
}

impl Interceptor for Marks {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in &self.values {
            request.metadata_mut().insert(*key, value.clone());
        }
        Ok(request)
    }
}

impl Peers {
    /// `tls`: for members whose URLs are encrypted.
    pub(crate) fn new(cluster: u64, own: MemberId, election_timeout: Duration, tls: Option<TlsConnector>) -> Arc<Self> {
        Arc::new(Self { cluster, own, connect_timeout: election_timeout, tls, table: Mutex::default() })
    }

    /// Takes over who is a member, and where. Connections to members that moved or left are dropped.
    pub(crate) fn update(&self, membership: &Membership) {
        let mut table = self.table();
        table.retain(|id, peer| membership.get_node(id).is_some_and(|member| member.peer_urls == peer.urls));
        for (&id, member) in membership.nodes() {
            if id != self.own {
                table.entry(id).or_insert_with(|| Peer::at(&member.peer_urls));
            }
        }
    }

    /// Makes a member known before any membership is.
    pub(crate) fn introduce(&self, id: MemberId, urls: &[String]) {
        self.table().entry(id).or_insert_with(|| Peer::at(urls));
    }

    /// A client of the member; none if it is unknown or has no usable URL.
    pub(crate) fn client(&self, to: MemberId, purpose: Use) -> Option<Client> {
        let channel = self.channel(to, purpose)?;
        let marks = Marks {
            values: [
                (META_PROTOCOL, PROTOCOL.into()),
                (META_CLUSTER, self.cluster.into()),
                (META_FROM, self.own.into()),
                (META_TO, to.into()),
            ],
        };
        let client = RaftClient::with_interceptor(channel, marks);
        Some(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A bare connection to the member's peer port.
    pub(crate) fn channel(&self, to: MemberId, purpose: Use) -> Option<Channel> {
        let mut table = self.table();
        let peer = table.get_mut(&to)?;
        if peer.channels.is_none() {
            let url = peer.urls.get(peer.current % peer.urls.len().max(1))?;
            let endpoint = endpoint(url, self.connect_timeout)?;
            let tls = self.tls.as_ref();
            peer.channels = Some([(); 3].map(|()| connect::connect_lazy(&endpoint, url, tls)));
        }
        peer.channels.as_ref().map(|channels| channels[purpose as usize].clone())
    }

    /// The member was asked, and has answered or not. The log tells of a silence once, when it begins to matter, and
    /// when it is over.
    pub(crate) fn asked(&self, id: MemberId, answer: Result<(), String>) {
        let mut table = self.table();
        let Some(peer) = table.get_mut(&id) else { return };
        let now = Instant::now();
        match answer {
            Ok(()) => {
                peer.connected_since.get_or_insert(now);
                peer.silent_since = None;
                if std::mem::take(&mut peer.is_told) {
                    info!("member {id:x} answers again");
                }
            }
            Err(reason) => {
                peer.connected_since = None;
                let since = *peer.silent_since.get_or_insert(now);
                if !peer.is_told && now >= since + TELL_AFTER {
                    peer.is_told = true;
                    warn!("member {id:x} at {} does not answer, and is asked on: {reason}", peer.urls.join(", "));
                }
            }
        }
    }

    /// How long the member has answered whenever it was asked.
    pub(crate) fn connected_for(&self, id: MemberId) -> Option<Duration> {
        self.table().get(&id)?.connected_since.map(|since| since.elapsed())
    }

    /// The member could not be reached: its next URL is tried next time.
    pub(crate) fn unreachable(&self, to: MemberId) {
        if let Some(peer) = self.table().get_mut(&to)
            && peer.urls.len() > 1
        {
            peer.current = (peer.current + 1) % peer.urls.len();
            peer.channels = None;
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<MemberId, Peer>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a member's URL is connected to; none if it is no URL.
pub(crate) fn endpoint(url: &str, connect_timeout: Duration) -> Option<Endpoint> {
    Some(
        connect::endpoint(url)?
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            // A cut cable does not close a connection: without these a follower that is back stays unreachable for as
            // long as TCP tries.
            .http2_keep_alive_interval(connect_timeout)
            .keep_alive_timeout(connect_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES),
    )
}

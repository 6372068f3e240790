//! Members in one process, each with a folder, a peer port and a [`Recorder`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use goulette_env::Env;
use goulette_etcd::{
    consensus::{Consensus, MemberId, MemberRaft},
    raft::{Bootstrap, RaftNode, RaftOptions, RaftStartError, cluster_id, member_id},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::server::TcpIncoming;

use super::recorder::Recorder;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) id: u64,
    pub(crate) first: Vec<MemberRaft>,
    pub(crate) members: BTreeMap<MemberId, TestMember>,
    pub(crate) snapshot_count: u64,
}

pub(crate) struct TestMember {
    pub(crate) raft: MemberRaft,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) running: Option<Running>,
}

pub(crate) struct Running {
    pub(crate) node: Arc<RaftNode>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// A member's description, with a port that was free a moment ago.
pub(crate) async fn describe(token: &str) -> MemberRaft {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let peer_urls = vec![format!("http://127.0.0.1:{port}")];
    MemberRaft { id: member_id(&peer_urls, token, None), peer_urls, is_learner: false }
}

impl Cluster {
    /// A cluster of that many members, all started.
    pub(crate) async fn start(size: usize) -> Self {
        Self::start_with(size, 10_000).await
    }

    pub(crate) async fn start_with(size: usize, snapshot_count: u64) -> Self {
        let mut first = Vec::new();
        for _ in 0..size {
            first.push(describe("test").await);
        }
        let id = cluster_id(&first.iter().map(|member| member.id).collect::<Vec<_>>());
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { folder, id, first: first.clone(), members: BTreeMap::new(), snapshot_count };
        for raft in first {
            let id = raft.id;
            cluster.members.insert(id, TestMember { raft, recorder: Arc::default(), running: None });
        }
        for id in cluster.ids() {
            cluster.run(id).await.unwrap();
        }
        cluster
    }

    /// A cluster whose members all begin with this state in them.
    pub(crate) async fn start_from(size: usize, state: impl Fn(&[MemberRaft]) -> Recorder) -> Self {
        let mut cluster = Self::start(size).await;
        for id in cluster.ids() {
            cluster.crash(id).await;
            cluster.snapshot_count = 40;
            cluster.members.get_mut(&id).unwrap().recorder = Arc::new(state(&cluster.first));
        }
        cluster.folder = tempfile::tempdir().unwrap();
        for id in cluster.ids() {
            cluster.run(id).await.unwrap();
        }
        cluster
    }

    pub(crate) fn ids(&self) -> Vec<MemberId> {
        self.members.keys().copied().collect()
    }

    pub(crate) fn dir(&self, id: MemberId) -> PathBuf {
        self.folder.path().join(format!("{id:x}"))
    }

    pub(crate) fn options(&self, id: MemberId) -> RaftOptions {
        let is_first = self.first.iter().any(|member| member.id == id);
        RaftOptions {
            dir: self.dir(id),
            cluster: self.id,
            member: id,
            bootstrap: if is_first { Bootstrap::New(self.first.clone()) } else { Bootstrap::Join },
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(500),
            snapshot_count: self.snapshot_count,
            catch_up_entries: self.snapshot_count / 2,
            tls: None,
        }
    }

    pub(crate) async fn run(&mut self, id: MemberId) -> Result<(), RaftStartError> {
        let options = self.options(id);
        let member = self.members.get_mut(&id).unwrap();
        let address: SocketAddr = member.raft.peer_urls[0].trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let node = RaftNode::start(Env::real(), options, member.recorder.clone()).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let service = tonic::transport::Server::builder().add_service(node.peer_service());
        let server = tokio::spawn(async move {
            let stopping = async { drop(stopped.await) };
            service.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopping).await.unwrap();
        });
        member.running = Some(Running { node, stop, server });
        Ok(())
    }

    /// Ends a member; what its state machine never synced is gone.
    pub(crate) async fn crash(&mut self, id: MemberId) {
        let member = self.members.get_mut(&id).unwrap();
        let Running { node, stop, server } = member.running.take().unwrap();
        node.shutdown().await;
        drop(stop);
        server.abort();
        let _ = server.await;
        drop(node);
        member.recorder = Arc::new(member.recorder.crashed());
    }

    pub(crate) fn node(&self, id: MemberId) -> Arc<RaftNode> {
        self.members[&id].running.as_ref().unwrap().node.clone()
    }

    pub(crate) fn recorder(&self, id: MemberId) -> Arc<Recorder> {
        self.members[&id].recorder.clone()
    }

    pub(crate) fn running(&self) -> Vec<MemberId> {
        self.members.iter().filter(|(_, member)| member.running.is_some()).map(|(id, _)| *id).collect()
    }

    /// Waits until all that run agree on who leads.
    pub(crate) async fn leader(&self) -> MemberId {
        eventually("one leader", || {
            let leaders: Vec<_> =
                self.running().into_iter().map(|id| self.node(id).status().leadership.leader).collect();
            let first = leaders[0]?;
            (self.running().contains(&first) && leaders.iter().all(|leader| *leader == Some(first))).then_some(first)
        })
        .await
    }

    pub(crate) async fn follower(&self) -> MemberId {
        let leader = self.leader().await;
        *self.running().iter().find(|id| **id != leader).unwrap()
    }

    /// Waits until the requests of all that run are these.
    pub(crate) async fn agree_on(&self, requests: usize) {
        eventually("the same requests everywhere", || {
            let all: Vec<_> = self.running().into_iter().map(|id| self.recorder(id).requests()).collect();
            (all.iter().all(|own| own.len() == requests && *own == all[0])).then_some(())
        })
        .await;
    }
}

/// Polls until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    #[allow(clippy::disallowed_methods, reason = "a test's patience")]
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        #[allow(clippy::disallowed_methods, reason = "a test's patience")]
        let now = Instant::now();
        assert!(now < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

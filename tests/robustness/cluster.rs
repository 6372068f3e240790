//! Three members as processes, each in a network namespace of its own on one bridge.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::network::Network;

pub(crate) const MEMBERS: usize = 3;

pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    server: Vec<String>,
    network: Network,
    members: Vec<Option<Child>>,
}

impl Cluster {
    /// Makes the network; nothing runs yet. What is missing, where that cannot be.
    pub(crate) fn prepare(server: Vec<String>) -> Result<Self, String> {
        let network = Network::make(MEMBERS)?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Self { dir, server, network, members: (0..MEMBERS).map(|_| None).collect() })
    }

    pub(crate) fn client_url(&self, member: usize) -> String {
        format!("http://{}:2379", self.network.address(member))
    }

    fn peer_url(&self, member: usize) -> String {
        format!("http://{}:2380", self.network.address(member))
    }

    pub(crate) fn log_path(&self, member: usize) -> PathBuf {
        self.dir.path().join(format!("m{member}.log"))
    }

    pub(crate) fn start(&mut self, member: usize) {
        let all: Vec<String> = (0..MEMBERS).map(|each| format!("m{each}={}", self.peer_url(each))).collect();
        let (client, peer) = (self.client_url(member), self.peer_url(member));
        let log = File::options().create(true).append(true).open(self.log_path(member)).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.network.space(member)]).args(&self.server);
        command.arg("--name").arg(format!("m{member}"));
        command.arg("--data-dir").arg(self.data(member));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
        command.args(["--initial-cluster-token", "robustness", "--snapshot-count", "500"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.members[member] = Some(command.spawn().unwrap());
    }

    fn data(&self, member: usize) -> PathBuf {
        self.dir.path().join(format!("m{member}"))
    }

    fn pid(&self, member: usize) -> Option<Pid> {
        self.members[member].as_ref().and_then(|child| Pid::from_raw(child.id() as i32))
    }

    /// `kill -9`, without a chance to say anything.
    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn pause(&self, member: usize) {
        kill_process(self.pid(member).unwrap(), Signal::STOP).unwrap();
    }

    pub(crate) fn resume(&self, member: usize) {
        kill_process(self.pid(member).unwrap(), Signal::CONT).unwrap();
    }

    /// Whether a member has ended by itself, which no scenario asks for.
    pub(crate) fn died(&mut self) -> Option<usize> {
        self.members
            .iter_mut()
            .position(|child| child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()))
    }

    /// What `from` sends to `to` is lost from now on; the other way is open.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.network.cut(from, to);
    }

    pub(crate) fn cut_both(&self, a: usize, b: usize) {
        self.network.cut(a, b);
        self.network.cut(b, a);
    }

    /// All ways are open again.
    pub(crate) fn heal(&self) {
        self.network.heal();
    }

    /// Keeps folders and logs for whoever looks into a failure.
    pub(crate) fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..MEMBERS).for_each(|member| self.kill(member));
    }
}

/// How long to wait for something that should come soon, and how often to look.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
pub(crate) const LOOK: Duration = Duration::from_millis(100);

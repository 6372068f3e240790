//! The three modes, and the real etcd that one of them needs.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Cluster, Store, binary, eventually, free_port, text};

/// The same for all clusters of the suite, so that metadata and brokers can move between them.
pub(crate) const CLUSTER_ID: &str = "00112233445566778899aabbccddeeff";

/// Where a sentinel keeps its metadata.
pub(crate) enum Mode {
    Folder,
    External(RealEtcd),
    Embedded,
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder => out.write_str("folder"),
            Self::External(etcd) => write!(out, "external ({})", etcd.version),
            Self::Embedded => out.write_str("embedded"),
        }
    }
}

impl Mode {
    /// A cluster in this mode that shares nothing with another; nothing runs yet.
    pub(crate) fn prepare(&self, sentinel_flags: &[&str]) -> Cluster {
        let mut flags = vec!["-cluster-id", CLUSTER_ID];
        flags.extend(sentinel_flags);
        let mut cluster = Cluster::prepare(&flags, &[]);
        cluster.store = self.store();
        cluster
    }

    /// The same, serving.
    pub(crate) fn start(&self) -> Cluster {
        self.start_with(&[])
    }

    /// The same with flags of the sentinel.
    pub(crate) fn start_with(&self, sentinel_flags: &[&str]) -> Cluster {
        let mut cluster = self.prepare(sentinel_flags);
        cluster.start_sentinel();
        cluster.start_broker();
        cluster
    }

    /// A new place for metadata.
    pub(crate) fn store(&self) -> Store {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        match self {
            Self::Folder => Store::Folder,
            Self::External(etcd) => Store::External {
                endpoints: etcd.endpoint(),
                prefix: format!("/test-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            },
            Self::Embedded => Store::Embedded { port: free_port(), peer_port: free_port() },
        }
    }
}

/// The modes to run, and why one cannot run.
pub(crate) fn modes() -> (Vec<Mode>, Option<String>) {
    let wanted = std::env::var("GOULETTE_MODES").unwrap_or_else(|_| "folder,embedded,external".to_owned());
    let wants = |mode: &str| wanted.split(',').any(|wanted| wanted == mode);
    let mut modes = Vec::new();
    if wants("folder") {
        modes.push(Mode::Folder);
    }
    if wants("embedded") {
        modes.push(Mode::Embedded);
    }
    let mut missing = None;
    if wants("external") {
        for variable in ["ETCD_34_BIN", "ETCD_BIN"] {
            match std::env::var_os(variable).filter(|path| Path::new(path).is_file()) {
                Some(program) => modes.push(Mode::External(RealEtcd::start(program.into()))),
                None => {
                    missing =
                        Some(format!("not run: mode external with the etcd of {variable}, which names no program"))
                }
            }
        }
    }
    (modes, missing)
}

/// A real etcd that the test runs; killed at the end.
pub(crate) struct RealEtcd {
    program: PathBuf,
    pub(crate) version: String,
    dir: TempDir,
    port: u16,
    peer_port: u16,
    /// Beyond where it listens.
    flags: Vec<String>,
    pub(crate) child: Child,
}

impl RealEtcd {
    /// Serving.
    pub(crate) fn start(program: PathBuf) -> Self {
        let said = Command::new(&program).arg("--version").output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let version = said.lines().next().unwrap_or_default().replace("etcd Version: ", "etcd ");
        let (dir, port, peer_port) = (TempDir::new().unwrap(), free_port(), free_port());
        let child = spawn(&program, dir.path(), "http", port, peer_port, &[]);
        let etcd = Self { program, version, dir, port, peer_port, flags: Vec::new(), child };
        etcd.until_serving();
        etcd
    }

    /// Another one of the same program, stopped and with a folder of its own.
    pub(crate) fn another(&self) -> Self {
        Self::start(self.program.clone())
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The same again, with flags; with certificates it is spoken to by TLS from then on.
    pub(crate) fn restart_with(&mut self, flags: &[String]) {
        self.kill();
        self.flags = flags.to_vec();
        self.launch();
    }

    pub(crate) fn restart(&mut self) {
        self.launch();
        self.until_serving();
    }

    /// Starts it and does not wait.
    pub(crate) fn launch(&mut self) {
        let scheme = if self.flags.iter().any(|flag| flag.starts_with("--cert-file")) { "https" } else { "http" };
        self.child = spawn(&self.program, self.dir.path(), scheme, self.port, self.peer_port, &self.flags);
    }

    pub(crate) fn until_serving(&self) {
        eventually("the etcd serves", || self.tool(&["get", "x"]).status.success().then_some(()));
    }

    /// One of our small client commands.
    pub(crate) fn tool(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(binary());
        command.arg("etcd").args(arguments).args(["--endpoints", &self.endpoint()]);
        command.output().unwrap()
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, dir: &Path, scheme: &str, port: u16, peer_port: u16, flags: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("etcd.log")).unwrap();
    let (client, peer) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(program);
    command.args(["--name", "real", "--data-dir"]).arg(dir.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("real={peer}")]).args(flags);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// A command of the binary with the sentinel's address, which must succeed.
pub(crate) fn ask(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.run(&[arguments, &["--sentinel", &cluster.sentinel_address]].concat());
    assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output), cluster.said());
    String::from_utf8(output.stdout).unwrap()
}

/// The same as JSON.
pub(crate) fn ask_json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let answer = ask(cluster, &[arguments, &["--output", "json"]].concat());
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Ids and names of all operations, which must rise.
pub(crate) fn operations(cluster: &Cluster) -> Vec<(u64, String)> {
    let all = ask_json(cluster, &["oplog", "--from", "0", "--limit", "100000"]);
    let entry = |entry: &Value| (entry["id"].as_u64().unwrap(), entry["name"].as_str().unwrap().to_owned());
    let all: Vec<_> = all.as_array().unwrap().iter().map(entry).collect();
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "ids do not rise: {all:?}");
    all
}

/// The state of a broker, as `cluster status` tells it.
pub(crate) fn broker_state(cluster: &Cluster, id: &str) -> String {
    let status = ask_json(cluster, &["cluster", "status"]);
    let brokers = status["brokers"].as_array().unwrap();
    let found = brokers.iter().find(|broker| broker["id"] == id);
    found.map_or("absent", |broker| broker["state"].as_str().unwrap()).to_owned()
}

/// Waits until a broker has a state.
pub(crate) fn until_state(cluster: &Cluster, id: &str, state: &str) {
    eventually(&format!("{id} is {state}"), || (broker_state(cluster, id) == state).then_some(()));
}

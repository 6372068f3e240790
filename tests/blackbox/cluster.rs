//! A sentinel and a broker as child processes, and the commands that talk to them.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long anything may take before a test gives up; generous, for a busy machine of two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("GOULETTE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_goulette").into(), PathBuf::from)
}

/// A port that nobody listens on now, below the range from which the kernel takes ports for outgoing connections, so
/// that a restarted process finds it free again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..10_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id() as u16 ^ step.wrapping_mul(7)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Waits until `done` answers something, asking again every few milliseconds, with a deadline.
pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = done() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a child to end by itself.
pub(crate) fn wait(child: &mut Child, what: &str) -> ExitStatus {
    eventually(what, || child.try_wait().expect("a child can be waited for"))
}

/// Sends a signal to a child that we started.
pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("the child takes a signal");
}

/// Where the sentinel keeps its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(dead_code, reason = "of the test programs that share this file not all need all")]
pub(crate) enum Store {
    /// In its own folder.
    #[default]
    Folder,
    /// In an etcd that the test runs, below a prefix.
    External { endpoints: String, prefix: String },
    /// In an etcd of its own, with these ports for clients and peers.
    Embedded { port: u16, peer_port: u16 },
}

impl Store {
    /// The flags that say so to a sentinel.
    pub(crate) fn flags(&self) -> Vec<String> {
        match self {
            Self::Folder => vec!["-enable-embedded-etcd=false".to_owned()],
            Self::External { endpoints, prefix } => vec![
                "-enable-embedded-etcd=false".to_owned(),
                format!("-etcd-endpoints={endpoints}"),
                format!("-etcd-prefix={prefix}"),
            ],
            Self::Embedded { port, peer_port } => {
                vec![format!("-etcd-port={port}"), format!("-etcd-peer-port={peer_port}")]
            }
        }
    }
}

/// One sentinel and one broker with data in a folder of their own; killed at the end.
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) sentinel_address: String,
    pub(crate) broker_address: String,
    pub(crate) store: Store,
    sentinel_flags: Vec<String>,
    broker_flags: Vec<String>,
    pub(crate) sentinel: Option<Child>,
    pub(crate) broker: Option<Child>,
    keep_when_failing: bool,
}

impl Cluster {
    /// Both serving.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// Both serving, with flags on top of the usual ones.
    pub(crate) fn start_with(sentinel_flags: &[&str], broker_flags: &[&str]) -> Self {
        let mut cluster = Self::prepare(sentinel_flags, broker_flags);
        cluster.start_sentinel();
        cluster.start_broker();
        cluster
    }

    /// A folder and addresses; nothing runs yet.
    pub(crate) fn prepare(sentinel_flags: &[&str], broker_flags: &[&str]) -> Self {
        let owned = |flags: &[&str]| flags.iter().map(ToString::to_string).collect();
        Self {
            dir: TempDir::new().expect("a folder for the test"),
            sentinel_address: format!("127.0.0.1:{}", free_port()),
            broker_address: format!("127.0.0.1:{}", free_port()),
            store: Store::default(),
            sentinel_flags: owned(sentinel_flags),
            broker_flags: owned(broker_flags),
            sentinel: None,
            broker: None,
            keep_when_failing: false,
        }
    }

    /// Leaves the folder as it is if the test fails, for someone to look at.
    #[allow(dead_code, reason = "of the test programs that share this file not all need it")]
    pub(crate) fn keep_when_failing(&mut self) {
        self.keep_when_failing = true;
    }

    /// A command of the binary, in the test's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// A command of the binary, run to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// A client command with the sentinel's address.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["client", "-sentinel", &self.sentinel_address]);
        command.args(arguments);
        command
    }

    /// Sends `input` as lines to a topic, and expects success.
    pub(crate) fn produce(&self, topic: &str, input: &[u8]) {
        let output = feed(self.client(&["-mode", "producer", "-topic", topic, "-file", "-"]), input);
        assert!(output.status.success(), "produce: {}", text(&output));
    }

    /// All that a topic holds now, as lines.
    pub(crate) fn consume(&self, topic: &str) -> Vec<u8> {
        let output = self
            .client(&["-mode", "consumer", "-topic", topic, "-group", "", "-from", "beginning", "-until-end"])
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "consume: {}", text(&output));
        output.stdout
    }

    pub(crate) fn start_sentinel(&mut self) {
        self.launch_sentinel();
        let address = self.sentinel_address.clone();
        self.until_serving(&address);
    }

    /// The next sentinel begins with nothing, in a new place; what a mode keeps where there is but one is removed.
    #[allow(dead_code, reason = "of the test programs that share this file not all need it")]
    pub(crate) fn forget_metadata(&mut self, store: Store) {
        for old in ["data/sentinel_sentinel1", "default.etcd"] {
            let _ = fs::remove_dir_all(self.dir.path().join(old));
        }
        self.store = store;
    }

    /// Starts the sentinel and does not wait.
    pub(crate) fn launch_sentinel(&mut self) {
        let more = [&self.store.flags()[..], &self.sentinel_flags].concat();
        let flags = ["-address", &self.sentinel_address, "-admin-address", "127.0.0.1:0"];
        let child = self.spawn("sentinel", &flags, &more);
        self.sentinel = Some(child);
    }

    pub(crate) fn start_broker(&mut self) {
        let broker = ["-address", &self.broker_address, "-sentinel", &self.sentinel_address];
        // Any free port: the default, a little above another test's port, could be a third one's.
        let flags = [&broker[..], &["-admin-address", "127.0.0.1:0"]].concat();
        let child = self.spawn("broker", &flags, &self.broker_flags);
        self.broker = Some(child);
        let address = self.broker_address.clone();
        self.until_serving(&address);
    }

    fn spawn(&self, role: &str, flags: &[&str], more: &[String]) -> Child {
        let out = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join(format!("{role}.out")));
        let out = out.expect("a file for the output");
        let mut command = self.command(&[role]);
        command.args(flags).args(more).stdout(out.try_clone().expect("a second handle")).stderr(out);
        command.spawn().expect("the binary starts")
    }

    /// Waits until a process serves, or panics with what it said.
    pub(crate) fn until_serving(&self, address: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.run(&["health", address]).status.success() {
            assert!(Instant::now() < deadline, "{address} does not serve:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the processes printed and logged, for a failed test's message.
    pub(crate) fn said(&self) -> String {
        let mut said = String::new();
        for file in ["sentinel.out", "broker.out", "logs/sentinel_sentinel1.log", "logs/broker_broker1.log"] {
            if let Ok(content) = fs::read_to_string(self.dir.path().join(file)) {
                said += &format!("--- {file}\n{content}");
            }
        }
        said
    }

    /// The broker's log file as text.
    pub(crate) fn broker_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("logs/broker_broker1.log")).unwrap_or_default()
    }

    /// `kill -9` of the broker.
    pub(crate) fn kill_broker(&mut self) {
        kill(&mut self.broker);
    }

    /// `kill -9` of the sentinel.
    pub(crate) fn kill_sentinel(&mut self) {
        kill(&mut self.sentinel);
    }

    /// SIGTERM to the broker, which must exit 0.
    pub(crate) fn stop_broker(&mut self) {
        let mut child = self.broker.take().expect("the broker runs");
        signal(&child, rustix::process::Signal::TERM);
        let status = wait(&mut child, "the broker stops");
        assert!(status.success(), "the broker stopped with {status}\n{}", self.said());
    }

    /// SIGTERM to the sentinel, which must exit 0.
    pub(crate) fn stop_sentinel(&mut self) {
        let mut child = self.sentinel.take().expect("the sentinel runs");
        signal(&child, rustix::process::Signal::TERM);
        let status = wait(&mut child, "the sentinel stops");
        assert!(status.success(), "the sentinel stopped with {status}\n{}", self.said());
    }

    pub(crate) fn broker_data(&self) -> PathBuf {
        self.dir.path().join("data/broker1")
    }

    /// First unread offset and committed end of a topic's only partition, as the broker tells it.
    pub(crate) fn committed(&self, topic: &str) -> u64 {
        let output = self.run(&["topic", "describe", topic, "--sentinel", &self.sentinel_address, "--output", "json"]);
        assert!(output.status.success(), "describe: {}", text(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("describe prints JSON");
        json["partitions"][0]["committed"].as_u64().unwrap_or_else(|| panic!("no committed in {json}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        kill(&mut self.broker);
        kill(&mut self.sentinel);
        if thread::panicking() {
            eprintln!("{}", self.said());
            if self.keep_when_failing {
                self.dir.disable_cleanup(true);
                eprintln!("kept: {}", self.dir.path().display());
            }
        }
    }
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Runs a command with `input` on its standard input.
pub(crate) fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    thread::scope(|scope| {
        // A command that refuses its input closes the pipe early: that is for the caller to judge.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("the binary ends")
    })
}

/// What a command printed, for messages.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{} | stdout: {} | stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(2000)]),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Names, lengths and contents of all files below a folder, to tell whether anything changed.
pub(crate) fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).expect("a file");
                files.push((path, content));
            }
        }
    }
    files.sort();
    files
}

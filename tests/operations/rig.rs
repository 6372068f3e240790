//! Brokers and sentinels as processes on loopback, and the commands that an operator types.

use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long to wait for something that should come soon, and how often to look.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const LOOK: Duration = Duration::from_millis(50);

struct Process {
    address: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    binary: PathBuf,
    processes: BTreeMap<String, Process>,
    sentinels: Vec<String>,
}

impl Rig {
    /// So many sentinels, serving: one keeps its metadata itself, several in one embedded etcd.
    pub(crate) fn start(binary: &Path, sentinels: usize) -> Self {
        let base = std::env::var_os("GOULETTE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(base).expect("a folder for the test");
        let ids: Vec<String> = (1..=sentinels).map(|number| format!("sentinel{number}")).collect();
        let sentinels: Vec<_> = ids.iter().map(|_| free_address()).collect();
        let mut rig = Self { dir, binary: binary.to_owned(), processes: BTreeMap::new(), sentinels };
        let etcds: Vec<_> = ids.iter().map(|_| (free_port(), free_port())).collect();
        let members: Vec<_> =
            ids.iter().zip(&etcds).map(|(id, (_, peer))| format!("{id}=http://127.0.0.1:{peer}")).collect();
        for (index, id) in ids.iter().enumerate() {
            let mut arguments = owned(&["sentinel", "-id", id, "-address", &rig.sentinels[index]]);
            match etcds.len() {
                1 => arguments.push("-enable-embedded-etcd=false".to_owned()),
                _ => arguments.extend([
                    format!("-etcd-port={}", etcds[index].0),
                    format!("-etcd-peer-port={}", etcds[index].1),
                    format!("-etcd-data-dir=data/{id}.etcd"),
                    format!("-etcd-initial-cluster={}", members.join(",")),
                    "-cluster-id=00112233445566778899aabbccddeeff".to_owned(),
                ]),
            }
            let address = rig.sentinels[index].clone();
            rig.processes.insert(id.clone(), Process { address, arguments, child: None });
            rig.launch(id);
        }
        ids.iter().for_each(|id| rig.until_serving(id));
        rig
    }

    /// All sentinels' addresses.
    pub(crate) fn whom(&self) -> String {
        self.sentinels.join(",")
    }

    /// Another broker, serving.
    pub(crate) fn add_broker(&mut self, id: &str, flags: &[&str]) {
        let address = free_address();
        let mut arguments = owned(&["broker", "-id", id, "-address", &address, "-sentinel", &self.whom()]);
        arguments.extend(owned(flags));
        self.processes.insert(id.to_owned(), Process { address, arguments, child: None });
        self.restart(id);
    }

    /// Starts a process that does not run, and waits until it serves.
    pub(crate) fn restart(&mut self, id: &str) {
        self.launch(id);
        self.until_serving(id);
    }

    fn launch(&mut self, id: &str) {
        let out = File::options().create(true).append(true).open(self.dir.path().join(format!("{id}.out")));
        let out = out.expect("a file for the output");
        let process = self.processes.get_mut(id).expect("a process that was added");
        assert!(process.child.is_none(), "{id} runs already");
        let mut command = Command::new(&self.binary);
        command.args(&process.arguments).args(["-admin-address", "127.0.0.1:0"]).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a second handle")).stderr(out);
        process.child = Some(command.spawn().expect("the binary starts"));
    }

    fn until_serving(&self, id: &str) {
        let address = &self.processes[id].address;
        self.eventually(&format!("{id} serves"), || self.run(&["health", address]).status.success().then_some(()));
    }

    fn child(&mut self, id: &str) -> Child {
        self.processes.get_mut(id).and_then(|process| process.child.take()).expect("it runs")
    }

    /// SIGTERM, which must end with code 0.
    pub(crate) fn stop(&mut self, id: &str) {
        let mut child = self.child(id);
        kill_process(Pid::from_child(&child), Signal::TERM).expect("our child");
        let status = child.wait().expect("our child");
        assert!(status.success(), "{id} stopped with {status}");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: &str) {
        let mut child = self.child(id);
        child.kill().expect("our child");
        child.wait().expect("our child");
    }

    /// The processes that have ended by themselves, which nothing here asks for.
    pub(crate) fn died(&mut self) -> Vec<String> {
        let ended = |(id, process): (&String, &mut Process)| {
            let child = process.child.as_mut()?;
            (!matches!(child.try_wait(), Ok(None))).then(|| id.clone())
        };
        self.processes.iter_mut().filter_map(ended).collect()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(&self.binary).args(arguments).current_dir(self.dir.path()).output().expect("the binary runs")
    }

    /// A command with the sentinels' addresses, and what it printed on standard output and standard error.
    pub(crate) fn try_order(&self, arguments: &[&str]) -> Result<(String, String), String> {
        let output = self.run(&[arguments, &["--sentinel", &self.whom()]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, said) = (text(&output.stdout), text(&output.stderr));
        if output.status.success() { Ok((printed, said)) } else { Err(format!("{}: {printed}{said}", output.status)) }
    }

    /// The same; it must succeed.
    pub(crate) fn order(&self, arguments: &[&str]) -> (String, String) {
        let begun = Instant::now();
        let done = self.try_order(arguments).unwrap_or_else(|why| panic!("{arguments:?}: {why}"));
        println!("  {} ({:.1} s)", arguments.join(" "), begun.elapsed().as_secs_f64());
        done
    }

    /// The same as JSON.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Option<Value> {
        let (printed, _) = self.try_order(&[arguments, &["--output", "json"]].concat()).ok()?;
        Some(serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}")))
    }

    /// A topic's partition.
    pub(crate) fn partition(&self, topic: &str) -> Option<Value> {
        Some(self.ask(&["topic", "describe", topic])?["partitions"][0].clone())
    }

    /// Waits until done.
    pub(crate) fn eventually<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = done() {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn data(&self, broker: &str) -> PathBuf {
        self.dir.path().join("data").join(broker)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.processes.values_mut().filter_map(|process| process.child.as_mut()) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("kept: {}", self.dir.path().display());
        }
    }
}

/// The names of a JSON list.
pub(crate) fn names(list: &Value) -> Vec<String> {
    let names = list.as_array().into_iter().flatten();
    names.map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// A port that nobody listens on now, below the range from which the kernel takes ports for outgoing connections.
fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < 10_000, "no free port");
        let port = 20_000 + (std::process::id() as u16 ^ step.wrapping_mul(7)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

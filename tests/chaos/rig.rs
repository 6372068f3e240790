//! Three brokers and a sentinel as processes, each in a network namespace of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::network::Network;

pub(crate) const BROKERS: usize = 3;
/// The sentinel's place among the namespaces.
pub(crate) const SENTINEL: usize = BROKERS;

/// How long to wait for something that should come soon, and how often to look.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    binary: PathBuf,
    network: Network,
    children: Vec<Option<Child>>,
}

impl Rig {
    /// Makes the network; nothing runs yet. What is missing, where that cannot be.
    pub(crate) fn prepare(binary: PathBuf) -> Result<Self, String> {
        let network = Network::make(BROKERS + 1)?;
        let base = std::env::var_os("GOULETTE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
        Ok(Self { dir, binary, network, children: (0..=BROKERS).map(|_| None).collect() })
    }

    pub(crate) fn sentinel_address(&self) -> String {
        format!("{}:50052", self.network.address(SENTINEL))
    }

    fn broker_address(&self, broker: usize) -> String {
        format!("{}:50051", self.network.address(broker))
    }

    pub(crate) fn broker_id(broker: usize) -> String {
        format!("broker{}", broker + 1)
    }

    pub(crate) fn start(&mut self, member: usize) {
        let sentinel = self.sentinel_address();
        let (role, flags) = match member {
            SENTINEL => ("sentinel", vec!["-address", &sentinel, "-enable-embedded-etcd=false"]),
            _ => ("broker", vec!["-sentinel", &sentinel]),
        };
        let mut flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        if member != SENTINEL {
            flags.extend([
                "-id".to_owned(),
                Self::broker_id(member),
                "-address".to_owned(),
                self.broker_address(member),
            ]);
        }
        let out = File::options().create(true).append(true).open(self.dir.path().join(format!("{member}.out")));
        let out = out.expect("a file for the output");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.network.space(member)]).arg(&self.binary).arg(role).args(flags);
        command.args(["-admin-address", "127.0.0.1:0"]).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a second handle")).stderr(out);
        self.children[member] = Some(command.spawn().expect("the binary starts"));
    }

    /// Waits until a process serves.
    pub(crate) fn until_serving(&self, member: usize) {
        let address = if member == SENTINEL { self.sentinel_address() } else { self.broker_address(member) };
        let deadline = Instant::now() + PATIENCE;
        while !self.run(&["health", &address]).status.success() {
            assert!(Instant::now() < deadline, "{address} does not serve");
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(&self.binary).args(arguments).current_dir(self.dir.path()).output().expect("the binary runs")
    }

    fn pid(&self, member: usize) -> Pid {
        Pid::from_child(self.children[member].as_ref().expect("it runs"))
    }

    /// `kill -9`, without a chance to say anything.
    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.children[member].take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// SIGTERM, which must end with code 0.
    pub(crate) fn stop(&mut self, member: usize) {
        kill_process(self.pid(member), Signal::TERM).expect("our child");
        let mut child = self.children[member].take().expect("it runs");
        let status = child.wait().expect("our child");
        assert!(status.success(), "{member} stopped with {status}");
    }

    pub(crate) fn pause(&self, member: usize) {
        kill_process(self.pid(member), Signal::STOP).expect("our child");
    }

    pub(crate) fn resume(&self, member: usize) {
        kill_process(self.pid(member), Signal::CONT).expect("our child");
    }

    /// Whether a process has ended by itself, which no scenario asks for.
    pub(crate) fn died(&mut self) -> Option<usize> {
        let ended =
            |child: &mut Option<Child>| child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        self.children.iter_mut().position(ended)
    }

    /// What `from` sends to `to` is lost from now on; the other way is open.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.network.cut(from, to);
    }

    /// All ways are open again.
    pub(crate) fn heal(&self) {
        self.network.heal();
    }

    pub(crate) fn data(&self, broker: usize) -> PathBuf {
        self.dir.path().join("data").join(Self::broker_id(broker))
    }

    /// Removes all that a broker which does not run has on its disk.
    pub(crate) fn wipe(&self, broker: usize) {
        fs::remove_dir_all(self.data(broker)).expect("the data can be removed");
    }

    /// Keeps folders and logs for whoever looks into a failure.
    pub(crate) fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for member in 0..=BROKERS {
            if let Some(child) = &self.children[member] {
                // One that is stopped does not die before it goes on.
                let _ = kill_process(Pid::from_child(child), Signal::CONT);
            }
            self.kill(member);
        }
    }
}

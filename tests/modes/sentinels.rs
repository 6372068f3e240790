//! Three sentinels that share their metadata.

use std::{
    fs,
    process::{Child, Output},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cluster::{Cluster, Store, eventually, free_port, text},
    mode::{CLUSTER_ID, Mode},
};

/// Three sentinels, `s0` to `s2`, and a folder for whatever else runs; killed at the end.
pub(crate) struct Sentinels {
    pub(crate) base: Cluster,
    pub(crate) addresses: Vec<String>,
    /// Where they keep their metadata.
    pub(crate) stores: Vec<Store>,
    flags: Vec<Vec<String>>,
    children: Vec<Option<Child>>,
}

impl Sentinels {
    /// All serving; with embedded etcds these form one cluster.
    pub(crate) fn start(mode: &Mode) -> Self {
        let base = Cluster::prepare(&[], &[]);
        let addresses: Vec<_> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let stores = stores(mode);
        let flags = addresses.iter().zip(flags(&stores)).enumerate().map(|(index, (address, store))| {
            let mut flags = vec!["sentinel".to_owned(), format!("-id=s{index}"), format!("-address={address}")];
            flags.extend(["-admin-address=off".to_owned(), format!("-cluster-id={CLUSTER_ID}")]);
            flags.extend(store);
            flags
        });
        let flags = flags.collect();
        let mut sentinels = Self { base, addresses, stores, flags, children: vec![None, None, None] };
        for index in 0..3 {
            sentinels.launch(index);
        }
        for index in 0..3 {
            sentinels.until_serving(index);
        }
        sentinels
    }

    /// Starts one and does not wait.
    pub(crate) fn launch(&mut self, index: usize) {
        let flags: Vec<_> = self.flags[index].iter().map(String::as_str).collect();
        let path = self.base.dir.path().join(format!("s{index}.out"));
        let out = fs::File::options().create(true).append(true).open(path).unwrap();
        self.children[index] = Some(self.base.command(&flags).stderr(out).spawn().unwrap());
    }

    pub(crate) fn until_serving(&self, index: usize) {
        let address = &self.addresses[index];
        eventually("a sentinel serves", || self.base.run(&["health", address]).status.success().then_some(()));
    }

    /// The addresses of all, as flags take them.
    pub(crate) fn all(&self) -> String {
        self.addresses.join(",")
    }

    /// A command with the addresses of all.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.base.run(&[arguments, &["--sentinel", &self.all()]].concat())
    }

    /// A command that prints JSON, repeated until it succeeds.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        eventually(&format!("{arguments:?}"), || {
            let output = self.run(&[arguments, &["--output", "json"]].concat());
            output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
        })
    }

    /// Which one leads, as those say that can be asked.
    pub(crate) fn leader(&self) -> usize {
        eventually("one leads", || {
            let status = self.json(&["cluster", "status"]);
            let sentinels = status["sentinels"].as_array()?;
            let leader = sentinels.iter().find(|sentinel| sentinel["leader"] == true)?;
            leader["id"].as_str()?.strip_prefix('s')?.parse().ok()
        })
    }

    pub(crate) fn child(&self, index: usize) -> &Child {
        self.children[index].as_ref().unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut child = self.children[index].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Repeats a command until it succeeds; how long that took.
    pub(crate) fn until_works(&self, arguments: &[&str]) -> Duration {
        let began = Instant::now();
        eventually(&format!("{arguments:?}"), || {
            let output = self.run(arguments);
            // An attempt whose answer was lost may have made it.
            (output.status.success() || text(&output).contains("exists")).then_some(())
        });
        began.elapsed()
    }
}

fn stores(mode: &Mode) -> Vec<Store> {
    match mode {
        Mode::Folder => panic!("sentinels that keep their metadata in folders share nothing"),
        Mode::External(_) => vec![mode.store(); 3],
        Mode::Embedded => (0..3).map(|_| mode.store()).collect(),
    }
}

/// The flags that tell each of them where its metadata is, and who the others are.
fn flags(stores: &[Store]) -> Vec<Vec<String>> {
    let peers = stores.iter().enumerate().filter_map(|(index, store)| match store {
        Store::Embedded { peer_port, .. } => Some(format!("s{index}=http://127.0.0.1:{peer_port}")),
        _ => None,
    });
    let peers = peers.collect::<Vec<_>>().join(",");
    let flags = stores.iter().enumerate().map(|(index, store)| {
        let mut flags = store.flags();
        if !peers.is_empty() {
            flags.extend([format!("-etcd-data-dir=s{index}.etcd"), format!("-etcd-initial-cluster={peers}")]);
        }
        flags
    });
    flags.collect()
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in self.children.iter_mut().filter_map(Option::as_mut) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            for index in 0..3 {
                let log = fs::read_to_string(self.base.dir.path().join(format!("logs/sentinel_s{index}.log")));
                let log = log.unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                eprintln!("--- s{index}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
    }
}

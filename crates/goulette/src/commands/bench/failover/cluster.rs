//! A sentinel and three brokers as processes of this program, on this machine alone.

use std::{
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use goulette_proto::pb::{self, sentinel_client::SentinelClient};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::{LOOK, PATIENCE};
use crate::{commands::bench::now, exit::Failure};

pub(super) const BROKERS: usize = 3;

/// All end when it is dropped, and their folder goes.
pub(super) struct Cluster {
    dir: PathBuf,
    program: PathBuf,
    sentinel: String,
    brokers: Vec<String>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    pub(super) async fn start(dir: &Path) -> Result<Self, Failure> {
        let dir = dir.join(format!("failover.{}", std::process::id()));
        make_dir(&dir).map_err(Failure::failed)?;
        let mut ports = free_ports(BROKERS + 1).map_err(Failure::failed)?.into_iter();
        let mut address = || format!("127.0.0.1:{}", ports.next().unwrap_or_default());
        let sentinel = address();
        let brokers = (0..BROKERS).map(|_| address()).collect();
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let children = (0..=BROKERS).map(|_| None).collect();
        let mut cluster = Self { dir, program, sentinel, brokers, children };
        let address = cluster.sentinel.clone();
        cluster.spawn(BROKERS, "sentinel", &["-address", &address, "-enable-embedded-etcd=false"])?;
        cluster.until_serving(&address).await?;
        for broker in 0..BROKERS {
            cluster.restart(broker).await?;
        }
        Ok(cluster)
    }

    pub(super) fn sentinel(&self) -> &str {
        &self.sentinel
    }

    fn spawn(&mut self, place: usize, role: &str, flags: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.arg(role).args(flags).args(["-admin-address", "127.0.0.1:0", "-log-level", "warn"]);
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children[place] = Some(command.spawn().map_err(Failure::failed)?);
        Ok(())
    }

    /// Starts a broker, and waits until it serves.
    pub(super) async fn restart(&mut self, broker: usize) -> Result<(), Failure> {
        self.reap(broker);
        let (address, sentinel, id) = (self.brokers[broker].clone(), self.sentinel.clone(), id(broker));
        self.spawn(broker, "broker", &["-id", &id, "-address", &address, "-sentinel", &sentinel])?;
        self.until_serving(&address).await
    }

    async fn until_serving(&self, address: &str) -> Result<(), Failure> {
        let begun = now();
        loop {
            let mut health = Command::new(&self.program);
            health.args(["health", address]).stdout(Stdio::null()).stderr(Stdio::null());
            if health.status().is_ok_and(|status| status.success()) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(Failure::failed(format_args!("{address} does not serve")));
            }
            sleep(LOOK).await;
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self, broker: usize) -> Result<(), Failure> {
        match &mut self.children[broker] {
            Some(child) => child.kill().map_err(Failure::failed),
            None => Err(Failure::failed("the leader does not run")),
        }
    }

    /// SIGTERM; returns once the broker has ended.
    pub(super) async fn stop(&mut self, broker: usize) -> Result<(), Failure> {
        let Some(child) = &mut self.children[broker] else { return Err(Failure::failed("the leader does not run")) };
        kill_process(Pid::from_child(child), Signal::TERM).map_err(Failure::failed)?;
        let begun = now();
        // Looked at again and again: a thread that waits would keep the writer from its work.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(Failure::failed)? {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                return Err(Failure::failed("a broker that was stopped does not end"));
            }
            sleep(LOOK).await;
        };
        if !status.success() {
            return Err(Failure::failed(format_args!("a broker that was stopped ended with {status}")));
        }
        Ok(())
    }

    fn reap(&mut self, place: usize) {
        if let Some(mut child) = self.children[place].take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Who leads the topic's first partition, if all replicas are in sync.
    pub(super) async fn leader_of_whole(&self, topic: &str) -> Option<usize> {
        let mut sentinel = SentinelClient::connect(format!("http://{}", self.sentinel)).await.ok()?;
        let request = pb::DescribeTopicRequest { name: topic.to_owned() };
        let described = sentinel.describe_topic(request).await.ok()?.into_inner().topic?;
        let partition = described.partitions.first().filter(|partition| partition.isr.len() == BROKERS)?;
        (0..BROKERS).find(|&broker| id(broker) == partition.leader)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..=BROKERS).for_each(|place| self.reap(place));
        remove_dir(&self.dir);
    }
}

fn id(broker: usize) -> String {
    format!("broker{}", broker + 1)
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    // Held all at once, so that no two are the same.
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's own folder, not a log's")]
fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's own folder, not a log's")]
fn remove_dir(dir: &Path) {
    // Whatever is left is named after this process.
    let _ = std::fs::remove_dir_all(dir);
}

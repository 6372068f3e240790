//! A single-member etcd as a child process on free loopback ports, real or ours: both take etcd's flags.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// What starts a server: a program and the arguments that come before etcd's flags.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) name: &'static str,
    pub(crate) command: Vec<String>,
}

pub(crate) struct Server {
    child: Child,
    data: tempfile::TempDir,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
}

impl Server {
    /// Starts a fresh cluster of one and waits until it serves.
    pub(crate) fn start(launch: &Launch, dir: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("etcd-compat-").tempdir_in(dir)?;
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let log = std::fs::File::create(data.path().join("log"))?;
        let child = Command::new(&launch.command[0])
            .args(&launch.command[1..])
            .args(["--name", "m1", "--data-dir"])
            .arg(data.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m1={peer}"), "--log-level", "warn", "--bcrypt-cost", "4"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", launch.command[0]))?;
        let mut server = Self { child, data, client_port, peer_port };
        server.wait_until_healthy().with_context(|| launch.name)?;
        Ok(server)
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        use std::io::{Read, Write};
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}): {}", self.log());
            }
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.client_port)) {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                let mut answer = String::new();
                let asked = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                if asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("\"health\":\"true\"")
                {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!("the server does not become healthy: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server printed.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.data.path().join("log")).unwrap_or_default()).into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports below those that the system hands out, each once: runs that go on at once do not take each other's.
fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let place = (std::process::id() * 100 + NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + place)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

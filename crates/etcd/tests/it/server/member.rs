//! Members with folders and free ports, and the clients to ask them.

use std::path::{Path, PathBuf};

use goulette_env::Env;
use goulette_etcd::{Config, EtcdError, EtcdServer, StartError};
use goulette_proto::etcd::etcdserverpb::{
    PutRequest, RangeRequest, RangeResponse, kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Some members of one cluster, not necessarily running.
pub(crate) struct Plan {
    folder: tempfile::TempDir,
    ports: Vec<(u16, u16)>,
    flags: Vec<String>,
}

/// A running member.
pub(crate) struct Member {
    pub(crate) server: EtcdServer,
    pub(crate) channel: Channel,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Plan {
    /// `flags`: of all members.
    pub(crate) fn new(size: usize, flags: &[&str]) -> Self {
        let ports = (0..size).map(|_| (free_port(), free_port())).collect();
        let flags = flags.iter().map(ToString::to_string).collect();
        Self { folder: tempfile::tempdir().unwrap(), ports, flags }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data_dir(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("m{member}"))
    }

    fn peer_url(&self, member: usize) -> String {
        let is_encrypted = self.flags.iter().any(|flag| flag == "--peer-auto-tls");
        format!("{}://127.0.0.1:{}", if is_encrypted { "https" } else { "http" }, self.ports[member].1)
    }

    pub(crate) fn config(&self, member: usize) -> Config {
        let all: Vec<_> = (0..self.ports.len()).map(|each| format!("m{each}={}", self.peer_url(each))).collect();
        let client = format!("http://127.0.0.1:{}", self.ports[member].0);
        let mut flags = vec![
            format!("--name=m{member}"),
            format!("--data-dir={}", self.data_dir(member).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={}", self.peer_url(member)),
            format!("--initial-advertise-peer-urls={}", self.peer_url(member)),
            format!("--initial-cluster={}", all.join(",")),
        ];
        flags.extend(self.flags.iter().cloned());
        Config::parse(&flags, |_| None, |path| Err(format!("no {path}"))).unwrap()
    }

    pub(crate) async fn start(&self, member: usize) -> Result<Member, StartError> {
        let config = self.config(member);
        let url = config.advertise_client_urls[0].text.clone();
        let server = EtcdServer::start(config, Env::real()).await?;
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        Ok(Member { server, channel })
    }

    pub(crate) async fn start_all(&self) -> Vec<Member> {
        let mut members = Vec::new();
        for member in 0..self.ports.len() {
            members.push(self.start(member).await.unwrap());
        }
        for member in &members {
            assert!(member.server.ready().await);
        }
        members
    }
}

impl Member {
    /// A cluster of one.
    pub(crate) async fn alone(flags: &[&str]) -> (Plan, Self) {
        let plan = Plan::new(1, flags);
        let member = plan.start_all().await.remove(0);
        (plan, member)
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    pub(crate) async fn put(&self, key: &str, value: &[u8]) -> Result<i64, Status> {
        let answer = self.kv().put(put(key, value)).await?;
        Ok(answer.into_inner().header.unwrap().revision)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<RangeResponse, Status> {
        Ok(self.kv().range(get(key)).await?.into_inner())
    }
}

pub(crate) fn put(key: &str, value: &[u8]) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_vec().into(), ..PutRequest::default() }
}

pub(crate) fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

/// The answer must be this refusal, code and text.
#[track_caller]
pub(crate) fn is_refused<T: std::fmt::Debug>(answer: Result<T, Status>, with: EtcdError) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (with.code(), with.to_string().as_str()));
}

//! The etcd inside of a sentinel: started before it, kept in order beside it, stopped after it.

use std::{io, time::Duration};

use goulette_env::Env;
use goulette_etcd::{Config, EtcdServer, StartError};
use goulette_logging::{Chain, info, warn};
use goulette_proto::etcd::etcdserverpb::{MemberListRequest, cluster_client::ClusterClient};
use goulette_sentinel::{EtcdMode, EtcdOptions};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::transport::{Channel, Endpoint};

use super::{super::service, membership, place::QUOTA_BYTES, upkeep};
use crate::{cli::LoggingFlags, exit::Failure};

/// How often somebody who waits for the other members is told so.
const PATIENCE: Duration = Duration::from_secs(10);
/// One call to the own etcd.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long the upkeep may take to notice that it is to end.
const UPKEEP_STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A running etcd, and who keeps it in order.
pub(super) struct EmbeddedEtcd {
    server: EtcdServer,
    channel: Channel,
    own: String,
    stop: watch::Sender<bool>,
    upkeep: JoinHandle<()>,
}

impl EmbeddedEtcd {
    /// Starts the etcd and waits until it serves: alone at once, else when a majority of the members is there; one that joins
    /// later, when it has caught up with the others and counts for majorities.
    pub(super) async fn start(config: Config, logging: &LoggingFlags) -> Result<Self, Failure> {
        warn_of_open_ports(&config);
        let listening = &config.listen_client_urls[0];
        // A wildcard is no address to dial.
        let host = match listening.host.as_str() {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            "::" => "[::1]".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let own = format!("{host}:{}", listening.port);
        let endpoint = Endpoint::from_shared(format!("http://{own}")).map_err(Failure::failed)?;
        let channel = endpoint.connect_timeout(CALL_DEADLINE).connect_lazy();
        let (dir, peer_port) = (config.data_dir.display().to_string(), config.listen_peer_urls[0].port);
        info!("the embedded etcd starts on {dir}: clients on {own}, peers on port {peer_port}");
        let server = EtcdServer::start(config.clone(), Env::real()).await.map_err(|error| refused(&error, &config))?;
        let (stop, stopping) = watch::channel(false);
        let upkeep = tokio::spawn(upkeep::run(channel.clone(), stopping));
        let embedded = Self { server, channel, own, stop, upkeep };
        embedded.until_ready(&config, logging).await?;
        // Until then it answers nobody, this sentinel included.
        tokio::select! {
            () = membership::promote(embedded.channel.clone()) => {}
            why = embedded.server.ended() => return Err(ended(&why)),
        }
        info!("the embedded etcd serves");
        Ok(embedded)
    }

    async fn until_ready(&self, config: &Config, logging: &LoggingFlags) -> Result<(), Failure> {
        let members = config.bootstrap_names().unwrap_or_default();
        let mut waited = Duration::ZERO;
        loop {
            let is_ready = tokio::select! {
                is_ready = timeout(PATIENCE, self.server.ready()) => is_ready,
                why = self.server.ended() => return Err(ended(&why)),
            };
            match is_ready {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Failure::failed("the embedded etcd ended before it served")),
                Err(_) => {
                    waited += PATIENCE;
                    let list: Vec<_> =
                        members.iter().map(|(name, urls)| format!("{name} ({})", urls.join(","))).collect();
                    let waiting = format!(
                        "the embedded etcd has waited {} s for a majority of its members: {}",
                        waited.as_secs(),
                        list.join(", ")
                    );
                    warn!("{waiting}");
                    service::waits(&waiting, logging);
                }
            }
        }
    }

    /// What the sentinel connects to: this member first, then the others that are known.
    pub(super) async fn options(&self, prefix: String) -> EtcdOptions {
        let mut endpoints = vec![self.own.clone()];
        let mut cluster = ClusterClient::new(self.channel.clone());
        let listed = cluster.member_list(MemberListRequest { linearizable: false });
        if let Ok(Ok(answer)) = timeout(CALL_DEADLINE, listed).await {
            let answer = answer.into_inner();
            let own = answer.header.map(|header| header.member_id);
            let others = answer.members.into_iter().filter(|member| Some(member.id) != own);
            let urls = others.flat_map(|member| member.client_ur_ls);
            endpoints.extend(urls.filter_map(|url| url.strip_prefix("http://").map(ToOwned::to_owned)));
        }
        EtcdOptions {
            mode: EtcdMode::Embedded,
            endpoints,
            prefix,
            user: None,
            tls: None,
            quota_bytes: Some(QUOTA_BYTES),
        }
    }

    /// Returns when the etcd has ended by itself, and why.
    pub(super) async fn ended(&self) -> String {
        self.server.ended().await
    }

    /// Hands the leadership over, ends calls, makes the store durable.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = timeout(UPKEEP_STOP_DEADLINE, self.upkeep).await;
        self.server.stop().await;
        info!("the embedded etcd stopped");
    }
}

/// It was not told to.
pub(super) fn ended(why: &str) -> Failure {
    Failure::failed(format_args!("the embedded etcd ended: {why}"))
}

fn warn_of_open_ports(config: &Config) {
    let host = &config.listen_client_urls[0].host;
    let is_local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !is_local {
        let warning = format!(
            "the embedded etcd listens on {host} (ports {} and {}) without TLS: whoever reaches them can read and change \
             the metadata, so keep them within a trusted network",
            config.listen_client_urls[0].port, config.listen_peer_urls[0].port
        );
        warn!("{warning}");
        eprintln!("warning: {warning}");
    }
}

fn refused(error: &StartError, config: &Config) -> Failure {
    let StartError::Listen { url, source } = error else { return Failure::failed(Chain(error)) };
    if source.kind() != io::ErrorKind::AddrInUse {
        return Failure::failed(Chain(error));
    }
    let (client, peer) = (config.listen_client_urls[0].port, config.listen_peer_urls[0].port);
    let (port, flag) =
        if url.ends_with(&format!(":{peer}")) { (peer, "-etcd-peer-port") } else { (client, "-etcd-port") };
    Failure::failed(format_args!(
        "port {port} of the embedded etcd is taken, perhaps by an etcd of this system: give another one ({flag}), or use \
         the etcd that runs there (-enable-embedded-etcd=false -etcd-endpoints 127.0.0.1:{client})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_both_ways_out() {
        let arguments = ["--listen-client-urls=http://127.0.0.1:2479", "--advertise-client-urls=http://127.0.0.1:2479"];
        let arguments = arguments.map(ToOwned::to_owned);
        let config = Config::parse(&arguments, |_| None, |_| Err(String::new())).unwrap();
        let taken = |url: &str| StartError::Listen { url: url.to_owned(), source: io::ErrorKind::AddrInUse.into() };
        let client = refused(&taken("http://127.0.0.1:2479"), &config).to_string();
        for word in ["2479", "-etcd-port", "-enable-embedded-etcd=false", "-etcd-endpoints 127.0.0.1:2479"] {
            assert!(client.contains(word), "{word}: {client}");
        }
        let peer = refused(&taken("http://localhost:2380"), &config).to_string();
        assert!(peer.contains("port 2380") && peer.contains("-etcd-peer-port"), "{peer}");
    }
}

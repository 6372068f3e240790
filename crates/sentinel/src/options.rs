//! What a sentinel can be told.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use goulette_types::{ClusterId, SentinelId};

use crate::plan::{PARTITIONS_MAX, REPLICATION_FACTOR_MAX};

/// Where the metadata is kept.
#[derive(Clone, Debug, Default)]
pub enum Store {
    /// In the sentinel's own folder: there is no other sentinel.
    #[default]
    Local,
    /// In an etcd that several sentinels share. The sentinel waits for it as long as it takes.
    Etcd(EtcdOptions),
}

/// How the etcd of the sentinels is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Whose etcd it is; for texts only.
    pub mode: EtcdMode,
    /// Its members' client addresses, `host:port`; of an embedded one, this process's own member first.
    pub endpoints: Vec<String>,
    /// What keys begin with, without a slash at its end. Usually `/goulette`.
    pub prefix: String,
    /// Name and password, for an etcd with users.
    pub user: Option<(String, String)>,
    /// Certificates; without them the connection is not encrypted.
    pub tls: Option<StoreTls>,
    /// The size at which it refuses writes, where that is known; for the status.
    pub quota_bytes: Option<u64>,
}

/// Certificates for an encrypted etcd, as PEM.
#[derive(Clone, Default)]
pub struct StoreTls {
    /// Who signs the etcd's certificates; needed.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate chain and its key, for an etcd that asks for one.
    pub cert_and_key: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdOptions {
    /// These endpoints, and the defaults.
    pub fn new(mode: EtcdMode, endpoints: Vec<String>) -> Self {
        Self { mode, endpoints, prefix: "/goulette".to_owned(), user: None, tls: None, quota_bytes: None }
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.endpoints.is_empty() {
            mistakes.push("an etcd needs at least one endpoint".to_owned());
        }
        if !self.prefix.starts_with('/') || self.prefix.len() < 2 || self.prefix.ends_with('/') {
            mistakes.push(format!("an etcd prefix begins with a slash and ends without one, unlike {:?}", self.prefix));
        }
        if self.tls.as_ref().is_some_and(|tls| tls.ca.is_none()) {
            mistakes.push("an encrypted etcd needs the certificate of who signed its own (-etcd-cacert)".to_owned());
        }
        mistakes
    }

    /// The same for the store.
    pub(crate) fn to_meta(&self) -> goulette_meta::EtcdOptions {
        goulette_meta::EtcdOptions {
            prefix: self.prefix.clone(),
            user: self.user.clone(),
            tls: self.tls.as_ref().map(|tls| goulette_meta::EtcdTls {
                ca: tls.ca.clone().unwrap_or_default(),
                identity: tls.cert_and_key.clone(),
            }),
            ..goulette_meta::EtcdOptions::new(self.endpoints.clone())
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither passwords nor keys.
        out.debug_struct("EtcdOptions")
            .field("mode", &self.mode)
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("encrypted", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StoreTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StoreTls").finish_non_exhaustive()
    }
}

/// Whose etcd it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdMode {
    /// It runs in the sentinels' processes.
    Embedded,
    /// It runs by itself.
    External,
}

impl Store {
    /// The mode's name: `local`, `embedded`, `external`.
    pub fn mode(&self) -> &'static str {
        match self {
            Store::Local => "local",
            Store::Etcd(EtcdOptions { mode: EtcdMode::Embedded, .. }) => "embedded",
            Store::Etcd(EtcdOptions { mode: EtcdMode::External, .. }) => "external",
        }
    }
}

/// Options of a sentinel.
#[derive(Clone, Debug)]
pub struct SentinelOptions {
    /// Its id.
    pub id: SentinelId,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Where others reach it, `host:port`, if that is not the listening address.
    pub advertise: Option<String>,
    /// Where the admin port listens (HTTP: metrics, health); port 0 takes a free one. Default: nowhere.
    pub admin: Option<SocketAddr>,
    /// Its folder, made if absent; nothing is stored there with an etcd.
    pub data_dir: PathBuf,
    /// Where the metadata is kept. Default: in the folder.
    pub store: Store,
    /// The cluster to make, or to insist on; without it the first start draws an id.
    pub cluster_id: Option<ClusterId>,
    /// Whether a topic that a client asks for is created. Default: yes.
    pub auto_create_topics: bool,
    /// Partitions of a topic that does not say. Default: 1.
    pub default_partitions: u32,
    /// Replicas wanted by a topic that does not say; stored when the cluster is made. Default: 3.
    pub default_replication_factor: u32,
    /// How long a broker may be silent before it counts as down. Default: 6 s.
    pub session: Duration,
    /// How often brokers are to be heard. Default: 1 s.
    pub heartbeat: Duration,
}

impl SentinelOptions {
    /// The defaults.
    pub fn new(id: SentinelId, address: SocketAddr, data_dir: PathBuf) -> Self {
        Self {
            id,
            address,
            advertise: None,
            admin: None,
            data_dir,
            store: Store::Local,
            cluster_id: None,
            auto_create_topics: true,
            default_partitions: 1,
            default_replication_factor: 3,
            session: Duration::from_secs(6),
            heartbeat: Duration::from_secs(1),
        }
    }

    /// Every mistake in the options, as sentences; empty if there is none.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !(1..=PARTITIONS_MAX).contains(&self.default_partitions) {
            mistakes.push(format!("default partitions must be 1 to {PARTITIONS_MAX}, not {}", self.default_partitions));
        }
        if !(1..=REPLICATION_FACTOR_MAX).contains(&self.default_replication_factor) {
            mistakes.push(format!(
                "default replication factor must be 1 to {REPLICATION_FACTOR_MAX}, not {}",
                self.default_replication_factor
            ));
        }
        if self.heartbeat.is_zero() || self.session < 3 * self.heartbeat {
            mistakes.push("a session must last at least three heartbeats".to_owned());
        }
        if let Store::Etcd(etcd) = &self.store {
            mistakes.extend(etcd.mistakes());
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        let mut etcd = EtcdOptions::new(EtcdMode::External, vec!["e:1".to_owned()]);
        etcd.user = Some(("root".to_owned(), "secret".to_owned()));
        etcd.tls = Some(StoreTls { ca: None, cert_and_key: Some((b"c".to_vec(), b"secret".to_vec())) });
        let shown = format!("{etcd:?} {:?}", etcd.tls);
        assert!(shown.contains("root") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn mistakes_are_told_together() {
        let address = "127.0.0.1:0".parse().unwrap();
        let mut options = SentinelOptions::new("s1".parse().unwrap(), address, PathBuf::new());
        assert_eq!(options.mistakes(), Vec::<String>::new());
        let etcd = EtcdOptions { prefix: "x/".to_owned(), ..EtcdOptions::new(EtcdMode::External, Vec::new()) };
        options.store = Store::Etcd(EtcdOptions { tls: Some(StoreTls::default()), ..etcd });
        assert_eq!(options.mistakes().len(), 3, "{:?}", options.mistakes());
    }
}

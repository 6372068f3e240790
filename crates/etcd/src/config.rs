//! What can be set, by etcd's own names: flags, `ETCD_*` variables, and the file of `--config-file`.
//!
//! As in etcd, a configuration file stands alone: with one, flags and variables do not count. A flag that etcd has and we
//! do not is refused by name, unless its absence changes nothing that a client could see ([`IGNORED`]).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::auth::JwtOptions;
use names::NAMES;
pub use names::{IGNORED, help};
pub use values::Url;
use values::{auto_compaction, go_duration, initial_cluster};

mod names;
mod sources;
mod values;

/// The version of etcd whose behaviour this is.
pub const VERSION: &str = "3.6.16";
/// The version that a cluster of such members speaks.
pub const CLUSTER_VERSION: &str = "3.6.0";

/// Everything that can be set; plain data, validated by [`Config::parse`].
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's name; `default` by default.
    pub name: String,
    /// Where the data is; `<name>.etcd` by default.
    pub data_dir: PathBuf,
    /// Where clients are listened to.
    pub listen_client_urls: Vec<Url>,
    /// Where clients are told to go.
    pub advertise_client_urls: Vec<Url>,
    /// Where clients' HTTP/1.1 (version, health, metrics) is served apart from gRPC; empty: on the client port.
    pub listen_client_http_urls: Vec<Url>,
    /// Where peers are listened to.
    pub listen_peer_urls: Vec<Url>,
    /// Where peers are told to go.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Where only metrics and health are served, besides the client port.
    pub listen_metrics_urls: Vec<Url>,
    /// Name and peer URL of each first member, as given; empty: this member alone.
    pub initial_cluster: Vec<(String, String)>,
    /// Whether the cluster exists already.
    pub initial_cluster_state: ClusterState,
    /// What keeps clusters with the same URLs apart.
    pub initial_cluster_token: String,
    /// Entries between snapshots; 10,000 by default.
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot for members that are a little behind; 5,000 by default.
    pub snapshot_catchup_entries: u64,
    /// Bytes of the store beyond which writes are refused; 2 GiB for 0, no bound below.
    pub quota_backend_bytes: i64,
    /// When history is dropped by itself.
    pub auto_compaction: AutoCompaction,
    /// Between heartbeats; 100 ms by default.
    pub heartbeat_interval: Duration,
    /// Silence after which a leader is replaced; 1 s by default.
    pub election_timeout: Duration,
    /// Bytes of one request; 1.5 MiB by default.
    pub max_request_bytes: usize,
    /// Operations in one transaction; 128 by default.
    pub max_txn_ops: usize,
    /// Learners at a time; 1 by default.
    pub max_learners: usize,
    /// Streams that one client connection may have open.
    pub max_concurrent_streams: u32,
    /// Whether changes of members that would lose the quorum of started ones are refused.
    pub strict_reconfig_check: bool,
    /// What a login gives.
    pub auth_token: AuthToken,
    /// The cost of hashing a password.
    pub bcrypt_cost: u32,
    /// How long an unused login lives.
    pub auth_token_ttl: Duration,
    /// Between signs of progress that a watcher asked for; 10 minutes by default.
    pub watch_progress_notify_interval: Duration,
    /// `debug`, `info`, `warn`, `error`, `panic` or `fatal`.
    pub log_level: String,
    /// Certificates of the client port; for all fields empty, it is not encrypted.
    pub client_tls: Tls,
    /// Certificates of the peer port.
    pub peer_tls: Tls,
    /// What was given and has no effect here.
    pub ignored: Vec<String>,
}

/// Certificates of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate chain (PEM).
    pub cert_file: PathBuf,
    /// Its key (PEM).
    pub key_file: PathBuf,
    /// Who signs the certificates of the other side (PEM).
    pub trusted_ca_file: PathBuf,
    /// Whether the other side must show one.
    pub client_cert_auth: bool,
    /// Whether a certificate is made where none is given.
    pub auto: bool,
}

/// What a login gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// A token that every member remembers.
    Simple,
    /// A signed token.
    Jwt(JwtOptions),
}

/// Whether the first start begins a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// It begins.
    New,
    /// It exists, and has added this member.
    Existing,
}

/// When history is dropped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// What is more than so many revisions old; looked at every five minutes.
    Revision(i64),
}

impl Default for Config {
    fn default() -> Self {
        let url = |text| vec![Url::parse(text).expect("a URL of ours")];
        Self {
            name: "default".to_owned(),
            data_dir: PathBuf::from("default.etcd"),
            listen_client_urls: url("http://localhost:2379"),
            advertise_client_urls: url("http://localhost:2379"),
            listen_client_http_urls: Vec::new(),
            listen_peer_urls: url("http://localhost:2380"),
            initial_advertise_peer_urls: url("http://localhost:2380"),
            listen_metrics_urls: Vec::new(),
            initial_cluster: Vec::new(),
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".to_owned(),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_backend_bytes: 0,
            auto_compaction: AutoCompaction::Off,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            max_request_bytes: 1536 << 10,
            max_txn_ops: 128,
            max_learners: 1,
            max_concurrent_streams: u32::MAX,
            strict_reconfig_check: true,
            auth_token: AuthToken::Simple,
            bcrypt_cost: 10,
            auth_token_ttl: Duration::from_secs(300),
            watch_progress_notify_interval: Duration::from_secs(600),
            log_level: "info".to_owned(),
            client_tls: Tls::default(),
            peer_tls: Tls::default(),
            ignored: Vec::new(),
        }
    }
}

impl Config {
    /// Reads flags (without the program's name), then variables, then, instead of both, the configuration file.
    ///
    /// # Errors
    /// All mistakes, one a line.
    pub fn parse(
        args: &[String],
        variable: impl Fn(&str) -> Option<String>,
        read_file: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, String> {
        let mut given = sources::flags(args)?;
        if let Some(path) = given.get("config-file").cloned().or_else(|| variable("ETCD_CONFIG_FILE")) {
            given = sources::file_keys(&read_file(&path)?).map_err(|why| format!("{path}: {why}"))?;
        } else {
            for &name in NAMES.iter().chain(IGNORED) {
                let upper = format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"));
                if let Some(value) = variable(&upper) {
                    given.entry(name.to_owned()).or_insert(value);
                }
            }
        }
        Self::from_given(&given)
    }

    fn from_given(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut config = Self::default();
        let mut mistakes = Vec::new();
        for (name, value) in given {
            if let Err(why) = config.set(name, value) {
                mistakes.push(why);
            }
        }
        let mode = given.get("auto-compaction-mode").map_or("periodic", String::as_str);
        match auto_compaction(mode, given.get("auto-compaction-retention").map_or("0", String::as_str)) {
            Ok(auto_compaction) => config.auto_compaction = auto_compaction,
            Err(why) => mistakes.push(why),
        }
        if !given.contains_key("data-dir") {
            config.data_dir = PathBuf::from(format!("{}.etcd", config.name));
        }
        config.check(given, &mut mistakes);
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes.join("\n")) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |why: String| format!("invalid value {value:?} for flag --{name}: {why}");
        let number = || value.parse::<u64>().map_err(|error| wrong(error.to_string()));
        let urls = || value.split(',').map(|url| Url::parse(url.trim())).collect::<Result<Vec<_>, _>>().map_err(wrong);
        let switch = || match value {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            _ => Err(wrong("it is neither true nor false".to_owned())),
        };
        match name {
            "name" => value.clone_into(&mut self.name),
            "data-dir" => self.data_dir = PathBuf::from(value),
            "listen-client-urls" => self.listen_client_urls = urls()?,
            "advertise-client-urls" => self.advertise_client_urls = urls()?,
            "listen-client-http-urls" if value.is_empty() => self.listen_client_http_urls.clear(),
            "listen-client-http-urls" => self.listen_client_http_urls = urls()?,
            "listen-peer-urls" => self.listen_peer_urls = urls()?,
            "initial-advertise-peer-urls" => self.initial_advertise_peer_urls = urls()?,
            "listen-metrics-urls" if value.is_empty() => self.listen_metrics_urls.clear(),
            "listen-metrics-urls" => self.listen_metrics_urls = urls()?,
            "initial-cluster" => self.initial_cluster = initial_cluster(value).map_err(wrong)?,
            "initial-cluster-state" => {
                self.initial_cluster_state = match value {
                    "new" => ClusterState::New,
                    "existing" => ClusterState::Existing,
                    _ => return Err(wrong("it is neither new nor existing".to_owned())),
                };
            }
            "initial-cluster-token" => value.clone_into(&mut self.initial_cluster_token),
            "snapshot-count" => self.snapshot_count = number()?.max(1),
            "snapshot-catchup-entries" | "experimental-snapshot-catchup-entries" => {
                self.snapshot_catchup_entries = number()?;
            }
            "quota-backend-bytes" => {
                self.quota_backend_bytes = value.parse().map_err(|_| wrong("it is no number".to_owned()))?;
            }
            "auto-compaction-mode" | "auto-compaction-retention" => {}
            "heartbeat-interval" => self.heartbeat_interval = Duration::from_millis(number()?),
            "election-timeout" => self.election_timeout = Duration::from_millis(number()?),
            "max-request-bytes" => self.max_request_bytes = number()? as usize,
            "max-txn-ops" => self.max_txn_ops = number()? as usize,
            "max-learners" => self.max_learners = number()? as usize,
            "max-concurrent-streams" => self.max_concurrent_streams = u32::try_from(number()?).unwrap_or(u32::MAX),
            "strict-reconfig-check" => self.strict_reconfig_check = switch()?,
            "auth-token" => {
                self.auth_token = match value.split_once(',').unwrap_or((value, "")) {
                    ("simple", _) => AuthToken::Simple,
                    ("jwt", options) => {
                        let options = JwtOptions::parse(options, go_duration);
                        AuthToken::Jwt(options.map_err(|error| wrong(error.to_string()))?)
                    }
                    _ => return Err(wrong("auth: invalid auth options: it is neither simple nor jwt".to_owned())),
                };
            }
            "bcrypt-cost" => self.bcrypt_cost = u32::try_from(number()?).unwrap_or(u32::MAX),
            "auth-token-ttl" => self.auth_token_ttl = Duration::from_secs(number()?),
            "watch-progress-notify-interval" | "experimental-watch-progress-notify-interval" => {
                let least = Duration::from_millis(100);
                self.watch_progress_notify_interval = go_duration(value).map_err(wrong)?.max(least);
            }
            "log-level" => match value {
                "debug" | "info" | "warn" | "error" | "dpanic" | "panic" | "fatal" => {
                    value.clone_into(&mut self.log_level)
                }
                _ => return Err(wrong("it is none of debug, info, warn, error, panic, fatal".to_owned())),
            },
            "cert-file" => self.client_tls.cert_file = PathBuf::from(value),
            "key-file" => self.client_tls.key_file = PathBuf::from(value),
            "trusted-ca-file" => self.client_tls.trusted_ca_file = PathBuf::from(value),
            "auto-tls" => self.client_tls.auto = switch()?,
            "peer-auto-tls" => self.peer_tls.auto = switch()?,
            "client-cert-auth" => self.client_tls.client_cert_auth = switch()?,
            "peer-cert-file" => self.peer_tls.cert_file = PathBuf::from(value),
            "peer-key-file" => self.peer_tls.key_file = PathBuf::from(value),
            "peer-trusted-ca-file" => self.peer_tls.trusted_ca_file = PathBuf::from(value),
            "peer-client-cert-auth" => self.peer_tls.client_cert_auth = switch()?,
            _ if IGNORED.contains(&name) => self.ignored.push(name.to_owned()),
            _ => return Err(format!("flag provided but not defined: -{name}")),
        }
        Ok(())
    }

    fn check(&self, given: &BTreeMap<String, String>, mistakes: &mut Vec<String>) {
        if self.heartbeat_interval.is_zero() {
            mistakes.push("--heartbeat-interval must be greater than 0".to_owned());
        }
        if self.election_timeout < 5 * self.heartbeat_interval {
            mistakes.push(format!(
                "--election-timeout[{}ms] should be at least as 5 times as --heartbeat-interval[{}ms]",
                self.election_timeout.as_millis(),
                self.heartbeat_interval.as_millis()
            ));
        }
        if self.election_timeout > Duration::from_secs(50) {
            mistakes.push("--election-timeout is too long, and should be set less than 50000ms".to_owned());
        }
        if given.contains_key("listen-client-urls") && !given.contains_key("advertise-client-urls") {
            mistakes.push("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
        }
        if self.bootstrap_names().is_none() {
            mistakes.push(format!("couldn't find local name {:?} in the initial cluster configuration", self.name));
        }
    }

    /// The peer URLs of each first member, by name, in the order given; `None` unless this member is among them.
    pub fn bootstrap_names(&self) -> Option<Vec<(String, Vec<String>)>> {
        let mut members: Vec<(String, Vec<String>)> = Vec::new();
        for (name, url) in &self.initial_cluster {
            match members.iter_mut().find(|(known, _)| known == name) {
                Some((_, urls)) => urls.push(url.clone()),
                None => members.push((name.clone(), vec![url.clone()])),
            }
        }
        if members.is_empty() {
            let own = self.initial_advertise_peer_urls.iter().map(|url| url.text.clone()).collect();
            members.push((self.name.clone(), own));
        }
        members.iter().any(|(name, _)| *name == self.name).then_some(members)
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// The shortest lease in seconds: it must outlive an election.
    pub fn lease_ttl_min(&self) -> i64 {
        (1.5 * self.election_timeout.as_secs_f64()).ceil() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        Config::parse(&args, |_| None, |_| Err("no file".to_owned()))
    }

    #[test]
    fn flags_are_etcds() {
        let config = parse(&[
            "--name=m1",
            "--data-dir",
            "/d",
            "--initial-cluster",
            "m0=http://127.0.0.1:1,m1=http://127.0.0.1:2",
            "--auto-compaction-retention=5m",
            "--strict-reconfig-check=false",
            "--max-txn-ops",
            "4",
        ])
        .unwrap();
        assert_eq!((config.name.as_str(), config.max_txn_ops), ("m1", 4));
        assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(300)));
        assert!(!config.strict_reconfig_check);
        assert_eq!(config.bootstrap_names().unwrap().len(), 2);
        assert_eq!(config.lease_ttl_min(), 2);
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        assert_eq!(parse(&["--frob=1"]).unwrap_err(), "flag provided but not defined: -frob");
        assert!(parse(&["--name=x", "--initial-cluster=y=http://h:1"]).unwrap_err().contains("\"x\""));
    }

    #[test]
    fn variables_count_less_than_flags_and_a_file_counts_alone() {
        let variable = |name: &str| (name == "ETCD_NAME").then(|| "v".to_owned());
        let config = Config::parse(&[], variable, |_| Err(String::new())).unwrap();
        assert_eq!((config.name.as_str(), config.data_dir.to_str()), ("v", Some("v.etcd")));
        let file = "# c\nname: 'f'\nsnapshot-count: 7\nclient-transport-security:\n  client-cert-auth: false\n";
        let config = Config::parse(&["--config-file=x".to_owned()], variable, |_| Ok(file.to_owned())).unwrap();
        assert_eq!((config.name.as_str(), config.snapshot_count), ("f", 7));
    }
}

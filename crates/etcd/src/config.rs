//! What can be set, by etcd's own names: flags, `ETCD_*` variables, and the file of `--config-file`.
//!
//! As in etcd, a configuration file stands alone: with one, flags and variables do not count. A flag that etcd has and we
//! do not is refused by name, unless its absence changes nothing that a client could see ([`IGNORED`]).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::auth::JwtOptions;

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

/// A URL to listen on or to be found at: `scheme://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// Host, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// As given.
    pub text: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?} is no URL of the form http://host:port: {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(bad("the scheme is neither http nor https")),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port = port.parse().map_err(|_| bad("the port is no number up to 65535"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { is_tls, host, port, text: text.trim_end_matches('/').to_owned() })
    }

    /// Host and port, as a listener takes them.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Flags of etcd's that we take and that change nothing here: they tune etcd's own storage, logging or profiling.
pub const IGNORED: &[&str] = &[
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "cors",
    "downgrade-check-time",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "experimental-compact-hash-check-enabled",
    "experimental-compact-hash-check-time",
    "experimental-compaction-batch-limit",
    "experimental-compaction-sleep-interval",
    "experimental-corrupt-check-time",
    "experimental-enable-lease-checkpoint",
    "experimental-enable-lease-checkpoint-persist",
    "experimental-initial-corrupt-check",
    "experimental-stop-grpc-service-on-defrag",
    "experimental-warning-apply-duration",
    "experimental-warning-unary-request-duration",
    "feature-gates",
    "grpc-keepalive-interval",
    "grpc-keepalive-min-time",
    "grpc-keepalive-timeout",
    "host-whitelist",
    "initial-election-tick-advance",
    "log-format",
    "log-outputs",
    "log-rotation-config-json",
    "logger",
    "max-snapshots",
    "max-wals",
    "metrics",
    "pre-vote",
    "raft-read-timeout",
    "raft-write-timeout",
    "socket-reuse-address",
    "socket-reuse-port",
    "unsafe-no-fsync",
    "v2-deprecation",
    "warning-apply-duration",
    "warning-unary-request-duration",
];

/// Flags that may stand without a value, which is then `true`.
const SWITCHES: &[&str] = &[
    "auto-tls",
    "peer-auto-tls",
    "client-cert-auth",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "experimental-compact-hash-check-enabled",
    "experimental-enable-lease-checkpoint",
    "experimental-enable-lease-checkpoint-persist",
    "experimental-initial-corrupt-check",
    "experimental-stop-grpc-service-on-defrag",
    "initial-election-tick-advance",
    "peer-client-cert-auth",
    "pre-vote",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
    "unsafe-no-fsync",
];

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
        let mut given = flags(args)?;
        if let Some(path) = given.get("config-file").cloned().or_else(|| variable("ETCD_CONFIG_FILE")) {
            given = file_keys(&read_file(&path)?).map_err(|why| format!("{path}: {why}"))?;
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

/// The flags that mean something here.
const NAMES: &[&str] = &[
    "advertise-client-urls",
    "auth-token",
    "auth-token-ttl",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "auto-tls",
    "peer-auto-tls",
    "bcrypt-cost",
    "cert-file",
    "client-cert-auth",
    "data-dir",
    "election-timeout",
    "experimental-watch-progress-notify-interval",
    "heartbeat-interval",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "key-file",
    "listen-client-http-urls",
    "listen-client-urls",
    "listen-metrics-urls",
    "listen-peer-urls",
    "log-level",
    "max-concurrent-streams",
    "max-learners",
    "max-request-bytes",
    "max-txn-ops",
    "name",
    "peer-cert-file",
    "peer-client-cert-auth",
    "peer-key-file",
    "peer-trusted-ca-file",
    "quota-backend-bytes",
    "snapshot-catchup-entries",
    "experimental-snapshot-catchup-entries",
    "snapshot-count",
    "strict-reconfig-check",
    "trusted-ca-file",
    "watch-progress-notify-interval",
];

/// The flags, one a line.
pub fn help() -> String {
    let list = |names: &[&str]| names.iter().map(|name| format!("  --{name}\n")).collect::<String>();
    format!(
        "Runs an etcd v3 server. Flags are etcd's, with etcd's defaults; each is also an ETCD_ variable.\n\n{}\n\
         Read, and without effect here:\n\n{}",
        list(NAMES),
        list(IGNORED)
    )
}

fn flags(args: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|flag| !flag.is_empty())
        else {
            return Err(format!("'{arg}' is not a valid flag"));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None if SWITCHES.contains(&flag) => (flag, "true".to_owned()),
            None => {
                let is_known = flag == "config-file" || NAMES.contains(&flag) || IGNORED.contains(&flag);
                if !is_known {
                    return Err(format!("flag provided but not defined: -{flag}"));
                }
                (flag, args.next().ok_or_else(|| format!("flag needs an argument: -{flag}"))?.clone())
            }
        };
        given.insert(name.to_owned(), value);
    }
    Ok(given)
}

/// The keys of a configuration file: `name: value` a line, and the two groups of certificates that etcd nests.
fn file_keys(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    let mut group = "";
    for (number, line) in text.lines().enumerate() {
        let without_comment = match line.split_once(" #") {
            Some((before, _)) => before,
            None if line.trim_start().starts_with('#') => "",
            None => line,
        };
        let trimmed = without_comment.trim();
        if trimmed.is_empty() || trimmed == "---" {
            continue;
        }
        let (name, value) = trimmed.split_once(':').ok_or_else(|| format!("line {}: no key", number + 1))?;
        let value = value.trim().trim_matches(|quote| quote == '"' || quote == '\'');
        let is_nested = line.starts_with([' ', '\t']);
        if !is_nested {
            group = "";
        }
        let name = match (name.trim().trim_matches('"'), group) {
            ("client-transport-security", _) => {
                group = "client";
                continue;
            }
            ("peer-transport-security", _) => {
                group = "peer";
                continue;
            }
            (name, "peer") => format!("peer-{name}"),
            (name, _) => name.to_owned(),
        };
        if value.is_empty() {
            continue;
        }
        // etcd's file counts milliseconds and nanoseconds in the same units as its flags do, but for durations.
        given.insert(name, value.to_owned());
    }
    Ok(given)
}

fn initial_cluster(value: &str) -> Result<Vec<(String, String)>, String> {
    let mut members = Vec::new();
    for member in value.split(',').map(str::trim).filter(|member| !member.is_empty()) {
        let (name, url) = member.split_once('=').ok_or_else(|| format!("{member:?} is not of the form name=url"))?;
        members.push((name.to_owned(), Url::parse(url)?.text));
    }
    Ok(members)
}

fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let wrong = || format!("--auto-compaction-retention {retention:?} is no duration or number");
    match mode {
        "revision" => match retention.parse::<i64>().map_err(|_| wrong())? {
            0 => Ok(AutoCompaction::Off),
            revisions => Ok(AutoCompaction::Revision(revisions)),
        },
        "periodic" => {
            let period = match retention.parse::<u64>() {
                Ok(hours) => Duration::from_secs(hours.saturating_mul(3600)),
                Err(_) => go_duration(retention).map_err(|_| wrong())?,
            };
            Ok(if period.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(period) })
        }
        _ => Err(format!("--auto-compaction-mode {mode:?} is neither periodic nor revision")),
    }
}

/// A duration as Go writes it: `300ms`, `1.5h`, `2h45m`.
fn go_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration such as 300ms or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let part = number.parse::<f64>().map_err(|_| bad())? * seconds;
        total += Duration::try_from_secs_f64(part).map_err(|_| bad())?;
        rest = after;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
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

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(go_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(go_duration("5").is_err() && go_duration("").is_err() && go_duration("5x").is_err());
    }
}

//! Flags of `goulette sentinel` that say where the metadata is kept.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{ArgAction, Args, ValueEnum};

#[derive(Args, Debug)]
#[command(next_help_heading = "etcd")]
pub(crate) struct StoreFlags {
    /// Keep the metadata in an etcd inside of the sentinel; -enable-embedded-etcd=false keeps it in -etcd-endpoints or, without these, in the sentinel's own folder
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) enable_embedded_etcd: bool,

    /// External etcd servers for the metadata, host:port or URLs, comma-separated; needs -enable-embedded-etcd=false [default: none]
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub(crate) etcd_endpoints: Vec<EtcdEndpoint>,

    /// User of the external etcd; its password stands in -etcd-password-file [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) etcd_username: Option<String>,

    /// File whose first line is the password of -etcd-username [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_password_file: Option<PathBuf>,

    /// Certificates (PEM) of those who signed the external etcd's; makes the connection TLS [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_cacert: Option<PathBuf>,

    /// Certificate (PEM) to show to the external etcd, with -etcd-key [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_cert: Option<PathBuf>,

    /// Key (PEM) of -etcd-cert [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_key: Option<PathBuf>,

    /// What the names of all our keys begin with: two clusters in one etcd need two prefixes
    #[arg(long, value_name = "PREFIX", default_value = "/goulette")]
    pub(crate) etcd_prefix: KeyPrefix,

    /// Port of the embedded etcd for its clients
    #[arg(long, value_name = "PORT", default_value_t = 2379, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) etcd_port: u16,

    /// Port of the embedded etcd for its peers
    #[arg(long, value_name = "PORT", default_value_t = 2380, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) etcd_peer_port: u16,

    /// Folder of the embedded etcd, made if it is missing
    #[arg(long, value_name = "FOLDER", default_value = "default.etcd")]
    pub(crate) etcd_data_dir: PathBuf,

    /// Host that the embedded etcd listens on; beyond this machine it has no TLS, so keep it in a trusted network
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) etcd_listen_host: Host,

    /// Host that other sentinels reach the embedded etcd by [default: -etcd-listen-host; for every interface, the one of the default route]
    #[arg(long, value_name = "HOST")]
    pub(crate) etcd_advertise_host: Option<Host>,

    /// All first sentinels of one cluster as id=http://host:peer-port, comma-separated, this one among them [default: this one alone]
    #[arg(long, value_name = "ID=URL,..", value_delimiter = ',')]
    pub(crate) etcd_initial_cluster: Vec<Member>,

    /// Whether the sentinels of -etcd-initial-cluster begin a cluster, or this one joins theirs (after goulette sentinel join)
    #[arg(long, value_name = "STATE", default_value = "new")]
    pub(crate) etcd_initial_cluster_state: ClusterState,
}

/// Whether a first start begins a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClusterState {
    /// It begins.
    New,
    /// It exists, and has added this sentinel.
    Existing,
}

/// `host:port`, with or without `http://` or `https://` before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtcdEndpoint {
    /// `host:port`.
    pub(crate) address: String,
    /// Whether it was given as `https://`.
    pub(crate) is_tls: bool,
}

impl FromStr for EtcdEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_tls, address) = match text.split_once("://") {
            None => (false, text),
            Some(("http", address)) => (false, address),
            Some(("https", address)) => (true, address),
            Some((scheme, _)) => return Err(format!("{scheme}:// is neither http:// nor https://")),
        };
        let address: super::HostPort = address.trim_end_matches('/').parse()?;
        Ok(Self { address: address.to_string(), is_tls })
    }
}

/// What the names of keys begin with: `/` and at least one more part, without one at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPrefix(String);

impl KeyPrefix {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
        let is_legal = |rest: &str| rest.split('/').all(|part| !part.is_empty() && part.bytes().all(is_plain));
        match parts {
            Some(rest) if is_legal(rest) && rest.len() < 256 => Ok(Self(format!("/{rest}"))),
            _ => Err(format!("{text:?} is not of the form /goulette or /a/b, of A-Z a-z 0-9 . _ -")),
        }
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A host name or an IP address, without brackets and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host(String);

impl Host {
    /// As it stands in a URL: IPv6 in brackets.
    pub(crate) fn in_url(&self) -> String {
        if self.0.contains(':') { format!("[{}]", self.0) } else { self.0.clone() }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let is_ipv6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        match !host.is_empty() && (is_ipv6 || host.bytes().all(is_plain)) {
            true => Ok(Self(host.to_owned())),
            false => Err(format!("{text:?} is no host name or IP address")),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A sentinel and where its etcd's peers find it, `id=http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: goulette_types::SentinelId,
    /// With its scheme.
    pub(crate) peer_url: String,
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let illegal = || format!("{text:?} is not id=http://host:port, as in sentinel1=http://10.0.0.1:2380");
        let (id, url) = text.trim().split_once('=').ok_or_else(illegal)?;
        let address = url.strip_prefix("http://").ok_or_else(illegal)?.trim_end_matches('/');
        let address: super::HostPort = address.parse().map_err(|_| illegal())?;
        let id = id.parse().map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { id, peer_url: format!("http://{address}") })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.id, self.peer_url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_or_a_url() {
        let parse = |text: &str| text.parse::<EtcdEndpoint>().map(|endpoint| (endpoint.address, endpoint.is_tls));
        assert_eq!(parse("10.0.0.1:2379"), Ok(("10.0.0.1:2379".to_owned(), false)));
        assert_eq!(parse("http://h:1/"), Ok(("h:1".to_owned(), false)));
        assert_eq!(parse("https://h:1"), Ok(("h:1".to_owned(), true)));
        for text in ["", "h", "ftp://h:1", "h:0", "http://user@h:1", "http://"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_never_ends_in_a_slash_and_never_is_all_keys() {
        assert_eq!("/goulette/".parse::<KeyPrefix>().unwrap().as_str(), "/goulette");
        assert_eq!("/a/b".parse::<KeyPrefix>().unwrap().as_str(), "/a/b");
        for text in ["", "/", "//", "goulette", "/a//b", "/a b", "/ä"] {
            assert!(text.parse::<KeyPrefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn hosts_and_members_are_checked_when_they_are_read() {
        assert_eq!("[::1]".parse::<Host>().unwrap().in_url(), "[::1]");
        assert_eq!("node-1.example".parse::<Host>().unwrap().in_url(), "node-1.example");
        for text in ["", "a b", "h:1", "http://h", "a/b"] {
            assert!(text.parse::<Host>().is_err(), "{text:?}");
        }
        assert_eq!("s1=http://h:2380/".parse::<Member>().unwrap().to_string(), "s1=http://h:2380");
        for text in ["s1", "s1=h:1", "s1=https://h:1", "=http://h:1", "a/b=http://h:1", "s1=http://h"] {
            assert!(text.parse::<Member>().is_err(), "{text:?}");
        }
    }
}

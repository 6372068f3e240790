//! Where a sentinel keeps its metadata, as its flags say: three modes, every contradiction named.

use std::path::Path;

use goulette_etcd::Config;
use goulette_sentinel::{EtcdMode, EtcdOptions, StoreTls};

use crate::{
    cli::{ClusterState, Host, ListenAddress, SentinelFlags, StoreFlags},
    exit::Failure,
};

/// Bytes that the embedded etcd's store may have: what etcd takes when nothing is said.
pub(super) const QUOTA_BYTES: u64 = 2 << 30;
/// Between heartbeats of the embedded etcd's leader, in milliseconds: half of etcd's default, for a failover that its users
/// hardly see. Members in one network answer within a fraction of it.
const HEARTBEAT_MS: u32 = 50;
/// Silence after which the embedded etcd's leader is replaced, in milliseconds.
const ELECTION_MS: u32 = 500;

/// Where the metadata is.
pub(super) enum Place {
    /// In the sentinel's own folder: the traditional mode, without etcd.
    Folder,
    /// In an etcd that somebody else runs.
    External(EtcdOptions),
    /// In an etcd that this process runs.
    Embedded(Box<Config>),
}

impl Place {
    /// Reads the flags, and the files that they name.
    ///
    /// # Errors
    /// Every contradiction, in one line; a file that cannot be read.
    pub(super) fn of(flags: &SentinelFlags) -> Result<Self, Failure> {
        let store = &flags.store;
        let mistakes = mistakes(flags);
        if !mistakes.is_empty() {
            return Err(Failure::usage(mistakes.join("; ")));
        }
        match (store.enable_embedded_etcd, store.etcd_endpoints.is_empty()) {
            (true, _) => embedded(flags).map(|config| Self::Embedded(Box::new(config))),
            (false, true) => Ok(Self::Folder),
            (false, false) => external(store).map(Self::External),
        }
    }
}

fn mistakes(flags: &SentinelFlags) -> Vec<String> {
    let store = &flags.store;
    let mut mistakes = Vec::new();
    if store.enable_embedded_etcd && !store.etcd_endpoints.is_empty() {
        mistakes.push(
            "-etcd-endpoints names an external etcd while the embedded one is on: add -enable-embedded-etcd=false, or \
             leave -etcd-endpoints out"
                .to_owned(),
        );
    }
    let of_external = [
        ("-etcd-username", store.etcd_username.is_some()),
        ("-etcd-password-file", store.etcd_password_file.is_some()),
        ("-etcd-cacert", store.etcd_cacert.is_some()),
        ("-etcd-cert", store.etcd_cert.is_some()),
        ("-etcd-key", store.etcd_key.is_some()),
    ];
    if store.etcd_endpoints.is_empty() {
        let given: Vec<_> = of_external.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect();
        if !given.is_empty() {
            mistakes.push(format!("{} is for an external etcd: give -etcd-endpoints, too", given.join(", ")));
        }
    }
    for (one, has_one, other, has_other) in [
        ("-etcd-username", of_external[0].1, "-etcd-password-file", of_external[1].1),
        ("-etcd-cert", of_external[3].1, "-etcd-key", of_external[4].1),
    ] {
        match (has_one, has_other) {
            (true, false) => mistakes.push(format!("{one} needs {other}")),
            (false, true) => mistakes.push(format!("{other} needs {one}")),
            _ => {}
        }
    }
    let tls = store.etcd_endpoints.iter().filter(|endpoint| endpoint.is_tls).count();
    if tls > 0 && tls < store.etcd_endpoints.len() {
        mistakes.push("-etcd-endpoints: either all are https:// or none is".to_owned());
    }
    if !store.enable_embedded_etcd && !store.etcd_initial_cluster.is_empty() {
        mistakes.push(
            "-etcd-initial-cluster is for the embedded etcd, which -enable-embedded-etcd=false switches off".to_owned(),
        );
    }
    if store.enable_embedded_etcd && store.etcd_port == store.etcd_peer_port {
        mistakes.push(format!("-etcd-port and -etcd-peer-port are both {}", store.etcd_port));
    }
    let members = &store.etcd_initial_cluster;
    if !members.is_empty() && !members.iter().any(|member| member.id == flags.id) {
        mistakes.push(format!("-etcd-initial-cluster does not name this sentinel, {}", flags.id));
    }
    if members.is_empty() && store.etcd_initial_cluster_state == ClusterState::Existing {
        mistakes.push("-etcd-initial-cluster-state existing needs -etcd-initial-cluster".to_owned());
    }
    mistakes
}

fn external(store: &StoreFlags) -> Result<EtcdOptions, Failure> {
    let user = match (&store.etcd_username, &store.etcd_password_file) {
        (Some(name), Some(file)) => {
            let text = String::from_utf8(read("-etcd-password-file", file)?)
                .map_err(|_| Failure::usage(format_args!("-etcd-password-file {} is no text", file.display())))?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            if password.is_empty() {
                return Err(Failure::usage(format_args!(
                    "-etcd-password-file {}: its first line is empty",
                    file.display()
                )));
            }
            Some((name.clone(), password))
        }
        _ => None,
    };
    let ca = store.etcd_cacert.as_deref().map(|file| read("-etcd-cacert", file)).transpose()?;
    let cert_and_key = match (&store.etcd_cert, &store.etcd_key) {
        (Some(cert), Some(key)) => Some((read("-etcd-cert", cert)?, read("-etcd-key", key)?)),
        _ => None,
    };
    let is_tls = ca.is_some() || cert_and_key.is_some() || store.etcd_endpoints.iter().any(|endpoint| endpoint.is_tls);
    Ok(EtcdOptions {
        mode: EtcdMode::External,
        endpoints: store.etcd_endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
        prefix: store.etcd_prefix.as_str().to_owned(),
        user,
        tls: is_tls.then_some(StoreTls { ca, cert_and_key }),
        quota_bytes: None,
    })
}

#[allow(clippy::disallowed_methods, reason = "a setting of this process, like its flags")]
fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format_args!("cannot read {flag} {}: {error}", path.display())))
}

/// The embedded etcd's own configuration, by its own flags.
fn embedded(flags: &SentinelFlags) -> Result<Config, Failure> {
    let store = &flags.store;
    let listen = store.etcd_listen_host.in_url();
    let advertise = match &store.etcd_advertise_host {
        Some(host) => host.in_url(),
        None => dialable(&store.etcd_listen_host)?,
    };
    let members = store.etcd_initial_cluster.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    // What others were told is what this member says of itself.
    let own = store.etcd_initial_cluster.iter().find(|member| member.id == flags.id);
    let peer_url =
        own.map_or_else(|| format!("http://{advertise}:{}", store.etcd_peer_port), |member| member.peer_url.clone());
    let state = match store.etcd_initial_cluster_state {
        ClusterState::New => "new",
        ClusterState::Existing => "existing",
    };
    let mut arguments = vec![
        format!("--name={}", flags.id),
        format!("--data-dir={}", store.etcd_data_dir.display()),
        format!("--listen-client-urls=http://{listen}:{}", store.etcd_port),
        format!("--advertise-client-urls=http://{advertise}:{}", store.etcd_port),
        format!("--listen-peer-urls=http://{listen}:{}", store.etcd_peer_port),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster-state={state}"),
        "--initial-cluster-token=goulette".to_owned(),
        format!("--heartbeat-interval={HEARTBEAT_MS}"),
        format!("--election-timeout={ELECTION_MS}"),
        format!("--quota-backend-bytes={QUOTA_BYTES}"),
        // History is of use to watchers that come back within minutes.
        "--auto-compaction-retention=1h".to_owned(),
    ];
    if !members.is_empty() {
        arguments.push(format!("--initial-cluster={members}"));
    }
    // Variables of etcd's are an external one's business.
    Config::parse(&arguments, |_| None, |path| Err(path.to_owned())).map_err(Failure::usage)
}

/// The host that other machines dial, for one that is listened on.
fn dialable(listen: &Host) -> Result<String, Failure> {
    let text = match listen.as_str() {
        "0.0.0.0" | "::" => ":1".to_owned(),
        _ => return Ok(listen.in_url()),
    };
    let address: ListenAddress = text.parse().map_err(Failure::failed)?;
    let dialable = address.dialable();
    Ok(dialable.rsplit_once(':').map_or(dialable.clone(), |(host, _)| host.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::{
        argv,
        cli::{Cli, Command},
    };

    fn place(arguments: &[&str]) -> Result<Place, String> {
        let mut command = Cli::command();
        command.build();
        let line = ["goulette", "sentinel"].iter().chain(arguments).map(std::ffi::OsString::from);
        let matches = Cli::command().get_matches_from(argv::normalise(line, &command));
        let Command::Sentinel(flags) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("no sentinel") };
        Place::of(&flags).map_err(|failure| failure.to_string())
    }

    fn refused(arguments: &[&str]) -> String {
        place(arguments).err().unwrap()
    }

    #[test]
    fn the_flags_choose_one_of_three_modes() {
        assert!(matches!(place(&[]), Ok(Place::Embedded(_))));
        assert!(matches!(place(&["-enable-embedded-etcd=false"]), Ok(Place::Folder)));
        let Ok(Place::External(options)) =
            place(&["-enable-embedded-etcd=false", "-etcd-endpoints", "a:1,http://b:2", "-etcd-prefix", "/q/"])
        else {
            panic!("endpoints mean an external etcd")
        };
        assert_eq!((options.endpoints, options.prefix.as_str()), (vec!["a:1".to_owned(), "b:2".to_owned()], "/q"));
        assert!(options.tls.is_none() && options.user.is_none());
    }

    #[test]
    fn an_embedded_member_is_what_its_flags_say() {
        let cluster = "sentinel1=http://10.0.0.1:2380,sentinel2=http://10.0.0.2:2380";
        let Ok(Place::Embedded(config)) = place(&[
            "-id=sentinel2",
            "-etcd-initial-cluster",
            cluster,
            "-etcd-listen-host",
            "0.0.0.0",
            "-etcd-advertise-host=10.0.0.2",
        ]) else {
            panic!("the embedded etcd is the default")
        };
        assert_eq!(config.name, "sentinel2");
        assert_eq!(config.initial_advertise_peer_urls[0].text, "http://10.0.0.2:2380");
        assert_eq!(config.advertise_client_urls[0].text, "http://10.0.0.2:2379");
        assert_eq!(config.listen_client_urls[0].text, "http://0.0.0.0:2379");
        assert_eq!(config.bootstrap_names().map(|members| members.len()), Some(2));
        assert_eq!(config.heartbeat_interval.as_millis(), 50);
    }

    #[test]
    fn contradictions_are_named_by_their_flags() {
        assert!(refused(&["-etcd-endpoints", "a:1"]).contains("-etcd-endpoints"));
        assert!(refused(&["-etcd-endpoints", "a:1"]).contains("-enable-embedded-etcd=false"));
        assert!(refused(&["-etcd-username", "u"]).contains("-etcd-password-file"));
        let external = ["-enable-embedded-etcd=false", "-etcd-endpoints"];
        let with = |more: &[&str]| refused(&[&external[..], &["https://a:1"], more].concat());
        assert!(with(&["-etcd-cert", "x"]).contains("-etcd-cert needs -etcd-key"));
        assert!(with(&["-etcd-password-file", "x"]).contains("-etcd-username"));
        assert!(with(&["-etcd-cacert", "/no/such/file"]).contains("/no/such/file"));
        assert!(refused(&[&external[..], &["https://a:1,b:2"]].concat()).contains("https://"));
        assert!(refused(&["-etcd-port", "1000", "-etcd-peer-port", "1000"]).contains("1000"));
        assert!(refused(&["-etcd-initial-cluster", "other=http://h:1"]).contains("sentinel1"));
        assert!(refused(&["-etcd-initial-cluster-state", "existing"]).contains("-etcd-initial-cluster"));
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let line =
            ["-enable-embedded-etcd=false", "-etcd-endpoints=a:1", "-etcd-username=u", "-etcd-password-file", path];
        assert!(refused(&line).contains("first line"));
        std::io::Write::write_all(&mut file.as_file(), b"secret\nnote\n").unwrap();
        let Ok(Place::External(options)) = place(&line) else { panic!("a password is given") };
        assert_eq!(options.user, Some(("u".to_owned(), "secret".to_owned())));
    }
}

//! Which member of which cluster this is: as it was at its first start, or as the flags say.

use std::time::Duration;

use goulette_logging::info;
use goulette_proto::etcd::etcdserverpb::{MemberListRequest, cluster_client::ClusterClient};
use redb::Durability;
use tokio_rustls::TlsConnector;

use super::StartError;
use crate::{
    config::{ClusterState, Config},
    consensus::{MemberId, MemberRaft},
    raft::{Bootstrap, cluster_id, member_id},
    state::State,
    store::tables::{self, goulette::IDENTITY},
    tls::connect::{connect_lazy, endpoint},
};

/// How long one member of an existing cluster may take to tell about it.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Which member of which cluster.
pub(super) struct Identity {
    pub(super) cluster: u64,
    pub(super) member: MemberId,
    pub(super) bootstrap: Bootstrap,
}

/// Finds out, and remembers it at the first start.
pub(super) async fn find(config: &Config, state: &State, tls: &TlsConnector) -> Result<Identity, StartError> {
    let stored = state.store.get(tables::GOULETTE, IDENTITY)?;
    if let Some(stored) = stored {
        let numbers = stored.split_at_checked(8).map(|(a, b)| (tables::number(a), tables::number(b)));
        let Some((Some(cluster), Some(member))) = numbers else {
            return Err(StartError::Config("the store's identity cannot be read".to_owned()));
        };
        if state.members.is_removed(member) {
            return Err(StartError::Config("the member has been permanently removed from the cluster".to_owned()));
        }
        // What the first start began goes on, should a crash have cut it short.
        let bootstrap = match config.initial_cluster_state {
            ClusterState::New if config.initial_cluster_matches(cluster) => Bootstrap::New(first_members(config)?),
            _ => Bootstrap::Join,
        };
        info!("member {member:x} of cluster {cluster:x}");
        return Ok(Identity { cluster, member, bootstrap });
    }
    let identity = match config.initial_cluster_state {
        ClusterState::New => {
            let members = first_members(config)?;
            let own = own_id(config)?;
            let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
            Identity { cluster: cluster_id(&ids), member: own, bootstrap: Bootstrap::New(members) }
        }
        ClusterState::Existing => ask(config, tls).await?,
    };
    let bytes = [identity.cluster.to_be_bytes(), identity.member.to_be_bytes()].concat();
    state.store.write(Durability::Immediate, |batch| {
        batch.bucket(tables::GOULETTE)?.insert(IDENTITY, &bytes[..])?;
        Ok(())
    })?;
    info!("member {:x} of cluster {:x} begins", identity.member, identity.cluster);
    Ok(identity)
}

impl Config {
    /// Whether these flags describe the first members of that cluster.
    fn initial_cluster_matches(&self, cluster: u64) -> bool {
        first_members(self).is_ok_and(|members| {
            let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
            cluster_id(&ids) == cluster
        })
    }
}

pub(super) fn named(config: &Config) -> Result<Vec<(String, Vec<String>)>, StartError> {
    config.bootstrap_names().ok_or_else(|| {
        StartError::Config(format!("couldn't find local name {:?} in the initial cluster configuration", config.name))
    })
}

pub(super) fn first_members(config: &Config) -> Result<Vec<MemberRaft>, StartError> {
    let members = named(config)?.into_iter().map(|(_, peer_urls)| MemberRaft {
        id: member_id(&peer_urls, &config.initial_cluster_token, None),
        peer_urls,
        is_learner: false,
    });
    Ok(members.collect())
}

pub(super) fn own_id(config: &Config) -> Result<MemberId, StartError> {
    let named = named(config)?;
    let own = named.iter().find(|(name, _)| *name == config.name).map(|(_, urls)| urls);
    let mut wanted: Vec<&str> = config.initial_advertise_peer_urls.iter().map(|url| url.text.as_str()).collect();
    let mut given: Vec<&str> = own.into_iter().flatten().map(String::as_str).collect();
    wanted.sort_unstable();
    given.sort_unstable();
    if wanted != given {
        return Err(StartError::Config(format!(
            "--initial-cluster has {}={} but missing from --initial-advertise-peer-urls={}",
            config.name,
            given.join(","),
            wanted.join(",")
        )));
    }
    let urls: Vec<String> = given.iter().map(ToString::to_string).collect();
    Ok(member_id(&urls, &config.initial_cluster_token, None))
}

/// Asks the members of an existing cluster which id they have given to our peer URLs.
async fn ask(config: &Config, tls: &TlsConnector) -> Result<Identity, StartError> {
    let own: Vec<&str> = config.initial_advertise_peer_urls.iter().map(|url| url.text.as_str()).collect();
    let mut why = "no other member is named in --initial-cluster".to_owned();
    for (name, url) in &config.initial_cluster {
        if *name == config.name {
            continue;
        }
        let asked = tokio::time::timeout(ASK_TIMEOUT, async {
            let endpoint = endpoint(url).ok_or_else(|| "not a URL".to_owned())?;
            let channel = connect_lazy(&endpoint, url, Some(tls));
            let request = MemberListRequest { linearizable: false };
            let answer = ClusterClient::new(channel).member_list(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
        });
        let answer = match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                why = format!("{url}: {error}");
                continue;
            }
            Err(_) => {
                why = format!("{url} does not answer");
                continue;
            }
        };
        let cluster = answer.header.map_or(0, |header| header.cluster_id);
        let is_own = |urls: &[String]| urls.iter().any(|url| own.contains(&url.as_str()));
        return match answer.members.iter().find(|member| is_own(&member.peer_ur_ls)) {
            Some(member) => Ok(Identity { cluster, member: member.id, bootstrap: Bootstrap::Join }),
            None => Err(StartError::Config(format!(
                "error validating peerURLs: the cluster has no member with the peer URLs {}: add it first",
                own.join(",")
            ))),
        };
    }
    Err(StartError::Config(format!("cannot fetch cluster info from peer urls: {why}")))
}

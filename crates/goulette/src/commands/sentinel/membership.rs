//! `goulette sentinel join` and `leave`: who belongs to the cluster of the embedded etcds.

use std::{net::IpAddr, time::Duration};

use goulette_etcd::EtcdError;
use goulette_logging::{Chain, info};
use goulette_proto::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    cluster_client::ClusterClient,
};
use goulette_types::SentinelId;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    cli::{ClusterMember, JoinFlags, LeaveFlags, MembersFlags, MembershipCommand},
    exit::Failure,
    output::{Output, print, print_json},
};

const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to count for majorities.
const PROMOTE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a change waits for members that have just come (back), and how long until it is tried again.
const HEALTH_DEADLINE: Duration = Duration::from_secs(10);
const HEALTH_PAUSE: Duration = Duration::from_millis(500);
/// Where a sentinel listens unless it is told otherwise.
const SENTINEL_PORT: u16 = 50052;

pub(super) async fn run(command: MembershipCommand) -> Result<(), Failure> {
    match command {
        MembershipCommand::Join(flags) => join(&flags).await,
        MembershipCommand::Leave(flags) => leave(&flags).await,
    }
}

/// As a learner first: a member that never starts then takes no majority away.
async fn join(flags: &JoinFlags) -> Result<(), Failure> {
    let joining: ClusterMember = format!("{}={}", flags.id, flags.peer_url).parse().map_err(Failure::usage)?;
    let (mut cluster, members) = connect(&flags.cluster).await?;
    if let Some(known) = members.iter().find(|member| member.name == flags.id.as_str()) {
        return Err(Failure::failed(format_args!(
            "{} is a member already, at {}",
            flags.id,
            known.peer_ur_ls.join(",")
        )));
    }
    // They have a name once they have started.
    let announced = members.iter().filter(|member| member.name.is_empty()).flat_map(|member| &member.peer_ur_ls);
    match announced.collect::<Vec<_>>()[..] {
        [] => {
            let request = MemberAddRequest { peer_ur_ls: vec![joining.peer_url.clone()], is_learner: true };
            patiently(async || cluster.member_add(timed(request.clone())).await).await?;
        }
        // An earlier attempt, whose answer may have been lost.
        [url] if *url == joining.peer_url => {}
        [url, ..] => {
            return Err(Failure::failed(format_args!(
                "{url} was announced and has not started: start it, or take it back with\n  goulette sentinel leave -peer-url {url}"
            )));
        }
    }
    let others = members.iter().filter(|member| !member.name.is_empty());
    let mut all: Vec<_> =
        others.flat_map(|member| member.peer_ur_ls.iter().map(|url| format!("{}={url}", member.name))).collect();
    all.push(joining.to_string());
    let start = format!(
        "goulette sentinel -id {} {} -etcd-initial-cluster {} -etcd-initial-cluster-state existing",
        flags.id,
        reachable_at(&joining.peer_url),
        all.join(",")
    );
    match flags.cluster.output {
        Output::Text => print(&format!("{} may join. Start it with\n  {start}\n", flags.id)),
        Output::Json => print_json(&json!({ "id": flags.id.as_str(), "initial_cluster": all, "start": start })),
    }
}

/// The flags with which a sentinel can be reached where its peer URL says that it will be. On this machine alone, where the usual
/// address may be another sentinel's, only the port.
fn reachable_at(peer_url: &str) -> String {
    let address = peer_url.rsplit_once("://").map_or(peer_url, |(_, address)| address);
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "2380"));
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let listen = match ip {
        Ok(ip) if ip.is_loopback() => String::new(),
        Err(_) if host == "localhost" => String::new(),
        Ok(ip) => format!("-address {host}:{SENTINEL_PORT} -etcd-listen-host {ip} "),
        // A name may stand for an address that this machine does not have.
        Err(_) => format!(
            "-address :{SENTINEL_PORT} -advertise {host}:{SENTINEL_PORT} -etcd-listen-host 0.0.0.0 -etcd-advertise-host {host} "
        ),
    };
    format!("{listen}-etcd-peer-port {port}")
}

async fn leave(flags: &LeaveFlags) -> Result<(), Failure> {
    let (mut cluster, members) = connect(&flags.cluster).await?;
    let is_meant = |member: &&Member| match (&flags.who.id, &flags.who.peer_url) {
        (Some(id), _) => member.name == id.as_str(),
        (None, Some(url)) => member.peer_ur_ls.iter().any(|known| known == url.trim_end_matches('/')),
        (None, None) => false,
    };
    let Some(member) = members.iter().find(is_meant) else {
        let known: Vec<_> = members.iter().map(shown).collect();
        let who = flags.who.id.as_ref().map(SentinelId::as_str).or(flags.who.peer_url.as_deref()).unwrap_or_default();
        return Err(Failure::failed(format_args!("{who} is no member: members are {}", known.join(", "))));
    };
    if members.len() == 1 {
        return Err(Failure::failed(format_args!(
            "{} is the only member: without it there is no metadata. Stop it instead",
            shown(member)
        )));
    }
    patiently(async || cluster.member_remove(timed(MemberRemoveRequest { id: member.id })).await).await?;
    match flags.cluster.output {
        Output::Text => print(&format!(
            "{} has left: its process ends by itself, and its etcd's folder can be removed\n",
            shown(member)
        )),
        Output::Json => print_json(&json!({ "id": member.name, "member": format!("{:x}", member.id) })),
    }
}

/// A member as people know it.
fn shown(member: &Member) -> String {
    let urls = member.peer_ur_ls.join(",");
    match member.name.as_str() {
        "" => format!("{urls} (never started: -peer-url)"),
        name => format!("{name} ({urls})"),
    }
}

/// Counts for majorities as soon as it has caught up: asks every member until the leader agrees.
pub(super) async fn promote(own: Channel) {
    loop {
        match ask_for_promotion(&own).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(status) => info!("not a voting member of the embedded etcd's cluster yet: {}", status.message()),
        }
        sleep(PROMOTE_INTERVAL).await;
    }
}

/// Whether there is nothing to ask for (any more).
async fn ask_for_promotion(own: &Channel) -> Result<bool, Status> {
    let list = timed(MemberListRequest { linearizable: false });
    let answer = ClusterClient::new(own.clone()).member_list(list).await?.into_inner();
    let id = answer.header.map_or(0, |header| header.member_id);
    let Some(learner) = answer.members.iter().find(|member| member.id == id) else { return Ok(false) };
    if !learner.is_learner {
        return Ok(true);
    }
    let mut refusal = None;
    for url in answer.members.iter().filter(|member| !member.is_learner).flat_map(|member| &member.client_ur_ls) {
        let Ok(endpoint) = Endpoint::from_shared(url.clone()) else { continue };
        let channel = endpoint.connect_timeout(CALL_DEADLINE).connect_lazy();
        match ClusterClient::new(channel).member_promote(timed(MemberPromoteRequest { id })).await {
            Ok(_) => {
                info!("this sentinel's etcd is a voting member of its cluster now");
                return Ok(true);
            }
            Err(status) => refusal = Some(status),
        }
    }
    refusal.map_or(Ok(false), Err)
}

/// The first endpoint that answers, and the members.
async fn connect(flags: &MembersFlags) -> Result<(ClusterClient<Channel>, Vec<Member>), Failure> {
    let mut last = Failure::usage("-etcd-endpoints names no endpoint");
    for address in &flags.etcd_endpoints {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(Failure::usage)?;
        let channel = match endpoint.connect_timeout(CALL_DEADLINE).connect().await {
            Ok(channel) => channel,
            Err(error) => {
                last = Failure::failed(format_args!("no etcd answers at {address}: {}", Chain(&error)));
                continue;
            }
        };
        let mut cluster = ClusterClient::new(channel);
        match cluster.member_list(timed(MemberListRequest { linearizable: true })).await {
            Ok(answer) => return Ok((cluster, answer.into_inner().members)),
            Err(status) => last = refused(status),
        }
    }
    Err(last)
}

/// Changes the members. etcd wants enough of them to have been there for five seconds; who comes a little early waits.
async fn patiently<T>(mut change: impl AsyncFnMut() -> Result<T, Status>) -> Result<(), Failure> {
    let deadline = Instant::now() + HEALTH_DEADLINE;
    loop {
        match change().await {
            Ok(_) => return Ok(()),
            Err(status) if status.message() != EtcdError::Unhealthy.to_string() => return Err(refused(status)),
            Err(_) if Instant::now() < deadline => sleep(HEALTH_PAUSE).await,
            Err(status) => {
                return Err(Failure::failed(format_args!(
                    "{}: too many members are away; start them, or take those that are lost out first (goulette sentinel leave)",
                    status.message()
                )));
            }
        }
    }
}

fn refused(status: Status) -> Failure {
    Failure::failed(status.message())
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_is_told_how_to_be_reached() {
        let cases = [
            ("http://127.0.0.1:2480", "-etcd-peer-port 2480"),
            ("http://localhost:2480", "-etcd-peer-port 2480"),
            ("http://[::1]:2480", "-etcd-peer-port 2480"),
            ("http://10.0.0.4:2380", "-address 10.0.0.4:50052 -etcd-listen-host 10.0.0.4 -etcd-peer-port 2380"),
            ("http://[fd00::4]:2380", "-address [fd00::4]:50052 -etcd-listen-host fd00::4 -etcd-peer-port 2380"),
            (
                "http://node4:2380",
                "-address :50052 -advertise node4:50052 -etcd-listen-host 0.0.0.0 -etcd-advertise-host node4 -etcd-peer-port 2380",
            ),
        ];
        for (url, flags) in cases {
            assert_eq!(reachable_at(url), flags, "{url}");
        }
    }
}

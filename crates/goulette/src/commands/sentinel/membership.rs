//! `goulette sentinel join` and `leave`: who belongs to the cluster of the embedded etcds.

use std::time::Duration;

use goulette_logging::{Chain, info};
use goulette_proto::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    cluster_client::ClusterClient,
};
use serde_json::json;
use tokio::time::sleep;
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
    let is_announced = members.iter().any(|member| member.peer_ur_ls.contains(&joining.peer_url));
    if !is_announced {
        let request = MemberAddRequest { peer_ur_ls: vec![joining.peer_url.clone()], is_learner: true };
        cluster.member_add(timed(request)).await.map_err(refused)?;
    }
    let others = members.iter().filter(|member| !member.name.is_empty());
    let mut all: Vec<_> =
        others.flat_map(|member| member.peer_ur_ls.iter().map(|url| format!("{}={url}", member.name))).collect();
    all.push(joining.to_string());
    let port = joining.peer_url.rsplit(':').next().unwrap_or_default();
    let start = format!(
        "goulette sentinel -id {} -etcd-peer-port {port} -etcd-initial-cluster {} -etcd-initial-cluster-state existing",
        flags.id,
        all.join(",")
    );
    match flags.cluster.output {
        Output::Text => print(&format!("{} may join. Start it with\n  {start}\n", flags.id)),
        Output::Json => print_json(&json!({ "id": flags.id.as_str(), "initial_cluster": all, "start": start })),
    }
}

async fn leave(flags: &LeaveFlags) -> Result<(), Failure> {
    let (mut cluster, members) = connect(&flags.cluster).await?;
    let Some(member) = members.iter().find(|member| member.name == flags.id.as_str()) else {
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        return Err(Failure::failed(format_args!("{} is no member: members are {}", flags.id, names.join(", "))));
    };
    if members.len() == 1 {
        return Err(Failure::failed(format_args!(
            "{} is the only member: without it there is no metadata. Stop it instead",
            flags.id
        )));
    }
    cluster.member_remove(timed(MemberRemoveRequest { id: member.id })).await.map_err(refused)?;
    match flags.cluster.output {
        Output::Text => {
            print(&format!("{} has left: its process ends by itself, and its etcd's folder can be removed\n", flags.id))
        }
        Output::Json => print_json(&json!({ "id": flags.id.as_str(), "member": format!("{:x}", member.id) })),
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

fn refused(status: Status) -> Failure {
    Failure::failed(status.message())
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

//! `goulette etcd status`, `get`, `put`, `del`, `member`, `snapshot` and `restore`: for machines without etcdctl.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use clap::Parser;
use goulette_env::{Disk, DiskFile, OpenMode, RealDisk};
use goulette_etcd::{Config, server, snapshot};
use goulette_logging::Chain;
use goulette_proto::etcd::etcdserverpb::{
    AuthenticateRequest, DeleteRangeRequest, MemberListRequest, PutRequest, RangeRequest, SnapshotRequest,
    StatusRequest, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};
use serde_json::{Value, json};
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{
    cli::{ConnectFlags, DelFlags, EtcdTool, GetFlags, MemberTool, PutFlags, RestoreFlags, SnapshotTool, ToolCommand},
    exit::Failure,
    output::Output,
};

/// A call is answered in this time, or not at all; a snapshot may take longer, message by message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one message: a range may be large.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Whether the words behind `goulette etcd` name a command; otherwise they are a server's flags.
pub(crate) fn is_tool(args: &[String]) -> bool {
    let names = ["status", "get", "put", "del", "member", "snapshot", "restore"];
    args.first().is_some_and(|first| names.contains(&first.as_str()))
}

pub(crate) async fn run(args: &[String]) -> Result<(), Failure> {
    let words = std::iter::once("goulette etcd").chain(args.iter().map(String::as_str));
    let tool = match EtcdTool::try_parse_from(words) {
        Ok(tool) => tool,
        Err(error) if error.use_stderr() => return Err(Failure::usage(error)),
        Err(help) => {
            print!("{help}");
            return Ok(());
        }
    };
    match tool.command {
        ToolCommand::Status(flags) => status(&flags).await,
        ToolCommand::Get(flags) => get(&flags).await,
        ToolCommand::Put(flags) => put(&flags).await,
        ToolCommand::Del(flags) => del(&flags).await,
        ToolCommand::Member(MemberTool::List(flags)) => member_list(&flags).await,
        ToolCommand::Snapshot(SnapshotTool::Save { file, connect }) => snapshot_save(&file, &connect).await,
        ToolCommand::Snapshot(SnapshotTool::Status { file, output }) => snapshot_status(&file, output),
        ToolCommand::Restore(flags) => restore(&flags),
    }
}

/// A connection to one endpoint, with the token of a login.
struct Server {
    channel: Channel,
    token: Option<AsciiMetadataValue>,
}

impl Server {
    /// Connects to the first endpoint that answers.
    async fn any(flags: &ConnectFlags) -> Result<Self, Failure> {
        let mut last = Failure::usage("--endpoints names no endpoint");
        for endpoint in &flags.endpoints {
            match Self::at(endpoint, flags).await {
                Ok(server) => return Ok(server),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn at(endpoint: &str, flags: &ConnectFlags) -> Result<Self, Failure> {
        let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let place = Endpoint::from_shared(url).map_err(|error| Failure::usage(format!("{endpoint}: {error}")))?;
        let place = place.connect_timeout(TIMEOUT);
        let channel =
            place.connect().await.map_err(|error| Failure::failed(format!("{endpoint}: {}", Chain(&error))))?;
        let mut server = Self { channel, token: None };
        if let Some(user) = &flags.user {
            let (name, password) =
                user.split_once(':').ok_or_else(|| Failure::usage("--user is of the form name:password"))?;
            let login = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let answer = AuthClient::new(server.channel.clone()).authenticate(server.request(login)).await;
            let token = answer.map_err(refused)?.into_inner().token;
            server.token = Some(token.parse().map_err(|_| Failure::failed("the server's token is no text"))?);
        }
        Ok(server)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(TIMEOUT);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn refused(status: Status) -> Failure {
    Failure::failed(status.message())
}

fn print(output: Output, value: &Value, text: impl FnOnce() -> String) {
    match output {
        Output::Json => println!("{value}"),
        Output::Text => print!("{}", text()),
    }
}

async fn status(flags: &ConnectFlags) -> Result<(), Failure> {
    let mut all = Vec::new();
    for endpoint in &flags.endpoints {
        let server = Server::at(endpoint, flags).await?;
        let answer = MaintenanceClient::new(server.channel.clone()).status(server.request(StatusRequest {})).await;
        let status = answer.map_err(refused)?.into_inner();
        let member = status.header.map_or(0, |header| header.member_id);
        all.push(json!({
            "endpoint": endpoint, "member": format!("{member:x}"), "version": status.version,
            "isLeader": status.leader == member, "isLearner": status.is_learner, "leader": format!("{:x}", status.leader),
            "raftTerm": status.raft_term, "raftIndex": status.raft_index, "raftAppliedIndex": status.raft_applied_index,
            "dbSize": status.db_size, "dbSizeInUse": status.db_size_in_use, "errors": status.errors,
        }));
    }
    let lines = || {
        let line = |status: &Value| {
            let text = |name: &str| status[name].to_string().trim_matches('"').to_owned();
            let role = match (&status["isLeader"], &status["isLearner"]) {
                (Value::Bool(true), _) => "leader",
                (_, Value::Bool(true)) => "learner",
                _ => "follower",
            };
            format!(
                "{}: {role}, member {}, version {}, term {}, index {} (applied {}), {} bytes ({} in use), errors {}\n",
                text("endpoint"),
                text("member"),
                text("version"),
                text("raftTerm"),
                text("raftIndex"),
                text("raftAppliedIndex"),
                text("dbSize"),
                text("dbSizeInUse"),
                text("errors"),
            )
        };
        all.iter().map(line).collect()
    };
    let value = Value::Array(all.clone());
    print(flags.output, &value, lines);
    Ok(())
}

/// The end of the range of all keys that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

async fn get(flags: &GetFlags) -> Result<(), Failure> {
    let server = Server::any(&flags.connect).await?;
    let key = Bytes::from(flags.key.clone());
    let range_end = if flags.prefix { prefix_end(&key) } else { Bytes::new() };
    let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
    let range = RangeRequest { key, range_end, revision: flags.rev, limit: flags.limit, ..RangeRequest::default() };
    let answer = server.kv().range(server.request(range)).await.map_err(refused)?.into_inner();
    match flags.connect.output {
        // Bytes as they are: a value need not be text.
        Output::Text => {
            let mut out = std::io::stdout().lock();
            for kv in &answer.kvs {
                let lines = [&kv.key[..], b"\n", &kv.value[..], b"\n"].concat();
                out.write_all(&lines).map_err(Failure::failed)?;
            }
        }
        Output::Json => {
            let kvs: Vec<Value> = answer
                .kvs
                .iter()
                .map(|kv| {
                    json!({
                        "key": String::from_utf8_lossy(&kv.key), "value": String::from_utf8_lossy(&kv.value),
                        "createRevision": kv.create_revision, "modRevision": kv.mod_revision, "version": kv.version,
                        "lease": kv.lease,
                    })
                })
                .collect();
            let revision = answer.header.map_or(0, |header| header.revision);
            println!("{}", json!({ "revision": revision, "count": answer.count, "kvs": kvs }));
        }
    }
    Ok(())
}

async fn put(flags: &PutFlags) -> Result<(), Failure> {
    let server = Server::any(&flags.connect).await?;
    let put = PutRequest {
        key: flags.key.clone().into(),
        value: flags.value.clone().into(),
        lease: flags.lease,
        ..PutRequest::default()
    };
    let answer = server.kv().put(server.request(put)).await.map_err(refused)?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    print(flags.connect.output, &json!({ "revision": revision }), || "OK\n".to_owned());
    Ok(())
}

async fn del(flags: &DelFlags) -> Result<(), Failure> {
    let server = Server::any(&flags.connect).await?;
    let key = Bytes::from(flags.key.clone());
    let range_end = if flags.prefix { prefix_end(&key) } else { Bytes::new() };
    let delete = DeleteRangeRequest { key, range_end, prev_kv: false };
    let answer = server.kv().delete_range(server.request(delete)).await.map_err(refused)?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    let value = json!({ "revision": revision, "deleted": answer.deleted });
    print(flags.connect.output, &value, || format!("{}\n", answer.deleted));
    Ok(())
}

async fn member_list(flags: &ConnectFlags) -> Result<(), Failure> {
    let server = Server::any(flags).await?;
    let request = server.request(MemberListRequest { linearizable: true });
    let answer = ClusterClient::new(server.channel.clone()).member_list(request).await.map_err(refused)?.into_inner();
    let members: Vec<Value> = answer
        .members
        .iter()
        .map(|member| {
            json!({
                "id": format!("{:x}", member.id), "name": member.name, "peerURLs": member.peer_ur_ls,
                "clientURLs": member.client_ur_ls, "isLearner": member.is_learner,
            })
        })
        .collect();
    let lines = || {
        let line = |member: &goulette_proto::etcd::etcdserverpb::Member| {
            let started = if member.name.is_empty() { "unstarted" } else { "started" };
            let (peers, clients) = (member.peer_ur_ls.join(","), member.client_ur_ls.join(","));
            format!("{:x}, {started}, {}, {peers}, {clients}, {}\n", member.id, member.name, member.is_learner)
        };
        answer.members.iter().map(line).collect()
    };
    print(flags.output, &Value::Array(members), lines);
    Ok(())
}

async fn snapshot_save(path: &std::path::Path, flags: &ConnectFlags) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let server = Server::any(flags).await?;
    let mut request = Request::new(SnapshotRequest {});
    *request.metadata_mut() = server.request(()).metadata().clone();
    request.metadata_mut().remove("grpc-timeout");
    let mut blobs = MaintenanceClient::new(server.channel).snapshot(request).await.map_err(refused)?.into_inner();
    // Whole or not at all under its name.
    let part = path.with_extension("part");
    if RealDisk.exists(&part).map_err(failed)? {
        RealDisk.remove_file(&part).map_err(failed)?;
    }
    let file = RealDisk.open(&part, OpenMode::CreateNew).map_err(failed)?;
    let mut bytes = 0;
    while let Some(message) = blobs.message().await.map_err(refused)? {
        file.write_all_at(&message.blob, bytes).map_err(failed)?;
        bytes += message.blob.len() as u64;
    }
    file.sync_data().map_err(failed)?;
    if let Err(error) = snapshot::check_sum(&*file) {
        RealDisk.remove_file(&part).map_err(failed)?;
        return Err(Failure::failed(format!("what arrived is no whole snapshot: {error}")));
    }
    RealDisk.rename(&part, path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    RealDisk.sync_dir(folder.unwrap_or_else(|| std::path::Path::new("."))).map_err(failed)?;
    let value = json!({ "file": path, "bytes": bytes });
    print(flags.output, &value, || format!("{} holds the snapshot: {bytes} bytes\n", path.display()));
    Ok(())
}

fn snapshot_status(path: &std::path::Path, output: Output) -> Result<(), Failure> {
    let file = open(path)?;
    let status = snapshot::status(&*file).map_err(|error| Failure::failed(Chain(&error)))?;
    let value = serde_json::to_value(&status).map_err(Failure::failed)?;
    print(output, &value, || {
        let snapshot::SnapshotStatus { hash, revision, total_key, total_size, version } = &status;
        format!("hash {hash:x}, revision {revision}, {total_key} keys, {total_size} bytes, version {version}\n")
    });
    Ok(())
}

fn open(path: &std::path::Path) -> Result<Box<dyn DiskFile>, Failure> {
    RealDisk.open(path, OpenMode::Read).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn restore(flags: &RestoreFlags) -> Result<(), Failure> {
    if flags.mark_compacted != flags.bump_revision.is_some() {
        return Err(Failure::usage("--mark-compacted required if --bump-revision > 0, and the other way round"));
    }
    let mut given = vec![
        format!("--name={}", flags.name),
        format!("--initial-cluster-token={}", flags.initial_cluster_token),
        format!("--initial-advertise-peer-urls={}", flags.initial_advertise_peer_urls),
    ];
    given.extend(flags.initial_cluster.iter().map(|cluster| format!("--initial-cluster={cluster}")));
    given.extend(flags.data_dir.iter().map(|dir| format!("--data-dir={}", dir.display())));
    // Variables are the server's business.
    let config = Config::parse(&given, |_| None, |path| Err(path.to_owned())).map_err(Failure::usage)?;
    let file = open(&flags.snapshot)?;
    let restored = server::restore(&RealDisk, &*file, &config, flags.skip_hash_check, flags.bump_revision)
        .map_err(|error| Failure::failed(Chain(&error)))?;
    let (dir, revision) = (config.data_dir.display().to_string(), restored.revision);
    print(flags.output, &json!({ "dataDir": dir, "revision": revision }), || {
        format!("{dir} holds the member {}, at revision {revision}\n", flags.name)
    });
    Ok(())
}

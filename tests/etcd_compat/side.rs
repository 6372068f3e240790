//! One of the two servers that are compared: carries a step out and tells the answer as text, without what must differ
//! (ids, terms, sizes, addresses, tokens, clocks).

use std::{fmt::Debug, future::Future, time::Duration};

use anyhow::Result;
use tokio::time::timeout;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    op::{Call, Op, USERS, brief},
    pb::{authpb, etcdserverpb as pb},
    server::Server,
    watch::WatchStream,
};

/// No answer within this is an answer too, and a wrong one.
const DEADLINE: Duration = Duration::from_secs(15);
/// Streams 0 and 1 watch from the past or the present, 2 also from the future, 3 has a user's token.
pub(crate) const STREAMS: usize = 4;
pub(crate) const STREAM_OF_FUTURE: usize = 2;
pub(crate) const STREAM_OF_USER: usize = 3;

pub(crate) struct Clients {
    kv: pb::kv_client::KvClient<Channel>,
    pub(crate) watch: pb::watch_client::WatchClient<Channel>,
    lease: pb::lease_client::LeaseClient<Channel>,
    cluster: pb::cluster_client::ClusterClient<Channel>,
    maintenance: pb::maintenance_client::MaintenanceClient<Channel>,
    auth: pb::auth_client::AuthClient<Channel>,
}

pub(crate) struct Side {
    pub(crate) server: Server,
    clients: Clients,
    pub(crate) channel: Channel,
    pub(crate) tokens: [Option<String>; USERS.len()],
    streams: Vec<WatchStream>,
    /// The highest revision that any header told.
    pub(crate) revision: i64,
}

pub(crate) fn mask(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

/// Awaits a call; the answer's header is masked and followed, the rest goes through `$more`.
macro_rules! ask {
    ($side:ident, $user:expr, $client:ident . $method:ident ( $request:expr )) => {
        ask!($side, $user, $client.$method($request), |_answer| {})
    };
    ($side:ident, $user:expr, $client:ident . $method:ident ( $request:expr ), |$answer:ident| $more:block) => {{
        let request = $side.request($user, $request);
        let answer = call($side.clients.$client.$method(request)).await;
        match answer {
            Ok(mut $answer) => {
                $side.revision = $side.revision.max($answer.header.as_ref().map_or(0, |header| header.revision));
                mask(&mut $answer.header);
                $more
                brief(&format!("{:?}", $answer))
            }
            Err(text) => text,
        }
    }};
}

pub(crate) async fn call<T: Debug>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
    match timeout(DEADLINE, call).await {
        Err(_) => Err("Error: no answer in time".into()),
        Ok(Err(status)) => Err(format!("Error: {:?}: {}", status.code(), status.message())),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

impl Side {
    pub(crate) async fn new(server: Server) -> Result<Self> {
        let channel = Channel::from_shared(format!("http://127.0.0.1:{}", server.client_port))?.connect().await?;
        let clients = Clients {
            kv: pb::kv_client::KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: pb::watch_client::WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: pb::lease_client::LeaseClient::new(channel.clone()),
            cluster: pb::cluster_client::ClusterClient::new(channel.clone()),
            maintenance: pb::maintenance_client::MaintenanceClient::new(channel.clone()),
            auth: pb::auth_client::AuthClient::new(channel.clone()),
        };
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(WatchStream::open(&clients, None).await);
        }
        Ok(Self { server, clients, channel, tokens: Default::default(), streams, revision: 1 })
    }

    fn request<T>(&self, user: Option<usize>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = user.and_then(|user| self.tokens[user].as_deref()) {
            request.metadata_mut().insert("token", token.parse().expect("tokens are ASCII"));
        }
        request
    }

    pub(crate) fn stream(&self, stream: usize) -> &WatchStream {
        &self.streams[stream]
    }

    /// Carries the step out. An answer that begins with `Error` is one.
    pub(crate) async fn execute(&mut self, op: &Op) -> String {
        let user = op.user;
        match op.call.clone() {
            Call::Range(request) => ask!(self, user, kv.range(request)),
            Call::Put(request) => ask!(self, user, kv.put(request)),
            Call::Delete(request) => ask!(self, user, kv.delete_range(request)),
            Call::Txn(request) => ask!(self, user, kv.txn(request)),
            Call::Compact(request) => ask!(self, user, kv.compact(request)),
            Call::LeaseGrant(request) => {
                let random = request.id == 0;
                ask!(self, user, lease.lease_grant(request), |answer| {
                    if random {
                        answer.id = i64::from(answer.id > 0);
                    }
                })
            }
            Call::LeaseRevoke(id) => ask!(self, user, lease.lease_revoke(pb::LeaseRevokeRequest { id })),
            Call::LeaseKeepAlive(id) => self.keep_alive(user, id).await,
            Call::LeaseTimeToLive(id, keys) => self.time_to_live(user, id, keys).await,
            Call::Leases => ask!(self, user, lease.lease_leases(pb::LeaseLeasesRequest {}), |answer| {
                // By expiry, which depends on the clock; ids that the servers chose differ.
                answer.leases.iter_mut().for_each(|lease| lease.id = lease.id.min(1 << 32));
                answer.leases.sort_by_key(|lease| lease.id);
            }),
            Call::LeaseExpire(id) => self.lease_expire(user, id).await,
            Call::LockStory(name, expires) => {
                let told = self.teller(user).lock_story(name, expires).await;
                self.look(user).await;
                told
            }
            Call::ElectionStory(name) => {
                let told = self.teller(user).election_story(name).await;
                self.look(user).await;
                told
            }
            Call::WatchOpen(stream) => {
                self.streams[stream] =
                    WatchStream::open(&self.clients, user.and_then(|user| self.tokens[user].as_deref())).await;
                String::new()
            }
            Call::WatchCreate(stream, request) => self.streams[stream].create(request).await,
            Call::WatchCancel(stream, id) => {
                self.streams[stream].cancel(id).await;
                String::new()
            }
            Call::WatchCheck => String::new(),
            Call::HashKv(revision) => ask!(self, user, maintenance.hash_kv(pb::HashKvRequest { revision })),
            Call::Hash => {
                ask!(self, user, maintenance.hash(pb::HashRequest {}), |answer| {
                    answer.hash = u32::from(answer.hash != 0);
                })
            }
            Call::Status => ask!(self, user, maintenance.status(pb::StatusRequest {}), |answer| {
                answer.leader = u64::from(answer.leader != 0);
                answer.raft_index = u64::from(answer.raft_index != 0);
                answer.raft_applied_index = u64::from(answer.raft_applied_index != 0);
                answer.raft_term = u64::from(answer.raft_term != 0);
                answer.db_size = i64::from(answer.db_size > 0);
                answer.db_size_in_use = i64::from(answer.db_size_in_use > 0);
                // A real etcd raises it within its first five seconds.
                answer.storage_version = answer.storage_version.replace("3.5.0", "3.6.0");
            }),
            Call::Alarm(request) => ask!(self, user, maintenance.alarm(request)),
            Call::Defragment => ask!(self, user, maintenance.defragment(pb::DefragmentRequest {})),
            Call::MoveLeader(target_id) => {
                ask!(self, user, maintenance.move_leader(pb::MoveLeaderRequest { target_id }))
            }
            Call::Downgrade(request) => ask!(self, user, maintenance.downgrade(request)),
            Call::MemberList(linearizable) => {
                ask!(self, user, cluster.member_list(pb::MemberListRequest { linearizable }), |answer| {
                    answer.members.iter_mut().for_each(mask_member);
                })
            }
            Call::MemberAdd(peer_ur_ls) => {
                let request = pb::MemberAddRequest { peer_ur_ls, ..Default::default() };
                ask!(self, user, cluster.member_add(request), |answer| {
                    answer.member.iter_mut().chain(&mut answer.members).for_each(mask_member);
                })
            }
            Call::MemberRemove(id) => {
                ask!(self, user, cluster.member_remove(pb::MemberRemoveRequest { id }), |answer| {
                    answer.members.iter_mut().for_each(mask_member);
                })
            }
            Call::MemberUpdate(id, peer_ur_ls) => {
                ask!(self, user, cluster.member_update(pb::MemberUpdateRequest { id, peer_ur_ls }), |answer| {
                    answer.members.iter_mut().for_each(mask_member);
                })
            }
            Call::MemberPromote(id) => {
                ask!(self, user, cluster.member_promote(pb::MemberPromoteRequest { id }), |answer| {
                    answer.members.iter_mut().for_each(mask_member);
                })
            }
            _ => self.execute_auth(op).await,
        }
    }

    async fn execute_auth(&mut self, op: &Op) -> String {
        let user = op.user;
        match op.call.clone() {
            Call::AuthEnable => ask!(self, user, auth.auth_enable(pb::AuthEnableRequest {})),
            Call::AuthDisable => ask!(self, user, auth.auth_disable(pb::AuthDisableRequest {})),
            Call::AuthStatus => ask!(self, user, auth.auth_status(pb::AuthStatusRequest {})),
            Call::Authenticate(slot, password) => {
                let request = pb::AuthenticateRequest { name: USERS[slot].into(), password };
                ask!(self, user, auth.authenticate(request), |answer| {
                    self.tokens[slot] = Some(std::mem::take(&mut answer.token));
                })
            }
            Call::UserAdd(request) => ask!(self, user, auth.user_add(request)),
            Call::UserGet(name) => ask!(self, user, auth.user_get(pb::AuthUserGetRequest { name })),
            Call::UserList => ask!(self, user, auth.user_list(pb::AuthUserListRequest {})),
            Call::UserDelete(name) => ask!(self, user, auth.user_delete(pb::AuthUserDeleteRequest { name })),
            Call::UserChangePassword(name, password) => {
                let request = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
                ask!(self, user, auth.user_change_password(request))
            }
            Call::UserGrantRole(user_name, role) => {
                ask!(self, user, auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: user_name, role }))
            }
            Call::UserRevokeRole(name, role) => {
                ask!(self, user, auth.user_revoke_role(pb::AuthUserRevokeRoleRequest { name, role }))
            }
            Call::RoleAdd(name) => ask!(self, user, auth.role_add(pb::AuthRoleAddRequest { name })),
            Call::RoleGet(role) => ask!(self, user, auth.role_get(pb::AuthRoleGetRequest { role })),
            Call::RoleList => ask!(self, user, auth.role_list(pb::AuthRoleListRequest {})),
            Call::RoleDelete(role) => ask!(self, user, auth.role_delete(pb::AuthRoleDeleteRequest { role })),
            Call::RoleGrantPermission(name, kind, key, range_end) => {
                let perm = authpb::Permission { perm_type: kind.into(), key: key.into(), range_end: range_end.into() };
                let request = pb::AuthRoleGrantPermissionRequest { name, perm: Some(perm) };
                ask!(self, user, auth.role_grant_permission(request))
            }
            Call::RoleRevokePermission(role, key, range_end) => {
                let request =
                    pb::AuthRoleRevokePermissionRequest { role, key: key.into(), range_end: range_end.into() };
                ask!(self, user, auth.role_revoke_permission(request))
            }
            other => unreachable!("{other:?} is not of the auth service"),
        }
    }

    async fn keep_alive(&mut self, user: Option<usize>, id: i64) -> String {
        let request = self.request(user, tokio_stream::once(pb::LeaseKeepAliveRequest { id }));
        let answer = async {
            let mut stream = self.clients.lease.lease_keep_alive(request).await?.into_inner();
            let first = stream.message().await?;
            Ok(Response::new(first))
        };
        match call(answer).await {
            Ok(mut first) => {
                if let Some(first) = &mut first {
                    mask(&mut first.header);
                }
                brief(&format!("{first:?}"))
            }
            Err(text) => text,
        }
    }

    async fn time_to_live(&mut self, user: Option<usize>, id: i64, keys: bool) -> String {
        ask!(self, user, lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys }), |answer| {
            // What is left depends on the moment; it never exceeds what was granted.
            assert!(answer.ttl <= answer.granted_ttl.max(0), "{answer:?}");
            answer.ttl = answer.ttl.min(1);
            answer.keys.sort();
        })
    }

    /// Learns the current revision.
    async fn look(&mut self, user: Option<usize>) {
        ask!(self, user, kv.range(pb::RangeRequest { key: "c".into(), ..Default::default() }));
    }

    async fn lease_expire(&mut self, user: Option<usize>, id: i64) -> String {
        let granted = ask!(self, user, lease.lease_grant(pb::LeaseGrantRequest { ttl: 101 - id, id }));
        if granted.starts_with("Error") {
            return granted;
        }
        let request = pb::PutRequest { key: "c".into(), value: "brief".into(), lease: id, ..Default::default() };
        let put = ask!(self, user, kv.put(request));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        loop {
            let left =
                ask!(self, user, lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: false }), |answer| {
                    answer.header = None;
                });
            if left.contains("ttl: -1") || left.starts_with("Error") || tokio::time::Instant::now() > deadline {
                // The answer above may have come between two steps of the revocation; a read waits for its end.
                let after = ask!(self, user, kv.range(pb::RangeRequest { key: "c".into(), ..Default::default() }));
                return format!("{granted}\n{put}\n{after}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn mask_member(member: &mut pb::Member) {
    member.id = u64::from(member.id != 0);
    member.peer_ur_ls.iter_mut().for_each(mask_port);
    member.client_ur_ls.iter_mut().for_each(mask_port);
}

fn mask_port(url: &mut String) {
    if let Some(colon) = url.rfind(':') {
        url.replace_range(colon.., ":port");
    }
}

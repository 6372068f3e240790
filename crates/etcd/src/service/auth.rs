//! `etcdserverpb.Auth`: logging in, users and roles.

use std::sync::Arc;

use goulette_proto::etcd::etcdserverpb::{self as pb, InternalRaftRequest, auth_server};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{admit, kv::unexpected};
use crate::{
    EtcdError,
    auth::{AuthReply, COST_DEFAULT, COSTS, Caller, Permission, hash, is_password},
    node::Node,
    state,
};

/// Passwords that are hashed at the same time: each takes a core for tens of milliseconds.
const HASHES_MAX: usize = 2;
/// Random letters of a token.
const TOKEN_LETTERS: usize = 16;
/// etcd has no code for this refusal, and shows its internal text.
const NO_PASSWORD_USER: &str = "auth: authentication failed, password was given for no password user";

/// Likewise.
const VERIFY_ONLY: &str = "auth: token signing attempted with verify-only key";

pub(crate) struct AuthService {
    node: Arc<Node>,
    hashing: Semaphore,
}

impl AuthService {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, hashing: Semaphore::new(HASHES_MAX) }
    }

    /// Has an entry about users and roles agreed, in the name of who asks.
    async fn agree(&self, metadata: &MetadataMap, request: InternalRaftRequest) -> Result<AuthReply, Status> {
        admit(&self.node, metadata)?;
        let asker = self.node.asker(metadata).await?;
        self.agree_as(&asker, request).await
    }

    async fn agree_as(&self, asker: &Caller, request: InternalRaftRequest) -> Result<AuthReply, Status> {
        match self.node.request(asker, request).await? {
            state::Response::Auth(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Has a change agreed that answers nothing.
    async fn done<T>(
        &self,
        request: Request<T>,
        wrap: impl FnOnce(T) -> InternalRaftRequest + Send,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let (metadata, _, message) = request.into_parts();
        match self.agree(&metadata, wrap(message)).await? {
            AuthReply::Done => Ok(self.header()),
            other => Err(wrong(&other)),
        }
    }

    /// A password as it is stored.
    async fn hash(&self, password: String) -> Result<String, Status> {
        let random = &self.node.state.env.random;
        let salt = random.next_id().to_be_bytes();
        let wanted = self.node.config.bcrypt_cost;
        let cost = if COSTS.contains(&wanted) { wanted } else { COST_DEFAULT };
        let hashed = self.hashing(move || hash(&password, cost, salt)).await?;
        hashed.map_err(|error| Status::unknown(error.to_string()))
    }

    /// Runs one of the few computations that take long.
    async fn hashing<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let _place = self.hashing.acquire().await.expect("never closed");
        spawn_blocking(work).await.map_err(|_| EtcdError::Stopped.into())
    }

    /// A signed token.
    async fn sign(&self, user: String, revision: u64) -> Result<String, Status> {
        let now_ms = self.node.state.env.clock.wall_ms();
        let jwt = self.node.state.auth.jwt().cloned();
        let signed = self.hashing(move || jwt.and_then(|jwt| jwt.sign(now_ms, &user, revision))).await?;
        signed.ok_or_else(|| Status::unknown(VERIFY_ONLY))
    }

    /// The random part of a token.
    fn token_prefix(&self) -> String {
        const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let letter = |_| {
            // Of 64 bits, 52 letters: the bias is far below anything that could be measured.
            let place = self.node.state.env.random.next_u64() % LETTERS.len() as u64;
            char::from(LETTERS[place as usize])
        };
        (0..TOKEN_LETTERS).map(letter).collect()
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        self.node.header(None)
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn wrong(reply: &AuthReply) -> Status {
    Status::internal(format!("an entry answered for another one: {reply:?}"))
}

#[tonic::async_trait]
impl auth_server::Auth for AuthService {
    async fn auth_enable(&self, request: Request<pb::AuthEnableRequest>) -> Answer<pb::AuthEnableResponse> {
        let wrap = |message| InternalRaftRequest { auth_enable: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(&self, request: Request<pb::AuthDisableRequest>) -> Answer<pb::AuthDisableResponse> {
        let wrap = |message| InternalRaftRequest { auth_disable: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn user_delete(&self, request: Request<pb::AuthUserDeleteRequest>) -> Answer<pb::AuthUserDeleteResponse> {
        let wrap = |message| InternalRaftRequest { auth_user_delete: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Answer<pb::AuthUserGrantRoleResponse> {
        let wrap =
            |message| InternalRaftRequest { auth_user_grant_role: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Answer<pb::AuthUserRevokeRoleResponse> {
        let wrap =
            |message| InternalRaftRequest { auth_user_revoke_role: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(&self, request: Request<pb::AuthRoleAddRequest>) -> Answer<pb::AuthRoleAddResponse> {
        let wrap = |message| InternalRaftRequest { auth_role_add: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_delete(&self, request: Request<pb::AuthRoleDeleteRequest>) -> Answer<pb::AuthRoleDeleteResponse> {
        let wrap = |message| InternalRaftRequest { auth_role_delete: Some(message), ..InternalRaftRequest::default() };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Answer<pb::AuthRoleGrantPermissionResponse> {
        let wrap = |message| InternalRaftRequest {
            auth_role_grant_permission: Some(message),
            ..InternalRaftRequest::default()
        };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Answer<pb::AuthRoleRevokePermissionResponse> {
        let wrap = |message| InternalRaftRequest {
            auth_role_revoke_permission: Some(message),
            ..InternalRaftRequest::default()
        };
        let header = self.done(request, wrap).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }

    async fn auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Answer<pb::AuthStatusResponse> {
        let (metadata, _, message) = request.into_parts();
        let request = InternalRaftRequest { auth_status: Some(message), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Status { enabled, revision } => {
                let header = self.header();
                Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision: revision }))
            }
            other => Err(wrong(&other)),
        }
    }

    async fn authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Answer<pb::AuthenticateResponse> {
        admit(&self.node, request.metadata())?;
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        self.node.read_barrier().await?;
        loop {
            let (stored, revision) = self.node.state.auth.state().password(&name)?;
            let stored = stored.ok_or_else(|| Status::unknown(NO_PASSWORD_USER))?;
            let given = password.clone();
            if !self.hashing(move || is_password(&given, &stored)).await? {
                return Err(EtcdError::AuthFailed.into());
            }
            let login = pb::InternalAuthenticateRequest {
                name: name.clone(),
                password: String::new(),
                simple_token: self.token_prefix(),
            };
            let request = InternalRaftRequest { authenticate: Some(login), ..InternalRaftRequest::default() };
            match self.agree_as(&Caller::default(), request).await? {
                // Users changed since the password was compared, perhaps that very password: again.
                AuthReply::Token(_) if self.node.state.auth.state().revision() != revision => {}
                AuthReply::LoggedIn(at) if at != revision => {}
                AuthReply::Token(token) => {
                    return Ok(Response::new(pb::AuthenticateResponse { header: self.header(), token }));
                }
                AuthReply::LoggedIn(_) => {
                    let token = self.sign(name, revision).await?;
                    return Ok(Response::new(pb::AuthenticateResponse { header: self.header(), token }));
                }
                other => return Err(wrong(&other)),
            }
        }
    }

    async fn user_add(&self, request: Request<pb::AuthUserAddRequest>) -> Answer<pb::AuthUserAddResponse> {
        let (metadata, _, mut add) = request.into_parts();
        let password = std::mem::take(&mut add.password);
        let no_password = add.options.as_ref().is_some_and(|options| options.no_password);
        add.hashed_password = if no_password { String::new() } else { self.hash(password).await? };
        let request = InternalRaftRequest { auth_user_add: Some(add), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Done => Ok(Response::new(pb::AuthUserAddResponse { header: self.header() })),
            other => Err(wrong(&other)),
        }
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Answer<pb::AuthUserChangePasswordResponse> {
        let (metadata, _, mut change) = request.into_parts();
        let password = std::mem::take(&mut change.password);
        // An empty password is nobody's: nothing hashes to it.
        change.hashed_password = if password.is_empty() { String::new() } else { self.hash(password).await? };
        let request = InternalRaftRequest { auth_user_change_password: Some(change), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Done => Ok(Response::new(pb::AuthUserChangePasswordResponse { header: self.header() })),
            other => Err(wrong(&other)),
        }
    }

    async fn user_get(&self, request: Request<pb::AuthUserGetRequest>) -> Answer<pb::AuthUserGetResponse> {
        let (metadata, _, message) = request.into_parts();
        let request = InternalRaftRequest { auth_user_get: Some(message), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Names(roles) => Ok(Response::new(pb::AuthUserGetResponse { header: self.header(), roles })),
            other => Err(wrong(&other)),
        }
    }

    async fn user_list(&self, request: Request<pb::AuthUserListRequest>) -> Answer<pb::AuthUserListResponse> {
        let (metadata, _, message) = request.into_parts();
        let request = InternalRaftRequest { auth_user_list: Some(message), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Names(users) => Ok(Response::new(pb::AuthUserListResponse { header: self.header(), users })),
            other => Err(wrong(&other)),
        }
    }

    async fn role_get(&self, request: Request<pb::AuthRoleGetRequest>) -> Answer<pb::AuthRoleGetResponse> {
        let (metadata, _, message) = request.into_parts();
        let request = InternalRaftRequest { auth_role_get: Some(message), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Permissions(permissions) => {
                let perm = permissions.iter().map(Permission::to_message).collect();
                Ok(Response::new(pb::AuthRoleGetResponse { header: self.header(), perm }))
            }
            other => Err(wrong(&other)),
        }
    }

    async fn role_list(&self, request: Request<pb::AuthRoleListRequest>) -> Answer<pb::AuthRoleListResponse> {
        let (metadata, _, message) = request.into_parts();
        let request = InternalRaftRequest { auth_role_list: Some(message), ..InternalRaftRequest::default() };
        match self.agree(&metadata, request).await? {
            AuthReply::Names(roles) => Ok(Response::new(pb::AuthRoleListResponse { header: self.header(), roles })),
            other => Err(wrong(&other)),
        }
    }
}

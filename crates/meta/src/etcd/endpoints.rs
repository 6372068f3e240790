//! The members of an etcd cluster as one counterpart: which is asked, as whom, and what an error means.

use std::{
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use goulette_proto::etcd::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};
use tonic::{
    Code, ConnectError, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::EtcdOptions;
use crate::store::MetaError;

/// How often a member is asked whether the connection still stands, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// All members; clones share connections and token.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    shared: Arc<Shared>,
}

struct Shared {
    members: Vec<Member>,
    /// The member that answered last.
    preferred: AtomicUsize,
    user: Option<(String, String)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    request_timeout: Duration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.members.iter().map(|member| &member.address)).finish()
    }
}

struct Member {
    address: String,
    channel: Channel,
}

/// What one try of a request has to carry.
#[derive(Clone)]
pub(super) struct Attempt {
    token: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

impl Attempt {
    /// The request with token and deadline. Members without a leader are to say so rather than to wait.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing was done: another member may do it.
    Elsewhere,
    /// Nothing was done: the token is of yesterday.
    LogIn,
    /// Nobody knows whether it was done; a read may go elsewhere.
    Unknown,
    /// Nothing was done, and nothing will be.
    Refused,
}

impl Endpoints {
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, MetaError> {
        let member = |address: &String| {
            let illegal = |error: tonic::transport::Error| {
                MetaError::Unavailable(format!("{address:?} is no address of an etcd: {error}").into())
            };
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(illegal)?;
            if let Some(tls) = &options.tls {
                let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
                if let Some((certificate, key)) = &tls.identity {
                    config = config.identity(Identity::from_pem(certificate, key));
                }
                let unusable = |error: tonic::transport::Error| MetaError::Denied(error.into());
                endpoint = endpoint.tls_config(config).map_err(unusable)?;
            }
            let endpoint = endpoint
                .connect_timeout(options.request_timeout)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true);
            Ok(Member { address: address.clone(), channel: endpoint.connect_lazy() })
        };
        let members = options.endpoints.iter().map(member).collect::<Result<Vec<_>, MetaError>>()?;
        if members.is_empty() {
            return Err(MetaError::Unavailable("no etcd endpoint is given".into()));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                members,
                preferred: AtomicUsize::new(0),
                user: options.user.clone(),
                token: Mutex::default(),
                request_timeout: options.request_timeout,
            }),
        })
    }

    /// Asks the members in turn until one answers.
    pub(super) async fn read<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl Fn(Channel, Attempt) -> F,
    ) -> Result<Response<T>, MetaError> {
        self.ask(&call, true, Some(self.shared.request_timeout)).await
    }

    /// As [`read`](Self::read), but goes on to the next member only where the last one has surely done nothing.
    pub(super) async fn write<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl Fn(Channel, Attempt) -> F,
    ) -> Result<Response<T>, MetaError> {
        self.ask(&call, false, Some(self.shared.request_timeout)).await
    }

    /// As [`read`](Self::read), for a stream: without an end.
    pub(super) async fn open<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl Fn(Channel, Attempt) -> F,
    ) -> Result<Response<T>, MetaError> {
        self.ask(&call, true, None).await
    }

    /// The next request begins with another member: this one's stream has ended.
    pub(super) fn prefer_another(&self) {
        self.shared.preferred.fetch_add(1, Ordering::Relaxed);
    }

    async fn ask<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: &impl Fn(Channel, Attempt) -> F,
        repeatable: bool,
        timeout: Option<Duration>,
    ) -> Result<Response<T>, MetaError> {
        let members = self.shared.members.len();
        let preferred = self.shared.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..members {
            let number = preferred.wrapping_add(turn) % members;
            let member = &self.shared.members[number];
            let mut logged_in = false;
            loop {
                let attempt = Attempt { token: self.token(member).await?, timeout };
                let error = match call(member.channel.clone(), attempt).await {
                    Ok(answer) => {
                        self.shared.preferred.store(number, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(error) => error,
                };
                match judge(&error) {
                    Verdict::LogIn if !logged_in && self.shared.user.is_some() => {
                        logged_in = true;
                        self.forget_token();
                        continue;
                    }
                    Verdict::LogIn => return Err(MetaError::Denied(error.into())),
                    Verdict::Refused => return Err(refused(error)),
                    Verdict::Unknown if !repeatable => return Err(MetaError::OutcomeUnknown(error.into())),
                    Verdict::Elsewhere | Verdict::Unknown => last = Some((&member.address, error)),
                }
                break;
            }
        }
        let (address, error) = last.expect("there is a member, and it did not answer");
        let reason = format!("of {members} etcd endpoints none answers; {address} says: {}", describe(&error));
        Err(MetaError::Unavailable(reason.into()))
    }

    /// The token to show; fetched when there is a user and none yet.
    async fn token(&self, member: &Member) -> Result<Option<MetadataValue<Ascii>>, MetaError> {
        let Some((name, password)) = &self.shared.user else { return Ok(None) };
        if let Some(token) = self.shared.token.lock().expect("nobody panics while holding it").clone() {
            return Ok(Some(token));
        }
        let mut request = Request::new(AuthenticateRequest { name: name.clone(), password: password.clone() });
        request.set_timeout(self.shared.request_timeout);
        match AuthClient::new(member.channel.clone()).authenticate(request).await {
            Ok(answer) => {
                let token = answer.into_inner().token.parse().ok();
                *self.shared.token.lock().expect("nobody panics while holding it") = token.clone();
                Ok(token)
            }
            // An etcd without users: the name does no harm.
            Err(error) if error.message().contains("authentication is not enabled") => Ok(None),
            Err(error) if judge(&error) == Verdict::Refused => Err(MetaError::Denied(error.into())),
            // The request itself will find out.
            Err(_) => Ok(None),
        }
    }

    fn forget_token(&self) {
        *self.shared.token.lock().expect("nobody panics while holding it") = None;
    }
}

/// Texts are etcd's own (`rpctypes`); its clients tell errors by them too.
fn judge(error: &Status) -> Verdict {
    let never_sent = std::iter::successors(error.source(), |&cause| cause.source())
        .any(|cause| cause.downcast_ref::<ConnectError>().is_some());
    match error.code() {
        _ if never_sent => Verdict::Elsewhere,
        Code::Unauthenticated => Verdict::LogIn,
        Code::InvalidArgument if error.message().contains("revision of auth store is old") => Verdict::LogIn,
        Code::InvalidArgument if error.message().contains("user name is empty") => Verdict::LogIn,
        // Said before the request is handed to raft.
        Code::ResourceExhausted if error.message().contains("too many requests") => Verdict::Elsewhere,
        Code::Unavailable if error.message().contains("etcdserver: no leader") => Verdict::Elsewhere,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Verdict::Unknown,
        _ => Verdict::Refused,
    }
}

fn refused(error: Status) -> MetaError {
    match error.code() {
        Code::PermissionDenied => MetaError::Denied(error.into()),
        Code::ResourceExhausted if error.message().contains("space exceeded") => MetaError::Full(error.into()),
        _ => MetaError::Storage(error.into()),
    }
}

/// The message, and behind it what the connection said.
fn describe(error: &Status) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string);
    let mut texts: Vec<_> = std::iter::once(error.message().to_owned()).chain(causes).collect();
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_repeated_only_where_nothing_was_done() {
        let verdict = |code, text: &str| judge(&Status::new(code, text));
        assert_eq!(verdict(Code::Unavailable, "etcdserver: no leader"), Verdict::Elsewhere);
        assert_eq!(verdict(Code::ResourceExhausted, "etcdserver: too many requests"), Verdict::Elsewhere);
        assert_eq!(verdict(Code::Unavailable, "etcdserver: leader changed"), Verdict::Unknown);
        assert_eq!(verdict(Code::Unavailable, "etcdserver: request timed out"), Verdict::Unknown);
        assert_eq!(verdict(Code::Unavailable, "error reading server preface"), Verdict::Unknown);
        assert_eq!(verdict(Code::DeadlineExceeded, "Timeout expired"), Verdict::Unknown);
        assert_eq!(verdict(Code::Unauthenticated, "etcdserver: invalid auth token"), Verdict::LogIn);
        assert_eq!(verdict(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Verdict::Refused);
        assert_eq!(verdict(Code::PermissionDenied, "etcdserver: permission denied"), Verdict::Refused);
        let unsent = Status::from_error(Box::new(ConnectError("refused".into())));
        assert_eq!(judge(&unsent), Verdict::Elsewhere);
    }
}

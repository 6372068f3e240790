//! Locks and elections by the servers' own services: whole stories, because a caller who waits for another one is what
//! they are for. Each is one step of a run; it tells all that was answered.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};
use tonic::{Request, transport::Channel};

use crate::{
    op::brief,
    pb::{
        etcdserverpb as pb,
        v3electionpb::{self as election, election_client::ElectionClient},
        v3lockpb::{self as lock, lock_client::LockClient},
    },
    side::{Side, call, mask},
};

const FIRST: i64 = 200;
const SECOND: i64 = 201;
/// A lease that nobody grants.
const UNKNOWN: i64 = 4242;
/// How long a waiting caller may take to get in line.
const IN_LINE: Duration = Duration::from_secs(5);

/// Awaits a call and masks the answer's header.
macro_rules! ask {
    ($call:expr) => {
        call($call).await.map(|mut answer| {
            mask(&mut answer.header);
            answer
        })
    };
}

pub(crate) struct Teller {
    channel: Channel,
    token: Option<String>,
    lines: Vec<String>,
}

fn text<T: std::fmt::Debug>(answer: &Result<T, String>) -> String {
    match answer {
        Ok(answer) => brief(&format!("{answer:?}")),
        Err(error) => error.clone(),
    }
}

fn request<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("tokens are ASCII"));
    }
    request
}

impl Teller {
    pub(crate) fn new(channel: Channel, token: Option<String>) -> Self {
        Self { channel, token, lines: Vec::new() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        request(self.token.as_deref(), message)
    }

    fn tell<T: std::fmt::Debug>(&mut self, what: &str, answer: &Result<T, String>) {
        self.lines.push(format!("{what}: {}", text(answer)));
    }

    async fn grant(&mut self, id: i64) {
        let request = self.request(pb::LeaseGrantRequest { ttl: 1000, id });
        let granted = ask!(pb::lease_client::LeaseClient::new(self.channel.clone()).lease_grant(request));
        self.tell("grant", &granted);
    }

    async fn revoke(&mut self, id: i64) {
        let request = self.request(pb::LeaseRevokeRequest { id });
        let revoked = ask!(pb::lease_client::LeaseClient::new(self.channel.clone()).lease_revoke(request));
        self.tell("revoke", &revoked);
    }

    async fn lock(&mut self, name: &str, lease: i64) -> Result<lock::LockResponse, String> {
        let request = self.request(lock::LockRequest { name: name.to_owned().into(), lease });
        let locked = ask!(LockClient::new(self.channel.clone()).lock(request));
        self.tell("lock", &locked);
        locked
    }

    async fn unlock(&mut self, key: bytes::Bytes) {
        let request = self.request(lock::UnlockRequest { key });
        let unlocked = ask!(LockClient::new(self.channel.clone()).unlock(request));
        self.tell("unlock", &unlocked);
    }

    /// Returns when a caller's key is there, or the caller has its answer.
    async fn wait_in_line<T>(&self, name: &str, lease: i64, caller: &JoinHandle<T>) {
        let deadline = Instant::now() + IN_LINE;
        let key = format!("{name}/{lease:x}");
        while !caller.is_finished() && Instant::now() < deadline {
            let range = pb::RangeRequest { key: key.clone().into(), count_only: true, ..Default::default() };
            let found = call(pb::kv_client::KvClient::new(self.channel.clone()).range(self.request(range))).await;
            match found {
                Ok(found) if found.count == 0 => tokio::time::sleep(Duration::from_millis(2)).await,
                _ => return,
            }
        }
    }

    /// One holds the lock, another waits for it; `expires`: the other's lease ends while it waits.
    pub(crate) async fn lock_story(mut self, name: &str, expires: bool) -> String {
        self.grant(FIRST).await;
        self.grant(SECOND).await;
        let held = self.lock(name, FIRST).await;
        // Who holds it gets it again.
        let _ = self.lock(name, FIRST).await;
        let _ = self.lock(name, UNKNOWN).await;
        let (mut client, token) = (LockClient::new(self.channel.clone()), self.token.clone());
        let wanted = lock::LockRequest { name: name.to_owned().into(), lease: SECOND };
        let waiting = tokio::spawn(async move { ask!(client.lock(request(token.as_deref(), wanted))) });
        self.wait_in_line(name, SECOND, &waiting).await;
        if expires {
            self.revoke(SECOND).await;
        }
        if let Ok(held) = held {
            self.unlock(held.key.clone()).await;
            // Nothing is there any more, and that is no error.
            self.unlock(held.key).await;
        }
        let second = waiting.await.unwrap();
        self.tell("second", &second);
        if let Ok(second) = second {
            self.unlock(second.key).await;
        }
        self.unlock(bytes::Bytes::new()).await;
        self.revoke(FIRST).await;
        self.revoke(SECOND).await;
        self.lines.join("\n")
    }

    async fn campaign(&mut self, name: &str, lease: i64, value: &str) -> Result<election::CampaignResponse, String> {
        let value = value.to_owned().into();
        let request = self.request(election::CampaignRequest { name: name.to_owned().into(), lease, value });
        let won = ask!(ElectionClient::new(self.channel.clone()).campaign(request));
        self.tell("campaign", &won);
        won
    }

    async fn leader(&mut self, name: &str) {
        let request = self.request(election::LeaderRequest { name: name.to_owned().into() });
        let leader = ask!(ElectionClient::new(self.channel.clone()).leader(request));
        self.tell("leader", &leader);
    }

    async fn proclaim(&mut self, leader: Option<election::LeaderKey>, value: &str) {
        let request = self.request(election::ProclaimRequest { leader, value: value.to_owned().into() });
        let proclaimed = ask!(ElectionClient::new(self.channel.clone()).proclaim(request));
        self.tell("proclaim", &proclaimed);
    }

    async fn resign(&mut self, leader: Option<election::LeaderKey>) {
        let request = self.request(election::ResignRequest { leader });
        let resigned = ask!(ElectionClient::new(self.channel.clone()).resign(request));
        self.tell("resign", &resigned);
    }

    /// The first that an observer is told.
    async fn observe(&mut self, name: &str) {
        let request = self.request(election::LeaderRequest { name: name.to_owned().into() });
        let mut client = ElectionClient::new(self.channel.clone());
        let first = async {
            let mut stream = client.observe(request).await?.into_inner();
            let first = stream.message().await?;
            first.map(tonic::Response::new).ok_or_else(|| tonic::Status::unknown("the stream ended"))
        };
        let first = ask!(first);
        self.tell("observe", &first);
    }

    /// One leads, another waits for its turn.
    pub(crate) async fn election_story(mut self, name: &str) -> String {
        self.leader(name).await;
        self.grant(FIRST).await;
        self.grant(SECOND).await;
        let first = self.campaign(name, FIRST, "one").await;
        let _ = self.campaign(name, UNKNOWN, "nobody").await;
        self.leader(name).await;
        let leader = first.ok().and_then(|won| won.leader);
        if leader.is_some() {
            self.observe(name).await;
        }
        self.proclaim(leader.clone(), "two").await;
        self.leader(name).await;
        // Who leads and campaigns with another value proclaims it.
        let _ = self.campaign(name, FIRST, "three").await;
        self.leader(name).await;
        let (mut client, token) = (ElectionClient::new(self.channel.clone()), self.token.clone());
        let wanted = election::CampaignRequest { name: name.to_owned().into(), lease: SECOND, value: "second".into() };
        let waiting = tokio::spawn(async move { ask!(client.campaign(request(token.as_deref(), wanted))) });
        self.wait_in_line(name, SECOND, &waiting).await;
        self.resign(leader.clone()).await;
        let second = waiting.await.unwrap();
        self.tell("second", &second);
        self.leader(name).await;
        self.proclaim(leader.clone(), "late").await;
        self.resign(leader).await;
        self.resign(None).await;
        self.proclaim(None, "nobody").await;
        if let Some(leader) = second.ok().and_then(|won| won.leader) {
            self.resign(Some(leader)).await;
        }
        self.leader(name).await;
        self.revoke(FIRST).await;
        self.revoke(SECOND).await;
        self.lines.join("\n")
    }
}

impl Side {
    /// Somebody who tells a story in the name of a user.
    pub(crate) fn teller(&self, user: Option<usize>) -> Teller {
        Teller::new(self.channel.clone(), user.and_then(|user| self.tokens[user].clone()))
    }
}

//! Changes that come to a sentinel which does not lead: it passes them on to the one that does.

use std::{collections::BTreeMap, error::Error, sync::Mutex, sync::PoisonError, time::Duration};

use goulette_proto::{pb::sentinel_client::SentinelClient, status::kind_of};
use goulette_types::ErrorKind;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    ConnectError, Request, Response, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::Context;
use crate::{RequestError, state::Leader};

/// How long a change waits for a sentinel that leads.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long connecting to it may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Between two looks for it.
const PAUSE: Duration = Duration::from_millis(50);
/// Marks what has been passed on: nobody passes it on again.
const FORWARDED: &str = "goulette-forwarded";
/// Addresses whose connections are kept.
const KEPT_MAX: usize = 16;

/// Connections to the sentinels that have led.
#[derive(Default)]
pub(crate) struct Leaders(Mutex<BTreeMap<String, Channel>>);

impl Leaders {
    /// A connection, made when it is first used; `None` for what is no address.
    fn get(&self, address: &str) -> Option<Channel> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = kept.get(address) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint.connect_timeout(CONNECT_DEADLINE).tcp_nodelay(true).connect_lazy();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(address.to_owned(), channel.clone());
        Some(channel)
    }
}

/// As [`lead_by_channel`], for the service of brokers and clients.
pub(super) async fn lead<Q, A, H, T, FH, FT>(
    context: &Context,
    request: Request<Q>,
    here: H,
    there: T,
) -> Result<Response<A>, Status>
where
    Q: Clone,
    H: Fn(Q) -> FH,
    FH: Future<Output = Result<A, RequestError>>,
    T: Fn(SentinelClient<Channel>, Request<Q>) -> FT,
    FT: Future<Output = Result<Response<A>, Status>>,
{
    let there = |channel, request| there(SentinelClient::new(channel), request);
    lead_by_channel(context, request, here, there).await
}

/// The sentinel that leads, if that is another one and this request has not been passed on already.
pub(super) fn other_leader<Q>(context: &Context, request: &Request<Q>) -> Option<Channel> {
    match context.state.leader() {
        Leader::There(address) if !request.metadata().contains_key(FORWARDED) => context.leaders.get(&address),
        _ => None,
    }
}

/// A request as it is passed on.
pub(super) fn passed_on<Q>(message: Q, deadline: Duration) -> Request<Q> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request.set_timeout(deadline);
    request
}

/// Carries a change out `here` if this sentinel leads, or `there`; waits a while if nobody does at the moment.
pub(super) async fn lead_by_channel<Q, A, H, T, FH, FT>(
    context: &Context,
    request: Request<Q>,
    here: H,
    there: T,
) -> Result<Response<A>, Status>
where
    Q: Clone,
    H: Fn(Q) -> FH,
    FH: Future<Output = Result<A, RequestError>>,
    T: Fn(Channel, Request<Q>) -> FT,
    FT: Future<Output = Result<Response<A>, Status>>,
{
    let forwarded = request.metadata().contains_key(FORWARDED);
    let message = request.into_inner();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let last = match context.state.leader() {
            Leader::Here => match here(message.clone()).await {
                Err(error @ RequestError::NotLeader { .. }) => Status::from(error),
                answer => return answer.map(Response::new).map_err(Status::from),
            },
            Leader::There(address) if !forwarded => {
                let Some(channel) = context.leaders.get(&address) else {
                    return Err(context.state.not_leader().into());
                };
                let request = passed_on(message.clone(), deadline.saturating_duration_since(Instant::now()));
                match timeout_at(deadline, there(channel, request)).await {
                    Ok(Err(status)) if was_not_done(&status) => status,
                    Ok(answer) => return answer,
                    Err(_elapsed) => return Err(RequestError::Late.into()),
                }
            }
            Leader::There(_) | Leader::Nobody => context.state.not_leader().into(),
        };
        if forwarded || Instant::now() + PAUSE >= deadline {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// Whether the one that was asked has surely done nothing, and another one may be asked.
fn was_not_done(status: &Status) -> bool {
    let never_sent = std::iter::successors(status.source(), |&cause| cause.source())
        .any(|cause| cause.downcast_ref::<ConnectError>().is_some());
    never_sent || kind_of(status) == ErrorKind::NotLeader
}

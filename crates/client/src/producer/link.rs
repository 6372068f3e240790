//! The stream to one broker: carries batches there and answers back, and ends when it breaks.

use std::time::Duration;

use goulette_proto::pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Client, ClientError, client::call_error, connection};

/// What a link tells the sender. The last one is always `Down`.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The broker has granted so much.
    Up(pb::Grant),
    /// Answers to requests.
    Answers(Vec<pb::ProduceAck>),
    /// It is over, or never came up.
    Down(String),
}

/// Dials `address`, sends what comes out of `requests`, and reports by `tell` until the stream breaks.
pub(crate) async fn run<F>(
    client: Client,
    address: String,
    requests: mpsc::Receiver<pb::ProduceRequest>,
    tell: impl Fn(LinkEvent) -> F,
) where
    F: Future<Output = ()>,
{
    let reason = match serve(&client, &address, requests, &tell).await {
        Ok(never) => match never {},
        Err(reason) => reason,
    };
    tell(LinkEvent::Down(reason)).await;
}

async fn serve<F>(
    client: &Client,
    address: &str,
    requests: mpsc::Receiver<pb::ProduceRequest>,
    tell: &impl Fn(LinkEvent) -> F,
) -> Result<std::convert::Infallible, String>
where
    F: Future<Output = ()>,
{
    let deadline: Duration = client.options().connect_timeout + client.options().rpc_timeout;
    let opening = async {
        // A channel of its own for each attempt: a stream that broke leaves no half-dead connection behind.
        let channel = connection::data(address, client.options()).map_err(|error| error.to_string())?;
        let stream = connection::broker(channel).produce(ReceiverStream::new(requests)).await;
        let mut answers = stream.map_err(|status| failure(address, &status))?.into_inner();
        let first = answers.message().await.map_err(|status| failure(address, &status))?;
        let first = first.ok_or_else(|| format!("the broker at {address} ended the stream"))?;
        let grant = first.grant.ok_or_else(|| format!("the broker at {address} granted nothing"))?;
        Ok::<_, String>((answers, grant))
    };
    let opened = tokio::time::timeout(deadline, opening).await;
    let (mut answers, grant) = opened.unwrap_or_else(|_| Err(format!("the broker at {address} does not answer")))?;
    tell(LinkEvent::Up(grant)).await;
    loop {
        match answers.message().await {
            Ok(Some(answer)) => tell(LinkEvent::Answers(answer.acks)).await,
            Ok(None) => return Err(format!("the broker at {address} ended the stream")),
            Err(status) => return Err(failure(address, &status)),
        }
    }
}

fn failure(address: &str, status: &tonic::Status) -> String {
    match call_error("broker", address, status) {
        ClientError::Unreachable { reason, .. } => format!("the broker at {address} is not reachable: {reason}"),
        error => error.to_string(),
    }
}

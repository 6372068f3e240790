//! Taking leave: a broker that stops says so to the sentinel that leads, so that nobody has to find out by its silence.

use std::time::Duration;

use goulette_logging::{debug, warn};
use goulette_proto::{
    pb::{self, sentinel_client::SentinelClient},
    status::{kind_of, leader_of},
};
use goulette_types::ErrorKind;
use tokio::time::{sleep, timeout};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{node::Node, sentinel_link::endpoint};

/// For one answer, and for all attempts after the session that there may have been.
const DEADLINE: Duration = Duration::from_secs(1);
/// Between two attempts: another sentinel leads a moment later.
const PAUSE: Duration = Duration::from_millis(50);

/// Says it by a session that stands: its end alone would look like a crash. Returns whether it was heard.
pub(crate) async fn by_session(node: &Node, client: &mut SentinelClient<Channel>) -> bool {
    let answer = timeout(DEADLINE, client.unregister_broker(request(node))).await;
    match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
        Ok(_) => debug!("unregistered"),
        Err(status) => {
            debug!("could not unregister: {}", status.message());
            return false;
        }
    }
    true
}

/// Says it without a session, to one sentinel after the other until one has heard it: the one that led may just have gone.
pub(crate) async fn to_any(node: &Node, sentinels: &[(String, Endpoint)]) {
    let mut problem = "no sentinel answers".to_owned();
    let attempts = async {
        let mut leader = None;
        for (_, known) in sentinels.iter().cycle() {
            let to = leader.take().unwrap_or_else(|| known.clone());
            let Err(status) = say(node, to).await else { return debug!("unregistered") };
            status.message().clone_into(&mut problem);
            match kind_of(&status) {
                ErrorKind::NotLeader => leader = leader_of(&status).and_then(|address| endpoint(&address)),
                // It has been forgotten, or succeeded by another start of itself.
                ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Fenced => {
                    return debug!("not registered: {problem}");
                }
                _ => {}
            }
            sleep(PAUSE).await;
        }
    };
    if timeout(DEADLINE, attempts).await.is_err() {
        warn!("could not unregister: {problem}; it will be missed when its session ends");
    }
}

async fn say(node: &Node, to: Endpoint) -> Result<(), Status> {
    let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let channel = to.connect().await.map_err(unreachable)?;
    SentinelClient::new(channel).unregister_broker(request(node)).await.map(drop)
}

fn request(node: &Node) -> pb::UnregisterBrokerRequest {
    pb::UnregisterBrokerRequest {
        id: node.options().id.to_string(),
        incarnation: node.incarnation.to_bytes().to_vec().into(),
    }
}

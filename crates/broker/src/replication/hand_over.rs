//! Before a planned stop others take over what is led here, so that no client meets an error.

use std::{sync::Arc, time::Duration};

use goulette_logging::{info, warn};
use goulette_proto::pb;
use tokio::time::{Instant, sleep, timeout};

use crate::{node::Node, partition::Partition};

/// How long a stop waits for others to take over.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long what was appended may take to reach everybody before the leaderships go.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(2);

/// Has other in-sync replicas elected for all partitions that have some, and waits until they lead. Nothing more is appended
/// to those from here on; what was appended is answered first.
pub(crate) async fn hand_over(node: &Node) {
    let going: Vec<_> = node.registry.all().into_iter().filter(|partition| partition.has_successor()).collect();
    let Some(mut client) = node.hub.sentinel().borrow().clone() else { return };
    if going.is_empty() {
        return;
    }
    info!("hands over the leadership of {} partitions", going.len());
    node.hub.set_handing_over(true);
    until(DRAIN_DEADLINE, &going, |partition| partition.waiting() == 0).await;
    let request = pb::HandOverRequest {
        id: node.options().id.to_string(),
        incarnation: node.incarnation.to_bytes().to_vec().into(),
    };
    match timeout(DEADLINE, client.hand_over(request)).await {
        Ok(Ok(response)) => {
            let pb::HandOverResponse { handed_over, kept, .. } = response.into_inner();
            info!(handed_over, kept, "others lead");
            if !until(DEADLINE, &going, |partition| !partition.has_successor()).await {
                warn!("goes although it has not heard of all who lead instead");
            }
        }
        Ok(Err(status)) => warn!("cannot hand over its leaderships: {}", status.message()),
        Err(_) => warn!("cannot hand over its leaderships: no answer from the sentinel"),
    }
}

/// Waits until something is true of all; says whether it came to be in time.
async fn until(deadline: Duration, partitions: &[Arc<Partition>], is: impl Fn(&Partition) -> bool) -> bool {
    let deadline = Instant::now() + deadline;
    while !partitions.iter().all(|partition| is(partition)) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

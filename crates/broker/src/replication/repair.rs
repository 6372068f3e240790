//! Fetches what is damaged here from another replica.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use goulette_log::QuarantinedRange;
use goulette_logging::{debug, info, warn};
use goulette_proto::pb::{self, replication_client::ReplicationClient};
use goulette_records::Batch;
use goulette_types::BrokerId;
use tokio::time::{sleep, timeout};

use super::wire;
use crate::{node::Node, partition::Partition, sentinel_link::endpoint};

/// How often ranges that could not be repaired are tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long another replica may take to send a range.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs until the broker stops: repairs what is quarantined, as it comes, and what could not be repaired once a minute.
pub(crate) async fn repair(node: Arc<Node>) {
    let mut stop = node.lifecycle.signal();
    let mut told = HashSet::new();
    loop {
        let work = async {
            for range in node.log.quarantined() {
                mend(&node, &range, &mut told).await;
            }
            tokio::select! {
                () = node.hub.damaged() => {}
                () = sleep(AGAIN) => {}
            }
        };
        tokio::select! {
            () = stop.stopping() => return,
            () = work => {}
        }
    }
}

/// Tries one replica after the other.
async fn mend(node: &Arc<Node>, range: &QuarantinedRange, told: &mut HashSet<(PathBuf, u64)>) {
    let Some(partition) = node.registry.get(range.partition) else { return };
    for peer in partition.peers() {
        match mend_from(node, &partition, range, &peer).await {
            Ok(()) => {
                info!(
                    "the offsets {}..{} of {partition} are mended, from broker {peer}",
                    range.offsets.start, range.offsets.end
                );
                return;
            }
            Err(reason) => debug!("broker {peer} cannot mend {partition}: {reason}"),
        }
    }
    if told.insert((range.file.clone(), range.bytes.start)) {
        warn!("no other replica can mend {} yet; it is tried again", range.file.display());
    }
}

async fn mend_from(
    node: &Arc<Node>,
    partition: &Arc<Partition>,
    range: &QuarantinedRange,
    peer: &BrokerId,
) -> Result<(), String> {
    let batches = timeout(DEADLINE, fetch(node, range, peer)).await.map_err(|_| "no answer".to_owned())??;
    let (partition, range) = (Arc::clone(partition), range.clone());
    let mended = tokio::task::spawn_blocking(move || partition.log().repair(&range, &batches)).await;
    mended.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn fetch(node: &Node, range: &QuarantinedRange, peer: &BrokerId) -> Result<Vec<Batch>, String> {
    let at = node.hub.address(peer).ok_or("nobody has said where it is")?;
    let endpoint = endpoint(&at.address).ok_or("its address cannot be dialled")?;
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    let request = pb::ReadRangeRequest {
        cluster_id: node.identity().cluster.map(|id| id.to_bytes().to_vec()).unwrap_or_default().into(),
        topic_id: range.partition.topic.to_bytes().to_vec().into(),
        partition: range.partition.index.0,
        start: range.offsets.start.0,
        end: range.offsets.end.0,
    };
    let mut client = ReplicationClient::new(channel).max_decoding_message_size(wire::MESSAGE_BYTES_MAX);
    let stream = client.read_range(request).await.map_err(|status| status.message().to_owned())?;
    let mut frames = stream.into_inner();
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while let Some(frame) = frames.message().await.map_err(|status| status.message().to_owned())? {
        for batch in wire::batches(frame.batches).map_err(|error| error.to_string())? {
            bytes += batch.encoded_bytes() as u64;
            batches.push(batch);
        }
        // No more than fits is of use.
        if bytes > range.bytes.end - range.bytes.start {
            return Err("it sends more than stood there".to_owned());
        }
    }
    Ok(batches)
}

//! Linearizable reads: one round of confirmation for all that wait.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use goulette_proto::raft as pb;

use super::{
    core::{Core, Refusal},
    peers::{Peers, Use},
};
use crate::consensus::Leadership;

/// Reads that may wait for a round.
pub(crate) const WAITING_MAX: usize = 1 << 16;

/// What a round says: the index (as clients count) that a read must have seen.
pub(crate) type Round = Result<u64, Refusal>;

/// Asks for confirmations, one at a time: whoever comes while one is under way shares the next.
pub(crate) async fn run(
    core: Arc<Core>,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    mut waiting: mpsc::Receiver<oneshot::Sender<Round>>,
) {
    let mut readers = Vec::new();
    while waiting.recv_many(&mut readers, WAITING_MAX).await > 0 {
        let leader = leadership.borrow().leader;
        let round = match leader {
            None => Err(Refusal::NotLeader),
            Some(leader) if leader == core.own => core.confirm_leadership().await,
            Some(leader) => match peers.client(leader, Use::Control) {
                None => Err(Refusal::NotLeader),
                Some(mut client) => {
                    match timeout(core.election_timeout, client.read_index(pb::ReadIndexRequest {})).await {
                        Ok(Ok(answer)) => Ok(answer.into_inner().index),
                        Ok(Err(status)) => Err(Refusal::from_status(&status)),
                        Err(_) => Err(Refusal::Unknown),
                    }
                }
            },
        };
        for reader in readers.drain(..) {
            // Who no longer waits has met its deadline.
            let _ = reader.send(round);
        }
    }
}

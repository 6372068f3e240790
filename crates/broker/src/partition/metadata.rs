//! What a partition hears from the sentinels, and what they are told of it.

use goulette_proto::pb;
use goulette_replication::{PartitionState, Report};
use goulette_types::BrokerId;

use super::{Partition, View};
use crate::sync::lock;

impl Partition {
    /// Takes the partition's metadata, if it is newer than all that came before.
    pub(crate) fn assign(&self, state: PartitionState) {
        self.act(|core, now, effects| core.replica.update(now, state, effects));
    }

    /// Takes what the sentinel answered to a proposal; another leader's state comes as an assignment.
    pub(crate) fn settle_isr(&self, answer: &pb::IsrState) {
        self.act(|core, now, effects| {
            let Some(known) = core.replica.state().filter(|known| known.leader_epoch.0 == answer.leader_epoch) else {
                return;
            };
            match crate::assignment::with_isr(known.clone(), answer) {
                Ok(state) => core.replica.update(now, state, effects),
                Err(reason) => goulette_logging::warn!("an answer from the sentinel is ignored: {reason}"),
            }
        });
    }

    /// Leads and follows no longer, until a newer leader epoch comes.
    pub(crate) fn resign(&self) {
        self.act(|core, _, effects| {
            core.replica.step_down(effects);
        });
    }

    /// Ends all streams of this partition: its topic has been deleted.
    pub(crate) fn delete(&self) {
        self.view.send_modify(View::delete);
        self.resign();
    }

    /// What a sentinel is told of it at registration: with it the answer to a doubt, if there is one.
    pub(crate) fn held(&self) -> pb::Held {
        self.act(|core, _, _| {
            let report = core.replica.report();
            let (leader_epoch, partition_epoch) = core.replica.seen();
            let (mut held, log) = (self.named(), core.replica.log());
            (held.leader_epoch, held.partition_epoch) = (leader_epoch.0, partition_epoch.0);
            (held.log_epoch, held.end) = (log.epochs.last().0, log.durable.0);
            match report {
                Report::Ready(reported) => {
                    held.reported = true;
                    (held.doubt_leader_epoch, held.doubt_partition_epoch) =
                        (reported.answers.0.0, reported.answers.1.0);
                }
                // It is asked for again.
                Report::NotSettled => self.hub.register_anew(),
                Report::NotWanted => {}
            }
            held
        })
    }

    fn named(&self) -> pb::Held {
        pb::Held {
            topic_id: self.id().topic.to_bytes().to_vec().into(),
            topic: self.topic().to_string(),
            partition: self.id().index.0,
            ..Default::default()
        }
    }

    /// Whether another in-sync replica could lead it instead.
    pub(crate) fn has_successor(&self) -> bool {
        let core = lock(&self.core);
        core.replica.leader().is_some_and(|leader| leader.state().isr.len() > 1)
    }

    /// Others that may have what this one has lost: the leader, or the followers that are in sync.
    pub(crate) fn peers(&self) -> Vec<BrokerId> {
        let core = lock(&self.core);
        let Some(state) = core.replica.state() else { return Vec::new() };
        let leader = state.leader.iter().map(|leader| &leader.broker);
        let all = leader.chain(state.isr.iter().map(|member| &member.broker));
        let mut peers: Vec<BrokerId> = all.filter(|broker| **broker != self.hub.member().broker).cloned().collect();
        peers.dedup();
        peers
    }

    /// Time has passed.
    pub(crate) fn tick(&self) {
        let start = self.log.start();
        self.act(|core, now, effects| {
            if core.replica.log().start < start {
                core.replica.trimmed(start);
            }
            core.replica.tick(now, effects);
        });
    }
}

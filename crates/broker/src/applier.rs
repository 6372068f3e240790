//! Puts in force what a sentinel says: one update after the other, off the threads that serve the network.
//!
//! New partitions and deletions wait for the disk; the heartbeats meanwhile must not.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use goulette_log::ChangeError;
use goulette_logging::{error, info, warn};
use goulette_proto::pb;
use goulette_types::{Revision, TopicId};
use tokio::task::JoinSet;

use crate::{assignment::Assignment, node::Node};

/// The pause before an update that could not be carried out is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Updates that may wait; while so many do, no more are read from the sentinel.
const QUEUE_MAX: usize = 64;

/// What a sentinel says at once.
pub(crate) struct Update {
    pub(crate) revision: Revision,
    /// Whether these are all assignments, so that what is not among them is not led.
    pub(crate) complete: bool,
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) deleted_topics: Vec<TopicId>,
}

impl Update {
    /// Reads an update off the wire. What makes no sense is left out, and said: it must not keep the rest from being
    /// applied.
    pub(crate) fn new(
        node: &Node,
        revision: u64,
        complete: bool,
        assignments: Vec<pb::Assignment>,
        deleted_topics: &[bytes::Bytes],
    ) -> Self {
        let assignments = assignments
            .into_iter()
            .filter_map(|assignment| {
                Assignment::parse(assignment, node.hub.member(), node.incarnation)
                    .inspect_err(|reason| warn!("an assignment from the sentinel is ignored: {reason}"))
                    .ok()
            })
            .collect();
        let deleted_topics = deleted_topics
            .iter()
            .filter_map(|id| {
                TopicId::try_from(id.as_ref())
                    .inspect_err(|reason| warn!("a deletion from the sentinel is ignored: {reason}"))
                    .ok()
            })
            .collect();
        Self { revision: Revision(revision), complete, assignments, deleted_topics }
    }

    /// Carries it out, as far as it has not been. Blocks on the disk.
    fn apply(&self, node: &Node) -> Result<(), ChangeError> {
        for &topic in &self.deleted_topics {
            // First nobody reads or writes, then the data goes.
            let removed = node.registry.remove(topic);
            removed.iter().for_each(|partition| partition.delete());
            node.log.delete_topic(topic)?;
            if let Some(partition) = removed.first() {
                info!("deleted topic {} ({topic}): {} partitions here", partition.topic(), removed.len());
            }
        }
        // One that cannot be led now must not keep the others waiting.
        let outcomes = self.assignments.iter().map(|assignment| apply_one(assignment, node));
        let failed = outcomes.filter_map(Result::err).last();
        if self.complete {
            let assigned: HashSet<_> = self.assignments.iter().map(|a| a.partition).collect();
            for partition in node.registry.all() {
                if !assigned.contains(&partition.id()) {
                    partition.resign();
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn apply_one(assignment: &Assignment, node: &Node) -> Result<(), ChangeError> {
    for (broker, at) in &assignment.addresses {
        node.hub.note_address(broker.clone(), at.clone());
    }
    let is_replica = assignment.state.replicas.contains(&node.hub.member().broker);
    let partition = match node.registry.get(assignment.partition) {
        Some(partition) => partition,
        // Moved away before it came.
        None if !is_replica => return Ok(()),
        None => match node.log.create_partition(assignment.partition, &assignment.topic) {
            Ok(log) => node.registry.add(log, &node.hub),
            Err(ChangeError::Deleted(_)) => {
                warn!("{}/{} is assigned, but was deleted here", assignment.topic, assignment.partition);
                return Ok(());
            }
            Err(error) => return Err(error),
        },
    };
    // A topic's settings and its number of partitions change without a new epoch.
    partition.set_settings(&assignment.settings, node.options().log.roll);
    partition.set_topic_partitions(assignment.partitions);
    partition.assign(assignment.state.clone());
    Ok(())
}

/// Carries updates out in the order of their coming. What runs when it is dropped is given up.
pub(crate) struct Applier {
    node: Arc<Node>,
    queue: VecDeque<Update>,
    /// At most one.
    running: JoinSet<Revision>,
}

impl Applier {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, queue: VecDeque::new(), running: JoinSet::new() }
    }

    /// Queues an update. A complete one makes those that wait superfluous.
    pub(crate) fn submit(&mut self, update: Update) {
        if update.complete {
            self.queue.clear();
        }
        self.queue.push_back(update);
        self.start_next();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX
    }

    /// Waits until another update is in force, and says which. For ever, if there is none.
    pub(crate) async fn applied(&mut self) -> Revision {
        loop {
            match self.running.join_next().await {
                Some(Ok(revision)) => {
                    self.start_next();
                    return revision;
                }
                // Cancelled with the runtime.
                Some(Err(_)) => self.start_next(),
                None => std::future::pending().await,
            }
        }
    }

    fn start_next(&mut self) {
        if self.running.is_empty()
            && let Some(update) = self.queue.pop_front()
        {
            self.running.spawn(apply(Arc::clone(&self.node), update));
        }
    }
}

async fn apply(node: Arc<Node>, update: Update) -> Revision {
    let revision = update.revision;
    let update = Arc::new(update);
    let mut reported = false;
    loop {
        let (node, update) = (Arc::clone(&node), Arc::clone(&update));
        let failure = match tokio::task::spawn_blocking(move || update.apply(&node)).await {
            Ok(Ok(())) => return revision,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        if !std::mem::replace(&mut reported, true) {
            error!("cannot carry out what the sentinel orders, and tries on: {failure}");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

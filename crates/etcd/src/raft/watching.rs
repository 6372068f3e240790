//! What a member's raft does by itself, beside what it is asked for: it tells of changes of leaders and of its end, admits new
//! voters, and asks the others whether they are there.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use goulette_logging::info;
use goulette_proto::raft as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    core::Core,
    node::RaftEnd,
    peers::{Peers, Use},
    types::Membership,
};
use crate::consensus::{Leadership, MemberId};

/// Between two looks at what may have changed without a sign: whether a new voter has caught up, whether somebody leads.
pub(super) const ROUND: Duration = Duration::from_millis(100);
/// How often the other members are asked whether they are there, and how soon again those who were not.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
const ASK_SOON: Duration = Duration::from_millis(50);

/// Who leads, as far as this member knows.
pub(super) fn leadership_of(core: &Core) -> Leadership {
    let metrics = core.metrics();
    Leadership { term: metrics.current_term, leader: core.leader(&metrics) }
}

/// Tells of every change of leaders, keeps the addresses of the members, and notices the end.
pub(super) async fn watch_raft(
    core: Arc<Core>,
    peers: Arc<Peers>,
    leadership: watch::Sender<Leadership>,
    end: watch::Sender<Option<RaftEnd>>,
) {
    let mut metrics = core.raft.metrics();
    let mut members: Option<Membership> = None;
    loop {
        let now = metrics.borrow_watched().clone();
        let leads = Leadership { term: now.current_term, leader: core.leader(&now) };
        leadership.send_if_modified(|known| {
            let changed = *known != leads;
            if changed && known.leader != leads.leader {
                info!(
                    "raft term {}: {}",
                    leads.term,
                    leads.leader.map_or("no leader".into(), |id| format!("led by {id:x}"))
                );
            }
            *known = leads;
            changed
        });
        let effective = now.membership_config.membership();
        peers.update(effective);
        let committed = now.committed_membership_config.membership();
        if members.as_ref() != Some(committed) {
            if let Some(before) = &members {
                let left = before.nodes().filter(|(id, _)| committed.get_node(id).is_none());
                left.for_each(|(id, _)| core.note_removed(*id));
            }
            members = Some(committed.clone());
        }
        if let Err(fatal) = &now.running_state {
            end.send_if_modified(|end| {
                let first = end.is_none();
                end.get_or_insert_with(|| RaftEnd::Failed(fatal.to_string()));
                first
            });
            return;
        }
        if core.was_removed(core.own) {
            end.send_replace(Some(RaftEnd::Removed));
        }
        // A leader is also lost by nothing happening.
        if let Ok(Err(_)) = timeout(ROUND, metrics.changed()).await {
            return;
        }
    }
}

/// As leader: admits new voters.
pub(super) async fn admit_voters(core: Arc<Core>, leadership: watch::Receiver<Leadership>) {
    loop {
        sleep(ROUND).await;
        if leadership.borrow().leader == Some(core.own) {
            core.admit().await;
        }
    }
}

/// Asks every other member, again and again, whether it is there, and whether this one was removed: who is removed is
/// sent nothing any more, not even that.
pub(super) async fn ask_members(
    core: Arc<Core>,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    end: watch::Sender<Option<RaftEnd>>,
) {
    let mut pause = ASK_SOON;
    loop {
        let stored = core.membership();
        let others = stored.membership().nodes().map(|(&id, _)| id).filter(|id| *id != core.own);
        let answers = join_all(others.map(|id| ask_member(&core, &peers, id))).await;
        // A leader that is removed learns it from its own log, and steps down first.
        if answers.contains(&Answer::Removed) && leadership.borrow().leader != Some(core.own) {
            end.send_replace(Some(RaftEnd::Removed));
            return;
        }
        // Who does not answer may just be starting.
        if answers.contains(&Answer::None) {
            sleep(pause).await;
            pause = (2 * pause).min(ASK_INTERVAL);
        } else {
            sleep(ASK_INTERVAL).await;
            pause = ASK_SOON;
        }
    }
}

/// What a member says to being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing.
    None,
    /// It is there.
    Here,
    /// It is there, and this member is not one any more.
    Removed,
}

async fn ask_member(core: &Core, peers: &Peers, id: MemberId) -> Answer {
    let Some(mut client) = peers.client(id, Use::Control) else { return Answer::None };
    let asked = timeout(core.election_timeout, client.members(pb::MembersRequest { member: core.own })).await;
    let answer = match asked {
        Ok(Ok(answer)) if answer.get_ref().cluster == core.cluster => Ok(answer.into_inner().removed),
        Ok(Ok(answer)) => Err(format!("it belongs to cluster {:x}", answer.get_ref().cluster)),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("nothing came in {:?}", core.election_timeout)),
    };
    let known = match answer {
        Ok(true) => Answer::Removed,
        Ok(false) => Answer::Here,
        Err(_) => Answer::None,
    };
    peers.asked(id, answer.map(|_| ()));
    known
}

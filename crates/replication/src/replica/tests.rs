use std::collections::BTreeMap;

use goulette_types::StorageId;

use super::*;
use crate::{
    controller::{LiveBroker, distrust, finish_move, report, settle, start_move},
    epochs::Epochs,
    message::{Cut, FromFollower},
    state::LogEnd,
};

const NOW: Duration = Duration::ZERO;
const STREAM: Stream = Stream(7);

fn member(name: &str) -> Member {
    Member { broker: name.parse().unwrap(), storage: StorageId(1) }
}

fn live(names: &str) -> BTreeMap<BrokerId, LiveBroker> {
    let up = LiveBroker { incarnation: Incarnation(1), storage: StorageId(1), may_lead: true };
    names.split_whitespace().map(|name| (member(name).broker, up.clone())).collect()
}

/// Both in sync; the first one leads, in epoch 1.
fn state(names: &str) -> PartitionState {
    let members = names.split_whitespace().map(member).collect();
    settle(&PartitionState::new(members, None), &live(names)).unwrap()
}

/// What another leader begins with.
fn moved_on(state: &PartitionState, names: &str) -> PartitionState {
    settle(state, &live(names)).unwrap()
}

fn replica(name: &str) -> Replica {
    let log = LogView::opened(Offset(0), Offset(0), Offset(0), Epochs::default());
    Replica::new(member(name), Incarnation(1), log, ReplicaOptions::default())
}

fn update(replica: &mut Replica, state: &PartitionState) -> Vec<Effect> {
    let mut effects = Vec::new();
    replica.update(NOW, state.clone(), &mut effects);
    effects
}

fn append(leader: &mut Replica, base: u64, end: u64) {
    assert!(leader.appended(Offset(base), Offset(end)));
    leader.durable(NOW, Offset(end), &mut Vec::new());
}

fn say(leader: &mut Replica, epoch: u32, body: FromFollower) -> Vec<Effect> {
    let mut effects = Vec::new();
    let message = ToLeader { stream: STREAM, leader_epoch: LeaderEpoch(epoch), body };
    leader.from_follower(NOW, &member("b").broker, message, &mut effects);
    effects
}

fn hello(end: u64) -> FromFollower {
    let last = LogEnd { epoch: LeaderEpoch(0), end: Offset(end) };
    FromFollower::Hello { member: member("b"), incarnation: Incarnation(1), last }
}

fn refusal(effects: &[Effect]) -> Option<Refused> {
    effects.iter().find_map(|effect| match effect {
        Effect::ToFollower { message: ToFollower { body: FromLeader::Refused(why), .. }, .. } => Some(*why),
        _ => None,
    })
}

/// A follower of `a` in the state's epoch, behind its handshake.
fn follower(state: &PartitionState) -> Replica {
    let mut replica = replica("b");
    update(&mut replica, state);
    replica.stream_opened(STREAM, &mut Vec::new());
    let cut = Cut { shared: None, start: Offset(0), end: Offset(0) };
    let message = ToFollower { stream: STREAM, leader_epoch: state.leader_epoch, body: FromLeader::Cut(cut) };
    replica.from_leader(message, &mut Vec::new());
    replica
}

#[test]
fn an_append_of_an_old_epoch_is_refused() {
    let first = state("a b");
    let mut follower = follower(&first);
    let batch = |base, epoch| BatchFacts { base: Offset(base), end: Offset(base + 1), epoch: LeaderEpoch(epoch) };
    follower.offer(STREAM, LeaderEpoch(1), &batch(0, 1)).unwrap();
    let second = PartitionState {
        leader_epoch: LeaderEpoch(2),
        partition_epoch: PartitionEpoch(first.partition_epoch.0 + 1),
        ..first
    };
    update(&mut follower, &second);
    let old = follower.offer(STREAM, LeaderEpoch(1), &batch(1, 1));
    assert_eq!(old, Err(FollowError::OtherEpoch { given: LeaderEpoch(1), current: LeaderEpoch(2) }));
    // Nor does the new epoch's number help before its handshake, or a batch that claims an epoch to come after it.
    assert_eq!(follower.offer(STREAM, LeaderEpoch(2), &batch(1, 2)), Err(FollowError::NotFollowing));
    assert_eq!(follower.log().written, Offset(1), "nothing of them is there");
    let mut follower = self::follower(&second);
    assert!(matches!(follower.offer(STREAM, LeaderEpoch(2), &batch(0, 3)), Err(FollowError::Gap { .. })));
}

#[test]
fn a_follower_that_claims_what_cannot_be_is_refused_and_counts_for_nothing() {
    let mut leader = replica("a");
    update(&mut leader, &state("a b"));
    append(&mut leader, 0, 10);
    let durable = |end| FromFollower::Durable { end: Offset(end) };
    assert_eq!(refusal(&say(&mut leader, 1, durable(5))), Some(Refused::NoHandshake));
    assert_eq!(refusal(&say(&mut leader, 1, hello(0))), None);
    let beyond = FromFollower::Confirm { end: Offset(11) };
    assert_eq!(refusal(&say(&mut leader, 1, beyond)), Some(Refused::BeyondEnd { given: Offset(11), end: Offset(10) }));
    say(&mut leader, 1, hello(0));
    say(&mut leader, 1, FromFollower::Confirm { end: Offset(4) });
    assert_eq!(leader.log().committed, Offset(4));
    assert_eq!(
        refusal(&say(&mut leader, 1, durable(12))),
        Some(Refused::BeyondEnd { given: Offset(12), end: Offset(10) })
    );
    assert_eq!(leader.log().committed, Offset(4), "the claim counts for nothing");
    say(&mut leader, 1, hello(4));
    say(&mut leader, 1, FromFollower::Confirm { end: Offset(4) });
    assert_eq!(
        refusal(&say(&mut leader, 1, durable(3))),
        Some(Refused::WentBack { given: Offset(3), before: Offset(4) })
    );
    say(&mut leader, 1, hello(0));
    let lost = say(&mut leader, 1, FromFollower::Confirm { end: Offset(3) });
    assert_eq!(refusal(&lost), Some(Refused::LostData { given: Offset(3), committed: Offset(4) }));
}

#[test]
fn of_two_that_believe_they_lead_only_the_later_one_commits() {
    let first = state("a b");
    let mut old = replica("a");
    update(&mut old, &first);
    append(&mut old, 0, 1);
    say(&mut old, 1, hello(0));
    say(&mut old, 1, FromFollower::Confirm { end: Offset(1) });
    assert_eq!(old.log().committed, Offset(1));
    // It is cut off from the sentinels, and does not hear of this.
    let second = moved_on(&first, "b");
    let mut new = replica("b");
    update(&mut new, &second);
    assert!(new.leader().is_some() && old.leader().is_some());
    append(&mut old, 1, 5);
    assert_eq!(old.admit(true), Ok(LeaderEpoch(1)), "it cannot know better");
    let told = say(&mut old, 2, FromFollower::Durable { end: Offset(5) });
    assert!(matches!(refusal(&told), Some(Refused::OtherEpoch { .. })), "{told:?}");
    old.tick(Duration::from_secs(60), &mut Vec::new());
    assert_eq!(old.log().committed, Offset(1), "without the other one nothing more is committed in epoch 1");
    // At last it hears of it, late or not at all in between.
    let effects = update(&mut old, &second);
    assert_eq!(effects[0], Effect::Resigned(LeaderEpoch(1)));
    update(&mut old, &first);
    assert_eq!(old.role(), Role::Follower, "an older state does not bring it back");
}

#[test]
fn a_replica_that_is_left_out_empties_its_log() {
    let first = state("a");
    let mut old = replica("a");
    update(&mut old, &first);
    append(&mut old, 0, 5);
    let moving = start_move(&first, &[member("b").broker]).unwrap();
    let moving = PartitionState { isr: vec![member("a"), member("b")], ..moving };
    let done = finish_move(&moving, &live("a b")).unwrap();
    assert!(old.appended(Offset(5), Offset(7)));
    assert_eq!(
        update(&mut old, &done),
        [Effect::Resigned(LeaderEpoch(1))],
        "not while something is under way to the disk"
    );
    let empties = [Effect::Truncate { to: Offset(0), restart: true }];
    let mut effects = Vec::new();
    old.durable(NOW, Offset(7), &mut effects);
    assert_eq!(effects, empties);
    old.truncated(NOW, Offset(0), true, &mut Vec::new());
    assert_eq!(old.log().last(), LogEnd { epoch: LeaderEpoch(0), end: Offset(0) });
    assert_eq!(update(&mut old, &first), [], "what is older is not taken");

    // One that is a replica again before it got round to it keeps what it has, and begins with a handshake.
    let mut old = replica("a");
    update(&mut old, &first);
    append(&mut old, 0, 5);
    assert!(old.appended(Offset(5), Offset(7)));
    update(&mut old, &done);
    let back = start_move(&done, &[member("b").broker, member("a").broker]).unwrap();
    update(&mut old, &back);
    let mut effects = Vec::new();
    old.durable(NOW, Offset(7), &mut effects);
    assert!(!effects.contains(&empties[0]), "{effects:?}");
}

#[test]
fn in_doubt_a_replica_follows_nobody_and_is_asked_until_it_has_reported() {
    let before = state("a b");
    let mut replica = follower(&before);
    let doubted = distrust(&before);
    assert_eq!(update(&mut replica, &doubted), [Effect::ReportWanted]);
    assert_eq!(update(&mut replica, &doubted), [Effect::ReportWanted], "the first one may have been lost");
    // What is late makes it no follower again, even before it has reported: its report must stay true.
    let late = PartitionState { partition_epoch: PartitionEpoch(before.partition_epoch.0 + 1), ..before };
    assert!(matches!(update(&mut replica, &late).as_slice(), [Effect::Stale { .. }]));
    assert_eq!(replica.role(), Role::Idle);
    let Report::Ready(reported) = replica.report() else { panic!("nothing is under way to the disk") };
    let known = report(&doubted, &reported, &live("a b")).unwrap();
    assert_eq!(update(&mut replica, &known), [], "it is known now");
}

#[test]
fn a_doubt_older_than_what_a_replica_has_seen_makes_it_register_anew() {
    let before = state("a b");
    let mut replica = replica("b");
    update(&mut replica, &moved_on(&before, "b"));
    let effects = update(&mut replica, &distrust(&before));
    assert!(matches!(effects.as_slice(), [Effect::Stale { .. }, Effect::ReportWanted]), "{effects:?}");
}

use std::collections::BTreeMap;

use goulette_types::{BrokerId, Incarnation, LeaderEpoch, Offset, PartitionEpoch, StorageId};

use super::*;
use crate::state::{LogEnd, Member};

/// Brokers `a`, `b`, `c`; those named are live, on disk 1 unless the name is followed by a digit.
fn live(names: &str) -> BTreeMap<BrokerId, LiveBroker> {
    let each = names.split_whitespace().map(|name| {
        let storage = StorageId(name[1..].parse().unwrap_or(1));
        (broker(&name[..1]), LiveBroker { incarnation: Incarnation(1), storage, may_lead: true })
    });
    each.collect()
}

fn broker(name: &str) -> BrokerId {
    name.parse().unwrap()
}

fn member(name: &str) -> Member {
    Member { broker: broker(&name[..1]), storage: StorageId(name[1..].parse().unwrap_or(1)) }
}

fn members(names: &str) -> Vec<Member> {
    names.split_whitespace().map(member).collect()
}

fn state(isr: &str) -> PartitionState {
    let settled = settle(&PartitionState::new(members("a b c"), None), &live("a b c")).unwrap();
    PartitionState { isr: members(isr), ..settled }
}

fn proposal(state: &PartitionState, isr: &str) -> Proposal {
    Proposal {
        leader: state.leader.clone().unwrap(),
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        isr: members(isr),
    }
}

fn leader(state: &PartitionState) -> Option<&str> {
    state.leader.as_ref().map(|leader| leader.broker.as_str())
}

#[test]
fn the_first_live_in_sync_replica_leads() {
    let state = state("a b c");
    assert_eq!(leader(&state), Some("a"));
    assert_eq!(state.version(), (LeaderEpoch(1), PartitionEpoch(1)));
    let next = settle(&state, &live("b c")).unwrap();
    assert_eq!((leader(&next), &next.isr), (Some("b"), &members("b c")));
    assert_eq!(next.version(), (LeaderEpoch(2), PartitionEpoch(2)));
    assert_eq!(settle(&next, &live("b c")), Err(Refusal::Unchanged));
}

#[test]
fn the_last_member_stays_and_those_who_left_below_the_minimum_are_eligible() {
    let two = settle(&state("a b c"), &live("a b")).unwrap();
    assert_eq!(two.eligible, [], "two of three commit: who left lacks what they commit");
    let one = settle(&two, &live("a")).unwrap();
    assert_eq!((&one.isr, &one.eligible), (&members("a"), &members("b")));
    let none = settle(&one, &live("")).unwrap();
    assert_eq!((leader(&none), &none.isr, &none.eligible), (None, &members("a"), &members("b")));
    assert_eq!(none.leader_epoch, one.leader_epoch, "nobody begins to lead");
}

#[test]
fn the_last_replica_standing_is_elected_on_its_disk_alone() {
    let one = settle(&settle(&state("a b c"), &live("a b")).unwrap(), &live("a")).unwrap();
    assert_eq!(leader(&settle(&one, &live("c")).unwrap()), None, "c was not in sync");
    assert_eq!(leader(&settle(&one, &live("b2 c")).unwrap()), None, "b's disk is another one");
    let elected = settle(&one, &live("b c")).unwrap();
    assert_eq!((leader(&elected), &elected.isr, &elected.eligible), (Some("b"), &members("b"), &members("a")));
}

#[test]
fn eligible_is_emptied_when_the_minimum_is_reached_and_when_it_is_lowered() {
    let one = settle(&settle(&state("a b c"), &live("a b")).unwrap(), &live("a")).unwrap();
    let grown = propose_isr(&one, &proposal(&one, "a c"), &live("a c")).unwrap();
    assert_eq!((&grown.isr, &grown.eligible), (&members("a c"), &Vec::new()));
    let lowered = set_minimum(&one, Some(1)).unwrap();
    assert_eq!((lowered.min_insync, &lowered.eligible), (1, &Vec::new()));
}

#[test]
fn a_new_incarnation_leads_nothing_until_it_is_elected() {
    let state = state("a");
    let mut again = live("a");
    again.get_mut("a".parse::<BrokerId>().as_ref().unwrap()).unwrap().incarnation = Incarnation(2);
    assert!(!leads(&state, &again));
    let next = settle(&state, &again).unwrap();
    assert_eq!(next.leader.as_ref().unwrap().incarnation, Incarnation(2));
    assert_eq!(next.leader_epoch, LeaderEpoch(2));
}

#[test]
fn another_disk_leaves_the_isr_but_the_only_entry_stays_and_waits_for_the_old_one() {
    let next = settle(&state("a b"), &live("a2 b")).unwrap();
    assert_eq!((leader(&next), &next.isr), (Some("b"), &members("b")));
    let alone = settle(&state("a"), &live("a2 b c")).unwrap();
    assert_eq!((leader(&alone), &alone.isr, alone.awaited()), (None, &members("a"), vec![broker("a")]));
    let back = settle(&alone, &live("a b c")).unwrap();
    assert_eq!(leader(&back), Some("a"));
}

#[test]
fn a_proposal_is_compared_with_what_is_stored() {
    let all = live("a b c");
    let state = state("a b");
    let accepted = propose_isr(&state, &proposal(&state, "a b c"), &all).unwrap();
    assert_eq!(accepted.partition_epoch, PartitionEpoch(2));
    let old = propose_isr(&accepted, &proposal(&state, "a"), &all);
    assert!(matches!(old, Err(Refusal::OtherPartitionEpoch { .. })), "{old:?}");
    let epoch = Proposal { leader_epoch: LeaderEpoch(0), ..proposal(&state, "a") };
    assert!(matches!(propose_isr(&state, &epoch, &all), Err(Refusal::NotLeader { .. })));
    let mut other = proposal(&state, "a");
    other.leader.incarnation = Incarnation(9);
    assert!(matches!(propose_isr(&state, &other, &all), Err(Refusal::NotLeader { .. })));
    let disk = propose_isr(&state, &proposal(&state, "a b c2"), &all);
    assert_eq!(disk, Err(Refusal::NotLive(broker("c"))));
    let stranger = propose_isr(&state, &proposal(&state, "a d"), &live("a d"));
    assert_eq!(stranger, Err(Refusal::NotReplica(broker("d"))));
    for malformed in ["b", "a b b"] {
        assert_eq!(propose_isr(&state, &proposal(&state, malformed), &all), Err(Refusal::Malformed));
    }
}

#[test]
fn the_same_isr_again_voids_what_was_proposed_before() {
    let state = state("a b");
    let again = propose_isr(&state, &proposal(&state, "a b"), &live("a b c")).unwrap();
    assert_eq!((&again.isr, again.partition_epoch), (&state.isr, PartitionEpoch(2)));
}

#[test]
fn an_automatic_minimum_rises_only_with_the_isr_and_falls_at_once() {
    let alone = settle(&PartitionState::new(members("a"), None), &live("a b c")).unwrap();
    assert_eq!(alone.min_insync, 1);
    let moving = start_move(&alone, &[broker("a"), broker("b"), broker("c")]).unwrap();
    assert_eq!((moving.min_insync, moving.replicas.len()), (1, 3));
    assert_eq!(finish_move(&moving, &live("a b c")), Err(Refusal::NotInSync(broker("b"))));
    let grown = propose_isr(&moving, &proposal(&moving, "a b c"), &live("a b c")).unwrap();
    let done = finish_move(&grown, &live("a b c")).unwrap();
    assert_eq!((done.min_insync, &done.moving), (2, &None));
    let shrinking = start_move(&done, &[broker("b")]).unwrap();
    let small = finish_move(&shrinking, &live("a b c")).unwrap();
    assert_eq!((small.min_insync, leader(&small), &small.replicas), (1, Some("b"), &vec![broker("b")]));
}

#[test]
fn a_cancelled_move_returns_to_the_replicas_before() {
    let state = state("a b c");
    let moving = start_move(&state, &[broker("d"), broker("b"), broker("c")]).unwrap();
    assert_eq!(start_move(&moving, &[broker("a")]), Err(Refusal::Moving));
    let in_sync = propose_isr(&moving, &proposal(&moving, "a b c d"), &live("a b c d")).unwrap();
    let back = cancel_move(&in_sync, &live("a b c d")).unwrap();
    assert_eq!((&back.replicas, &back.isr), (&state.replicas, &members("a b c")));
    assert_eq!(cancel_move(&back, &live("a")), Err(Refusal::NotMoving));
}

#[test]
fn a_leader_hands_over_to_one_that_may_lead_and_stays_in_sync() {
    let state = state("a b c");
    let mut brokers = live("a b c");
    for leaving in ["a", "b"] {
        brokers.get_mut(&broker(leaving)).unwrap().may_lead = false;
    }
    let next = hand_over(&state, &broker("a"), &brokers).unwrap();
    assert_eq!((leader(&next), &next.isr), (Some("c"), &state.isr));
    assert_eq!(hand_over(&next, &broker("a"), &brokers), Err(Refusal::Unchanged));
    assert_eq!(hand_over(&next, &broker("c"), &brokers), Err(Refusal::NoCandidate));
    assert_eq!(leader(&elect(&next, &broker("a"), &live("a b c")).unwrap()), Some("a"));
}

#[test]
fn an_unclean_election_is_recorded_and_never_the_first_choice() {
    let state = settle(&state("a"), &live("b c")).unwrap();
    assert_eq!(leader(&state), None);
    let order = elect_unclean(&state, &broker("c"), &live("a c"));
    assert_eq!(order, Err(Refusal::Electable(broker("a"))));
    let next = elect_unclean(&state, &broker("c"), &live("b c")).unwrap();
    assert_eq!((leader(&next), &next.isr, next.unclean), (Some("c"), &members("c"), Some(LeaderEpoch(2))));
}

#[test]
fn metadata_that_went_back_is_not_believed_until_all_have_reported() {
    let state = state("a b");
    let doubted = suspect(&state, LeaderEpoch(7), PartitionEpoch(30)).unwrap();
    assert_eq!(leader(&doubted), None);
    assert_eq!(settle(&doubted, &live("a b c")), Err(Refusal::InDoubt));
    assert_eq!(suspect(&doubted, LeaderEpoch(7), PartitionEpoch(30)), Err(Refusal::Unchanged));
    let reported = |name, epoch, end| Reported {
        member: member(name),
        answers: (LeaderEpoch(7), PartitionEpoch(30)),
        log: LogEnd { epoch: LeaderEpoch(epoch), end: Offset(end) },
    };
    let all = live("a b c");
    let mut next = doubted;
    for (name, epoch, end) in [("a", 6, 900), ("c", 7, 40)] {
        next = report(&next, &reported(name, epoch, end), &all).unwrap();
        assert_eq!(leader(&next), None);
    }
    assert_eq!(next.awaited(), [broker("b")]);
    // An answer to an earlier doubt says nothing.
    let early = Reported { answers: (LeaderEpoch(6), PartitionEpoch(30)), ..reported("b", 7, 50) };
    assert_eq!(report(&next, &early, &all), Err(Refusal::Unchanged));
    let settled = report(&next, &reported("b", 7, 30), &all).unwrap();
    assert_eq!((leader(&settled), &settled.isr), (Some("c"), &members("c")), "the highest epoch, then the highest end");
    assert!(settled.leader_epoch > LeaderEpoch(7) && settled.partition_epoch > PartitionEpoch(30));
}

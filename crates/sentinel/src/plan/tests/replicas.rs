//! Partitions of several replicas: who leads after what, and what sentinels do by themselves.

use goulette_meta::keys::Leaving;
use goulette_replication::{LeaderId, Member, controller::Proposal};

use super::*;
use crate::plan::{
    broker::Yields,
    partition::{Refused, Verdict},
};

/// Behind every pause that there is.
const LATER: Timestamp = Timestamp(NOW.0 + 3_600_000);

fn replicating(number: u128) -> Registration {
    Registration { replicates: true, ..registration(&format!("b{number}"), number, number) }
}

fn with_brokers(count: u128) -> World {
    let mut world = World::new();
    for number in 1..=count {
        world.register(&replicating(number));
    }
    world
}

impl World {
    fn tend(&mut self) -> usize {
        self.all(|catalog| Ok(tend::next(catalog, LATER)))
    }

    fn die(&mut self, number: u128) -> usize {
        self.all(|catalog| Ok(broker::mark_down(catalog, NOW, &id(&format!("b{number}")), Incarnation(number))))
    }

    fn record(&self, index: u32) -> goulette_meta::keys::PartitionRecord {
        self.catalog.partition(partition(index)).unwrap().clone()
    }

    /// The leader proposes everybody who holds the partition.
    fn all_in_sync(&mut self, index: u32) -> Verdict {
        let record = self.record(index);
        let leader = record.leader.clone().unwrap();
        let leader = LeaderId { broker: leader.broker, incarnation: leader.incarnation };
        let live = self.catalog.live();
        let members = record
            .replicas
            .iter()
            .filter_map(|broker| Some(Member { broker: broker.clone(), storage: live.get(broker)?.storage }));
        let proposal = Proposal {
            leader: leader.clone(),
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
            isr: members.collect(),
        };
        let (step, mut verdicts) = partition::propose(&self.catalog, NOW, &leader, &[(partition(index), proposal)]);
        step.into_iter().for_each(|step| self.commit(step));
        verdicts.pop().unwrap()
    }

    fn leader(&self, index: u32) -> String {
        self.leads(index).0
    }
}

#[test]
fn a_topic_gets_as_many_replicas_as_it_wants_and_all_are_in_sync() {
    let mut world = with_brokers(4);
    world.create(40);
    for index in 0..40 {
        let record = world.record(index);
        assert_eq!((record.replicas.len(), record.isr.len(), record.min_insync_replicas), (3, 3, 2));
        assert_eq!(world.leader(index), record.replicas[0].as_str(), "the preferred one");
    }
    assert_eq!(world.tend(), 0, "everything is where it should be");
}

#[test]
fn a_dead_leader_is_replaced_in_the_transactions_that_bury_it_and_returns_as_a_follower() {
    let mut world = with_brokers(3);
    world.create(300);
    let before: Vec<_> = (0..300).map(|index| world.record(index)).collect();
    let steps = world.die(1);
    assert!((4..=5).contains(&steps), "{steps} transactions for 300 partitions");
    for (index, before) in (0..).zip(&before) {
        let record = world.record(index);
        assert_eq!(record.isr.len(), 2, "the dead one is not in sync");
        assert!(["b2", "b3"].contains(&world.leader(index).as_str()));
        let led = before.leader.as_ref().unwrap().broker == id("b1");
        assert_eq!(record.leader_epoch.0, before.leader_epoch.0 + u32::from(led));
        assert_eq!(record.partition_epoch.0, before.partition_epoch.0 + 1);
    }
    world.register(&Registration { incarnation: Incarnation(11), ..replicating(1) });
    let told = world.catalog.assignments(&id("b1"), Incarnation(11), Revision(0));
    assert_eq!(told.len(), 300);
    assert!(told.iter().all(|told| told.role == crate::catalog::AssignedRole::Follower));
    let index = (0..300).find(|&index| before[index as usize].replicas[0] == id("b1")).unwrap();
    assert!(matches!(world.all_in_sync(index), Verdict::Accepted(_)));
    world.tend();
    assert_eq!(world.leader(index), "b1", "the preferred leader leads again once it is in sync");
}

#[test]
fn a_sentinel_that_stops_half_way_is_continued_by_the_next() {
    let mut world = with_brokers(3);
    world.create(300);
    let step = broker::mark_down(&world.catalog, NOW, &id("b1"), Incarnation(1)).unwrap();
    world.commit(step);
    let dead = |world: &World| (0..300).filter(|&index| world.leader(index).contains("b1")).count();
    assert!((0..300).any(|index| world.record(index).isr.len() == 3), "the first transaction is not the last");
    world.tend();
    assert_eq!(dead(&world), 0);
    assert!((0..300).all(|index| world.record(index).isr.len() == 2));
}

#[test]
fn the_last_in_sync_replica_is_awaited_and_never_replaced_by_one_that_lacks_records() {
    let mut world = with_brokers(2);
    world.create(1);
    let (first, second) = if world.leader(0) == "b1" { (1, 2) } else { (2, 1) };
    world.die(second);
    world.die(first);
    world.register(&Registration { incarnation: Incarnation(22), ..replicating(second) });
    // With a minimum of two nothing was committed without the second one.
    assert_eq!(world.leader(0), format!("b{second}"), "it was eligible");
    let mut world = with_brokers(2);
    world.create(1);
    let set = Alteration { set: [("min_insync_replicas".to_owned(), "1".to_owned())].into(), ..Default::default() };
    let step = topic::alter(&world.catalog, NOW, &name(), &set).unwrap();
    world.commit(step.unwrap());
    world.all(|catalog| topic::follow_minimum(catalog, NOW, &name()));
    world.die(second);
    world.die(first);
    world.register(&Registration { incarnation: Incarnation(22), ..replicating(second) });
    assert_eq!(world.leader(0), format!("awaiting broker b{first}, which holds the last in-sync replica and is down"));
    let unclean = id(&format!("b{second}"));
    let step = partition::elect(&world.catalog, NOW, partition(0), Some(&unclean)).unwrap().unwrap();
    world.commit(step);
    assert_eq!((world.leader(0), world.record(0).unclean_epoch), (unclean.to_string(), world.record(0).leader_epoch));
    assert!(world.operations.contains(&"electLeaderUnclean".to_owned()), "on the record");
}

#[test]
fn a_broker_that_is_about_to_stop_leads_nothing_that_others_can() {
    let mut world = with_brokers(3);
    world.create(50);
    world.all(|catalog| broker::hand_over(catalog, NOW, &id("b2"), Incarnation(2), Yields::Stops));
    assert!((0..50).all(|index| world.leader(index) != "b2" && world.record(index).isr.len() == 3));
    world.tend();
    assert!((0..50).all(|index| world.leader(index) != "b2"), "it is not preferred while it hands over");
    world.all(|catalog| broker::unregister(catalog, NOW, &id("b2"), Incarnation(2)));
    assert!((0..50).all(|index| world.record(index).isr.len() == 2));
}

#[test]
fn a_disk_that_hangs_costs_the_leaderships_until_it_is_back() {
    let mut world = with_brokers(3);
    world.create(50);
    world.all(|catalog| broker::hand_over(catalog, NOW, &id("b2"), Incarnation(2), Yields::Hangs));
    assert!((0..50).all(|index| world.leader(index) != "b2"));
    let step = broker::recovered(&world.catalog, NOW, &id("b2"), Incarnation(2)).unwrap();
    world.commit(step.unwrap());
    world.tend();
    assert!((0..50).any(|index| world.leader(index) == "b2"));
}

#[test]
fn proposals_stand_or_fall_each_by_itself() {
    let mut world = with_brokers(3);
    world.create(2);
    let leader = world.record(0).leader.unwrap();
    let leader = LeaderId { broker: leader.broker, incarnation: leader.incarnation };
    let stale = Proposal {
        leader: leader.clone(),
        leader_epoch: world.record(0).leader_epoch,
        partition_epoch: world.record(0).partition_epoch,
        isr: vec![Member { broker: leader.broker.clone(), storage: world.record(0).isr[0].storage }],
    };
    assert!(matches!(world.all_in_sync(0), Verdict::Accepted(_)));
    let unknown = PartitionId { topic: TopicId(99), index: PartitionIndex(0) };
    let proposals = [(partition(0), stale.clone()), (unknown, stale)];
    let (step, verdicts) = partition::propose(&world.catalog, NOW, &leader, &proposals);
    assert_eq!(step, None);
    assert!(matches!(&verdicts[0], Verdict::Newer(state) if state.partition_epoch == world.record(0).partition_epoch));
    assert_eq!(verdicts[1], Verdict::Refused(Refused::Unknown));
}

#[test]
fn partitions_get_the_replicas_that_were_missing_when_brokers_join() {
    let mut world = with_brokers(1);
    world.create(100);
    assert!((0..100).all(|index| world.record(index).replicas.len() == 1 && world.record(index).isr.len() == 1));
    world.register(&replicating(2));
    world.register(&replicating(3));
    let mut rounds = 0;
    while (0..100).any(|index| world.record(index).replicas.len() < 3 || world.record(index).moving.is_some()) {
        world.tend();
        let moving = (0..100).filter(|&index| world.record(index).moving.is_some()).collect::<Vec<_>>();
        assert!(moving.len() <= 64, "not all at once");
        moving.into_iter().for_each(|index| assert!(matches!(world.all_in_sync(index), Verdict::Accepted(_))));
        rounds += 1;
        assert!(rounds < 20);
    }
    assert!((0..100).all(|index| world.record(index).isr.len() == 3 && world.record(index).min_insync_replicas == 2));
    let load = world.catalog.live_load();
    assert!(load.values().all(|&carried| carried == 100), "{load:?}");
}

#[test]
fn a_broker_is_emptied_and_forgotten_by_order() {
    let mut world = with_brokers(4);
    world.create(60);
    let leaving = Some(Leaving { remove: true, replacement: None });
    let step = broker::drain(&world.catalog, NOW, &id("b4"), leaving).unwrap();
    world.commit(step.unwrap());
    let mut rounds = 0;
    while world.catalog.held_by(&id("b4")).next().is_some() {
        world.tend();
        let moving = (0..60).filter(|&index| world.record(index).moving.is_some()).collect::<Vec<_>>();
        moving.into_iter().for_each(|index| drop(world.all_in_sync(index)));
        rounds += 1;
        assert!(rounds < 20);
    }
    assert!((0..60).all(|index| world.record(index).replicas.len() == 3 && !world.leader(index).contains("b4")));
    world.all(|catalog| broker::unregister(catalog, NOW, &id("b4"), Incarnation(4)));
    world.tend();
    assert_eq!(world.catalog.broker(&id("b4")), None);
    assert_eq!(world.operations.last().unwrap(), "removeBrokerFromHashRing");
}

#[test]
fn a_broker_hears_what_was_moved_away_from_it_once() {
    let mut world = with_brokers(4);
    world.create(1);
    let before = world.record(0);
    let gone = before.replicas[0].clone();
    let since = world.catalog.revision();
    let to: Vec<_> = (1..=4).map(|number| id(&format!("b{number}"))).filter(|broker| *broker != gone).collect();
    let step = partition::reassign(&world.catalog, NOW, partition(0), &to).unwrap();
    world.commit(step.unwrap());
    assert!(matches!(world.all_in_sync(0), Verdict::Accepted(_)));
    assert!(!world.record(0).replicas.contains(&gone), "the move is complete");
    let incarnation = before.leader.unwrap().incarnation;
    let told = |catalog: &Catalog, since| catalog.assignments(&gone, incarnation, since);
    let news = told(&world.catalog, since);
    assert_eq!(news.len(), 1, "it led until now, and would not know");
    assert_eq!(news[0].record.replicas, to);
    let mut reread = world.catalog.clone();
    reread.continues(&world.catalog);
    assert_eq!(told(&reread, since).len(), 1);
    let heard = world.catalog.revision();
    assert_eq!(told(&world.catalog, heard), [], "told once");
    let back = partition::reassign(&world.catalog, NOW, partition(0), &before.replicas).unwrap();
    world.commit(back.unwrap());
    let again = told(&world.catalog, heard);
    assert!(again.len() == 1 && again[0].record.replicas.contains(&gone), "it is a replica again");
}

#[test]
fn leaderships_are_spread_and_a_rebalance_comes_to_rest() {
    let mut world = with_brokers(1);
    world.create(30);
    (2..=3).for_each(|number| _ = world.register(&replicating(number)));
    let settle = |world: &mut World| {
        world.tend();
        (0..30).for_each(|index| drop(world.all_in_sync(index)));
        world.tend();
    };
    settle(&mut world);
    settle(&mut world);
    assert!((0..30).all(|index| world.record(index).replicas.len() == 3 && world.leader(index) == "b1"));
    let orders = rebalance::orders(&world.catalog);
    for (id, to) in orders {
        let step = partition::reassign(&world.catalog, NOW, id, &to).unwrap();
        world.commit(step.unwrap());
    }
    settle(&mut world);
    for broker in ["b1", "b2", "b3"] {
        assert_eq!((0..30).filter(|&index| world.leader(index) == broker).count(), 10, "{broker}");
    }
    assert_eq!(rebalance::orders(&world.catalog), [], "a second one finds nothing to do");
}

#[test]
fn the_last_brokers_are_emptied_by_giving_up_replicas() {
    let mut world = with_brokers(3);
    world.create(20);
    let leave = |world: &mut World, number: u32| {
        let leaving = Some(Leaving { remove: false, replacement: None });
        let step = broker::drain(&world.catalog, NOW, &id(&format!("b{number}")), leaving).unwrap();
        world.commit(step.unwrap());
        world.tend();
    };
    leave(&mut world, 3);
    let two = |index| world.record(index).replicas.len() == 2 && world.record(index).min_insync_replicas == 2;
    assert!((0..20).all(|index| two(index) && !world.record(index).replicas.contains(&id("b3"))));
    leave(&mut world, 2);
    assert!((0..20).all(|index| world.record(index).replicas == [id("b1")] && world.leader(index) == "b1"));
    let leaving = Some(Leaving { remove: false, replacement: None });
    let refused = broker::drain(&world.catalog, NOW, &id("b1"), leaving).unwrap_err();
    let text = "no other broker is there to take the 20 partitions of b1: start one first";
    assert_eq!(refused.to_string(), text, "the last replica goes nowhere");
}

#[test]
fn evening_out_takes_a_few_transactions_and_leaves_alone_what_moves_already() {
    let mut world = with_brokers(3);
    world.create(300);
    for number in 4..=6 {
        world.register(&replicating(number));
    }
    let orders = rebalance::orders(&world.catalog);
    assert!(orders.len() > 200, "half of the replicas go to the new brokers: {}", orders.len());
    // One of them is moved by an operator in between.
    let (moved, to) = (orders[0].0, [id("b4"), id("b5"), id("b6")]);
    let step = partition::reassign(&world.catalog, NOW, moved, &to).unwrap();
    world.commit(step.unwrap());
    let mut rest = &orders[..];
    let mut steps = 0;
    while !rest.is_empty() {
        let (step, seen) = rebalance::begin(&world.catalog, NOW, rest);
        step.into_iter().for_each(|step| world.commit(step));
        rest = &rest[seen..];
        steps += 1;
    }
    assert!(steps <= 6, "{steps} transactions for {} partitions", orders.len());
    for (partition, to) in &orders[1..] {
        let record = world.catalog.partition(*partition).unwrap();
        let ordered = record.moving.as_ref().map_or(&record.replicas, |moving| &moving.to);
        assert_eq!(ordered, to);
    }
    let untouched = world.catalog.partition(moved).unwrap().moving.as_ref().unwrap();
    assert_eq!(untouched.to, to, "as the operator wants it");
}

#[test]
fn a_replacement_that_is_down_is_waited_for() {
    let mut world = with_brokers(5);
    world.create(30);
    world.die(5);
    let leaving = Some(Leaving { remove: false, replacement: Some(id("b5")) });
    let step = broker::drain(&world.catalog, NOW, &id("b4"), leaving).unwrap();
    world.commit(step.unwrap());
    world.tend();
    let moving = |world: &World| (0..30).filter(|&index| world.record(index).moving.is_some()).collect::<Vec<_>>();
    let (gone, comes) = (id("b4"), id("b5"));
    let held = world.catalog.held_by(&gone).map(|partition| world.record(partition.index.0));
    let to_move = held.filter(|record| !record.replicas.contains(&comes)).count();
    assert!(to_move > 0);
    assert!(moving(&world).iter().all(|&index| world.record(index).replicas.contains(&id("b5"))));
    world.register(&Registration { incarnation: Incarnation(55), ..replicating(5) });
    world.tend();
    assert!(moving(&world).len() >= to_move, "it is live: partitions go to it");
}

#[test]
fn while_another_broker_may_come_back_nothing_is_given_up() {
    let mut world = with_brokers(4);
    world.create(20);
    world.die(4);
    let held = |world: &World| world.catalog.held_by(&id("b3")).count();
    let (before, leaving) = (held(&world), Some(Leaving { remove: false, replacement: None }));
    let step = broker::drain(&world.catalog, NOW, &id("b3"), leaving).unwrap();
    world.commit(step.unwrap());
    world.tend();
    assert!(before > 0 && (0..20).all(|index| world.record(index).replicas.len() >= 3));
}

#[test]
fn another_factor_adds_replicas_or_lets_them_go() {
    let mut world = with_brokers(4);
    world.create(10);
    let alter = |world: &mut World, factor| {
        let alteration = Alteration { replication_factor: Some(factor), ..Default::default() };
        let step = topic::alter(&world.catalog, NOW, &name(), &alteration).unwrap();
        world.commit(step.unwrap());
        world.tend();
        (0..10).for_each(|index| drop(world.all_in_sync(index)));
        world.tend();
    };
    alter(&mut world, 4);
    assert!((0..10).all(|index| world.record(index).replicas.len() == 4 && world.record(index).moving.is_none()));
    alter(&mut world, 1);
    for index in 0..10 {
        let record = world.record(index);
        assert_eq!((record.replicas.len(), record.isr.len(), record.min_insync_replicas), (1, 1, 1));
        assert_eq!(world.leader(index), record.replicas[0].as_str());
    }
    let two = [id("b1"), id("b2")];
    let refused = partition::reassign(&world.catalog, NOW, partition(0), &two).unwrap_err();
    assert!(refused.to_string().contains("wants 1 replicas, not 2"), "{refused}");
}

#[test]
fn metadata_that_went_back_is_not_believed_before_all_replicas_have_reported() {
    let mut world = with_brokers(3);
    world.create(1);
    let replicas: Vec<u128> =
        world.record(0).replicas.iter().map(|broker| broker.as_str()[1..].parse().unwrap()).collect();
    let tells = |number: u128, epoch, end, answers| {
        let (leader_epoch, log_epoch) = (LeaderEpoch(9), LeaderEpoch(epoch));
        let end = goulette_types::Offset(end);
        let holding = Holding { leader_epoch, log_epoch, end, answers, ..Holding::default() };
        let held = HashMap::from([(partition(0), holding)]);
        Registration { held, incarnation: Incarnation(100 + number), ..replicating(number) }
    };
    // Who has not heard of the doubt may lead or follow on: what it holds is no report yet.
    replicas.iter().for_each(|&number| _ = world.register(&tells(number, 9, 900, None)));
    assert!(world.leader(0).contains("older than what replicas hold"), "{}", world.leader(0));
    let doubt = world.record(0).doubt.unwrap();
    assert!(doubt.reports.is_empty());
    let answers = Some((doubt.leader_epoch, doubt.partition_epoch));
    world.register(&tells(replicas[0], 8, 500, answers));
    world.register(&tells(replicas[1], 9, 400, answers));
    assert!(world.leader(0).contains(&format!("awaiting what the brokers b{} report", replicas[2])));
    world.register(&tells(replicas[2], 9, 300, answers));
    assert_eq!(world.leader(0), format!("b{}", replicas[1]), "the highest epoch, then the highest end");
    let record = world.record(0);
    assert!(record.leader_epoch > LeaderEpoch(9) && record.isr.len() == 1);
}

#[test]
fn a_broker_that_does_not_replicate_is_given_partitions_of_its_own() {
    let mut world = with_brokers(2);
    world.register(&registration("b3", 3, 3));
    world.create(30);
    assert!((0..30).all(|index| world.record(index).replicas.len() == 1));
    let told = world.catalog.assignments(&id("b3"), Incarnation(3), Revision(0));
    assert!(!told.is_empty() && told.iter().all(|told| told.replicas.is_empty()));
}

#[test]
fn a_broker_that_is_no_replica_proves_as_well_that_metadata_went_back() {
    let mut world = with_brokers(4);
    world.create(1);
    let other = (1..=4).find(|number| !world.record(0).replicas.contains(&id(&format!("b{number}")))).unwrap();
    let held = HashMap::from([(partition(0), Holding { leader_epoch: LeaderEpoch(9), ..Holding::default() })]);
    world.register(&Registration { held, incarnation: Incarnation(100), ..replicating(other) });
    let doubt = world.record(0).doubt.unwrap();
    assert_eq!((doubt.leader_epoch, doubt.reports.len()), (LeaderEpoch(9), 0));
}

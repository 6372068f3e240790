//! Plans carried out on a catalog that nothing but they have filled.

use std::collections::{BTreeMap, HashMap};

use goulette_meta::{
    Snapshot, Stored,
    keys::{BrokerState, OperationId},
};
use goulette_types::{
    BrokerId, ClusterId, Incarnation, LeaderEpoch, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, StorageId,
    TopicId, TopicName,
};

use super::{
    broker::{Holding, Registration},
    producer::Init,
    topic::{Alteration, NewTopic},
    *,
};
use crate::RequestError;

mod replicas;

const NOW: Timestamp = Timestamp(1_000);
const TOPIC: TopicId = TopicId(7);

/// A catalog, what the store would hold, and every operation that was recorded on the way.
#[derive(Default)]
struct World {
    catalog: Catalog,
    stored: BTreeMap<String, Stored>,
    operations: Vec<String>,
}

impl World {
    fn new() -> Self {
        let mut world = World::default();
        let step = cluster::create(&world.catalog, NOW, ClusterId(1), 3, 0);
        world.commit(step.unwrap());
        world.operations.clear();
        world
    }

    fn with_broker(name: &str) -> Self {
        let mut world = World::new();
        world.register(&registration(name, 1, 1));
        world.operations.clear();
        world
    }

    /// What the store does with a step: checks its limits, gives it a revision.
    fn commit(&mut self, step: Step) {
        step.txn(Some(Revision(1))).check().unwrap();
        for (key, revision) in &step.guards {
            let present = match key {
                Key::Counter(counter) => self.catalog.counter(*counter).1,
                Key::Partition(id) => self.catalog.partition_revision(*id),
                other => panic!("{other:?} guards nothing"),
            };
            assert_eq!(*revision, present, "guarded by the key as it is");
        }
        let revision = Revision(self.catalog.revision().0 + 1);
        for (key, value) in step.txn(None).writes {
            match value {
                Some(value) => self.stored.insert(key.clone(), Stored { key, value, revision }),
                None => self.stored.remove(&key),
            };
        }
        for change in &step.changes {
            self.catalog.apply(revision, change);
            if let Change::Put(Entry::Operation(_, record)) = change {
                self.operations.push(record.operation.name());
            }
        }
    }

    /// Carries out steps until none is left; answers how many there were.
    fn all(&mut self, plan: impl Fn(&Catalog) -> Result<Option<Step>, RequestError>) -> usize {
        let mut steps = 0;
        while let Some(step) = plan(&self.catalog).unwrap() {
            self.commit(step);
            steps += 1;
            assert!(steps < 1_000, "a plan comes to an end");
        }
        steps
    }

    fn register(&mut self, registration: &Registration) -> usize {
        self.all(|catalog| broker::register(catalog, NOW, registration))
    }

    fn create(&mut self, partitions: u32) {
        let step = topic::create(&self.catalog, NOW, TOPIC, &new_topic(partitions)).unwrap();
        self.commit(step.unwrap());
        self.all(|catalog| topic::fill(catalog, NOW, &name()));
    }

    fn leads(&self, index: u32) -> (String, u32, u64) {
        let partition = self.catalog.partition(partition(index)).unwrap();
        let leader = self.catalog.leader(partition).map_or_else(|offline| offline.to_string(), ToString::to_string);
        (leader, partition.leader_epoch.0, partition.partition_epoch.0)
    }
}

fn id(name: &str) -> BrokerId {
    name.parse().unwrap()
}

fn name() -> TopicName {
    "orders".parse().unwrap()
}

fn partition(index: u32) -> PartitionId {
    PartitionId { topic: TOPIC, index: PartitionIndex(index) }
}

fn registration(name: &str, incarnation: u128, storage: u128) -> Registration {
    Registration {
        broker: id(name),
        address: format!("{name}:1"),
        incarnation: Incarnation(incarnation),
        storage: StorageId(storage),
        release: "1".to_owned(),
        weight: 1,
        rack: None,
        replicates: false,
        held: HashMap::new(),
        producer_id_max: 0,
    }
}

fn new_topic(partitions: u32) -> NewTopic {
    NewTopic { name: name(), partitions, replication_factor: None, config: BTreeMap::new(), request_id: None }
}

#[test]
fn a_topic_and_its_partitions_are_one_transaction() {
    let mut world = World::with_broker("b1");
    let step = topic::create(&world.catalog, NOW, TOPIC, &new_topic(2)).unwrap().unwrap();
    world.commit(step);
    assert_eq!(world.operations, ["createTopic", "generateTopicReplicas"]);
    let topic = world.catalog.topic(&name()).unwrap();
    assert!(world.catalog.is_complete(topic));
    assert_eq!(topic.replication_factor, 3, "the cluster's");
    assert_eq!(world.leads(1), ("b1".to_owned(), 1, 1));
    let operation = world.catalog.partition(partition(1)).unwrap().operation;
    assert_eq!(operation, OperationId(5), "after the cluster's, the broker's two and the topic's own");
}

#[test]
fn a_large_topic_is_several_transactions_and_unusable_until_the_last() {
    let mut world = World::with_broker("b1");
    let step = topic::create(&world.catalog, NOW, TOPIC, &new_topic(PARTITIONS_MAX)).unwrap().unwrap();
    world.commit(step);
    assert!(!world.catalog.is_complete(world.catalog.topic(&name()).unwrap()));
    let steps = world.all(|catalog| topic::fill(catalog, NOW, &name()));
    assert!(world.catalog.is_complete(world.catalog.topic(&name()).unwrap()));
    assert_eq!(world.catalog.partitions(TOPIC).count(), PARTITIONS_MAX as usize);
    assert!((100..120).contains(&steps), "{steps} steps");
}

#[test]
fn partitions_spread_over_the_live_brokers() {
    let mut world = World::with_broker("b1");
    world.register(&registration("b2", 2, 2));
    world.register(&registration("b3", 3, 3));
    let step = broker::mark_down(&world.catalog, NOW, &id("b3"), Incarnation(3));
    world.commit(step.unwrap());
    world.create(150);
    let load = world.catalog.live_load();
    assert_eq!(load.keys().collect::<Vec<_>>(), [&id("b1"), &id("b2")]);
    assert_eq!(load.values().sum::<usize>(), 150);
    assert!(load.values().all(|&carried| carried <= 75 * 5 / 4), "{load:?}");
}

#[test]
fn a_repeated_request_is_recognised_and_another_one_is_refused() {
    let mut world = World::with_broker("b1");
    let mut request = new_topic(1);
    request.request_id = Some("r1".to_owned());
    let step = topic::create(&world.catalog, NOW, TOPIC, &request).unwrap();
    world.commit(step.unwrap());
    assert_eq!(topic::create(&world.catalog, NOW, TopicId(8), &request).unwrap(), None);
    for request_id in [None, Some("r2".to_owned())] {
        let other = NewTopic { request_id, ..request.clone() };
        let result = topic::create(&world.catalog, NOW, TopicId(8), &other);
        assert!(matches!(result, Err(RequestError::TopicExists { .. })), "{result:?}");
    }
}

#[test]
fn without_a_live_broker_no_topic_is_made() {
    let mut world = World::new();
    let result = topic::create(&world.catalog, NOW, TOPIC, &new_topic(1));
    assert!(matches!(result, Err(RequestError::NoBroker)), "{result:?}");
    world.register(&registration("b1", 1, 1));
    let step = broker::unregister(&world.catalog, NOW, &id("b1"), Incarnation(1)).unwrap();
    world.commit(step.unwrap());
    let result = topic::create(&world.catalog, NOW, TOPIC, &new_topic(1));
    assert!(matches!(result, Err(RequestError::NoLiveBroker { .. })), "{result:?}");
}

#[test]
fn a_new_broker_joins_the_ring_and_registers_in_one_transaction() {
    let mut world = World::new();
    assert_eq!(world.register(&registration("b1", 1, 1)), 1);
    assert_eq!(world.operations, ["addBrokerToHashRing", "registerBroker"]);
    assert_eq!(world.register(&registration("b1", 1, 1)), 0, "the same start again changes nothing");
    assert_eq!(world.register(&registration("b1", 2, 1)), 1);
    assert_eq!(world.operations[2..], ["registerBroker"]);
}

#[test]
fn a_new_start_leads_only_after_its_election() {
    let mut world = World::with_broker("b1");
    world.create(250);
    assert_eq!(world.leads(249), ("b1".to_owned(), 1, 1));
    let second = registration("b1", 2, 1);
    let first_step = broker::register(&world.catalog, NOW, &second).unwrap().unwrap();
    world.commit(first_step);
    assert_eq!(world.leads(0), ("b1".to_owned(), 2, 2));
    assert_eq!(world.leads(249).0, "awaiting the election of broker b1", "the old start leads nothing any more");
    assert!(world.register(&second) > 1);
    assert_eq!(world.leads(249), ("b1".to_owned(), 2, 2));
    assert_eq!(world.register(&second), 0);
}

#[test]
fn an_epoch_that_the_broker_has_seen_is_exceeded_even_if_the_metadata_has_not_seen_it() {
    let mut world = World::with_broker("b1");
    world.create(2);
    let mut again = registration("b1", 1, 1);
    again.held.insert(partition(1), Holding { leader_epoch: LeaderEpoch(40), ..Holding::default() });
    assert_eq!(world.register(&again), 1);
    assert_eq!((world.leads(0).1, world.leads(1).1), (1, 41));
    assert_eq!(world.register(&again), 0);
    let mut next = registration("b1", 2, 1);
    next.held.insert(partition(1), Holding { leader_epoch: LeaderEpoch(41), ..Holding::default() });
    world.register(&next);
    assert_eq!((world.leads(0).1, world.leads(1).1), (2, 42));
}

#[test]
fn an_empty_disk_never_takes_the_place_of_the_only_copy() {
    let mut world = World::with_broker("b1");
    world.create(1);
    world.register(&registration("b1", 2, 99));
    let (leader, epoch, _) = world.leads(0);
    assert!(leader.contains("awaiting broker b1 with the disk") && epoch == 1, "{leader}");
    world.register(&registration("b1", 3, 1));
    assert_eq!(world.leads(0), ("b1".to_owned(), 2, 3), "the disk is back");
}

#[test]
fn a_broker_that_is_down_is_awaited_and_comes_back_as_it_was() {
    let mut world = World::with_broker("b1");
    world.create(1);
    let step = broker::mark_down(&world.catalog, NOW, &id("b1"), Incarnation(1));
    world.commit(step.unwrap());
    assert_eq!(world.leads(0).0, "awaiting broker b1, which holds the only replica and is down");
    assert_eq!(broker::mark_down(&world.catalog, NOW, &id("b1"), Incarnation(1)), None);
    world.register(&registration("b1", 1, 1));
    assert_eq!(world.leads(0), ("b1".to_owned(), 2, 3), "elected anew");
    assert_eq!(broker::mark_down(&world.catalog, NOW, &id("b1"), Incarnation(9)), None, "another start");
}

#[test]
fn only_the_registered_start_can_unregister() {
    let mut world = World::with_broker("b1");
    let result = broker::unregister(&world.catalog, NOW, &id("b1"), Incarnation(9));
    assert!(matches!(result, Err(RequestError::BrokerFenced { .. })), "{result:?}");
    let step = broker::unregister(&world.catalog, NOW, &id("b1"), Incarnation(1)).unwrap();
    world.commit(step.unwrap());
    assert_eq!(world.catalog.broker(&id("b1")).unwrap().state, BrokerState::Left);
    assert_eq!(broker::unregister(&world.catalog, NOW, &id("b1"), Incarnation(1)).unwrap(), None);
}

#[test]
fn a_topic_grows_but_never_shrinks() {
    let mut world = World::with_broker("b1");
    world.create(2);
    let grow = |partitions| Alteration { partitions: Some(partitions), ..Alteration::default() };
    let step = topic::alter(&world.catalog, NOW, &name(), &grow(300)).unwrap();
    world.commit(step.unwrap());
    world.all(|catalog| topic::fill(catalog, NOW, &name()));
    assert_eq!(world.catalog.partitions(TOPIC).count(), 300);
    assert_eq!(topic::alter(&world.catalog, NOW, &name(), &grow(300)).unwrap(), None);
    let result = topic::alter(&world.catalog, NOW, &name(), &grow(299));
    assert!(matches!(result, Err(RequestError::PartitionsShrink { present: 300, wanted: 299, .. })), "{result:?}");
}

#[test]
fn settings_are_set_and_taken_back() {
    let mut world = World::with_broker("b1");
    world.create(1);
    let set = Alteration { set: BTreeMap::from([("fragment_ms".to_owned(), "5000".to_owned())]), ..Default::default() };
    let step = topic::alter(&world.catalog, NOW, &name(), &set).unwrap();
    world.commit(step.unwrap());
    let revision = world.catalog.revision();
    let told = world.catalog.assignments(&id("b1"), Incarnation(1), Revision(revision.0 - 1));
    assert_eq!(told[0].config["fragment_ms"], "5000", "the leader is told");
    assert_eq!(world.catalog.assignments(&id("b1"), Incarnation(1), revision), []);
    let unset = Alteration { unset: vec!["fragment_ms".to_owned()], ..Default::default() };
    let step = topic::alter(&world.catalog, NOW, &name(), &unset).unwrap();
    world.commit(step.unwrap());
    assert!(world.catalog.topic(&name()).unwrap().config.is_empty());
}

#[test]
fn a_deleted_topic_is_gone_at_once_and_remembered_for_ever() {
    let mut world = World::with_broker("b1");
    world.create(250);
    let before = world.catalog.revision();
    let step = topic::delete(&world.catalog, NOW, &name()).unwrap();
    world.commit(step);
    assert!(world.catalog.topic(&name()).is_none() && world.catalog.is_deleted(TOPIC));
    assert_eq!(world.catalog.assignments(&id("b1"), Incarnation(1), Revision(0)), [], "nobody leads it any more");
    assert!(world.all(|catalog| Ok(topic::sweep(catalog, NOW))) > 0);
    assert_eq!(world.catalog.partitions(TOPIC).count(), 0);
    assert_eq!(world.catalog.live_load()[&id("b1")], 0);
    assert_eq!(world.catalog.deleted_since(before), [TOPIC]);
    assert_eq!(world.catalog.deleted_since(world.catalog.revision()), []);
    assert!(matches!(topic::delete(&world.catalog, NOW, &name()), Err(RequestError::UnknownTopic { .. })));
}

#[test]
fn producers_get_ids_once_and_epochs_until_they_are_used_up() {
    let mut world = World::new();
    let new = |world: &mut World, present| match producer::init(&world.catalog, present).unwrap() {
        Init::New(id, step) => {
            world.commit(step);
            id.0
        }
        Init::Epoch(..) => panic!("a new id"),
    };
    assert_eq!((new(&mut world, None), new(&mut world, None)), (1, 2));
    let next = producer::init(&world.catalog, Some((ProducerId(2), ProducerEpoch(4)))).unwrap();
    assert_eq!(next, Init::Epoch(ProducerId(2), ProducerEpoch(5)));
    assert_eq!(new(&mut world, Some((ProducerId(2), ProducerEpoch(i16::MAX as u16)))), 3);
    for unknown in [0, 4, u64::MAX] {
        let result = producer::init(&world.catalog, Some((ProducerId(unknown), ProducerEpoch(0))));
        assert!(matches!(result, Err(RequestError::UnknownProducer { .. })), "{result:?}");
    }
    let mut seen = registration("b1", 1, 1);
    seen.producer_id_max = 500;
    world.register(&seen);
    assert_eq!(new(&mut world, None), 501, "above all that a broker has seen");
    seen.producer_id_max = u64::MAX;
    assert!(broker::register(&world.catalog, NOW, &seen).is_err());
}

#[test]
fn the_operation_log_is_bounded() {
    let mut world = World::with_broker("b1");
    let entry = Entry::Counter(Counter::Operation, CounterRecord { next: OPERATIONS_KEPT + 100 });
    world.catalog.apply(Revision(50), &Change::Put(entry));
    let step = topic::create(&world.catalog, NOW, TOPIC, &new_topic(PARTITIONS_MAX)).unwrap().unwrap();
    for old in [100, 101] {
        assert!(step.changes.contains(&Change::Delete(Key::Operation(OperationId(old)))));
    }
    let ring_of_one = |change: &Change| matches!(change, Change::Put(Entry::Ring(ring)) if ring.members.len() == 1);
    assert!(step.changes.iter().any(ring_of_one), "what they said of the ring is kept");
    world.commit(step);
}

#[test]
fn a_loaded_catalog_equals_the_one_that_was_kept_up() {
    let mut world = World::with_broker("b1");
    world.create(120);
    world.register(&registration("b2", 2, 2));
    world.register(&registration("b1", 3, 1));
    let step = topic::delete(&world.catalog, NOW, &name()).unwrap();
    world.commit(step);
    let other = NewTopic { name: "other".parse().unwrap(), ..new_topic(3) };
    let step = topic::create(&world.catalog, NOW, TopicId(8), &other).unwrap();
    world.commit(step.unwrap());
    let load = |world: &World| {
        let entries = world.stored.values().cloned().collect();
        Catalog::load(&Snapshot { revision: world.catalog.revision(), entries }).unwrap()
    };
    assert!(load(&world) == world.catalog, "half-way through a deletion");
    world.all(|catalog| Ok(topic::sweep(catalog, NOW)));
    assert!(load(&world) == world.catalog, "after it");
}

#[test]
fn the_ring_of_the_log_is_the_live_one_from_a_snapshot_too() {
    let mut world = World::with_broker("b1");
    let weighty = Registration { weight: 3, rack: Some("r1".to_owned()), ..registration("b2", 2, 2) };
    world.register(&weighty);
    world.create(5);
    world.register(&Registration { weight: 2, incarnation: Incarnation(3), ..weighty });
    let snapshot = |world: &World| {
        let entries = world.stored.values().cloned().collect();
        Snapshot { revision: world.catalog.revision(), entries }
    };
    assert_eq!(crate::replay::check(&snapshot(&world)), Vec::<String>::new());
    // The log is cut: what is before the snapshot is gone.
    let (next, revision) = world.catalog.counter(Counter::Operation);
    let ring = RingRecord { members: world.catalog.ring_members(), operation: OperationId(next - 1) };
    let mut changes: Vec<_> = (1..next).map(|id| Change::Delete(Key::Operation(OperationId(id)))).collect();
    changes.push(Change::Put(Entry::Ring(ring)));
    world.commit(Step { guards: vec![(Key::Counter(Counter::Operation), revision)], changes });
    world.register(&registration("b3", 4, 4));
    assert_eq!(crate::replay::check(&snapshot(&world)), Vec::<String>::new());
    // Operations that are missing are found, and so is what they said of the ring.
    let last = world.catalog.counter(Counter::Operation).0 - 1;
    for lost in [last - 1, last] {
        world.stored.remove(&Key::Operation(OperationId(lost)).path());
    }
    let problems = crate::replay::check(&snapshot(&world)).join("; ");
    let (names, differs) = ("brokers/b3 names operation", "broker b3 is on the ring");
    assert!(problems.contains(names) && problems.contains(differs), "{problems}");
}

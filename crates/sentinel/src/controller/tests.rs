//! The controller over a store whose machine dies at every operation on the disk.

use std::{collections::BTreeMap, path::Path};

use goulette_env::sim::{Faults, SimDisk, Unsynced};
use goulette_meta::LocalStore;
use goulette_types::{StorageId, TopicName};
use tokio::task::JoinHandle;

use super::*;
use crate::plan::{broker::Registration, topic::NewTopic};

/// What was answered before the machine died.
#[derive(Default)]
struct Answered {
    cluster: Option<ClusterId>,
    created: Vec<TopicName>,
    deleted: Vec<TopicName>,
    producer: u64,
}

struct Running {
    handle: ControllerHandle,
    state: Arc<State>,
    task: JoinHandle<Option<String>>,
}

async fn start(disk: &SimDisk) -> Option<Running> {
    let store = LocalStore::open(disk, Path::new("data")).ok()?;
    let cluster = NewCluster { id: None, replication_factor: 3 };
    let (controller, handle, state) =
        Controller::start(disk.env(), Arc::new(store), Standing::Sole, cluster).await.ok()?;
    Some(Running { handle, state, task: tokio::spawn(controller.run()) })
}

impl Running {
    /// Lets the controller finish what it has, and answers what the catalog then says.
    async fn stop(self) -> Arc<State> {
        drop(self.handle);
        self.task.await.unwrap();
        self.state
    }
}

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

/// Topics that need one transaction and several, a broker that comes twice, a deletion.
async fn script(disk: &SimDisk, answered: &mut Answered) -> Option<()> {
    let running = start(disk).await?;
    let handle = &running.handle;
    answered.cluster = running.state.catalog().cluster().map(|cluster| cluster.cluster_id);
    let mut registration = Registration {
        broker: "b1".parse().unwrap(),
        address: "b1:1".to_owned(),
        incarnation: Incarnation(1),
        storage: StorageId(1),
        release: "1".to_owned(),
        weight: 1,
        rack: None,
        replicates: false,
        held: Default::default(),
        producer_id_max: 0,
    };
    handle.register(registration.clone()).await.ok()?;
    for (topic, partitions) in [("small", 1), ("large", 200)] {
        let config = BTreeMap::new();
        let request = NewTopic { name: name(topic), partitions, replication_factor: None, config, request_id: None };
        handle.create_topic(request).await.ok()?;
        answered.created.push(name(topic));
    }
    answered.producer = handle.init_producer(None).await.ok()?.0.0;
    registration.incarnation = Incarnation(2);
    handle.register(registration).await.ok()?;
    // From here on nobody can tell whether it is there.
    answered.created.retain(|topic| topic.as_str() != "large");
    handle.delete_topic(name("large")).await.ok()?;
    answered.deleted.push(name("large"));
    answered.producer = handle.init_producer(None).await.ok()?.0.0;
    running.stop().await;
    Some(())
}

async fn check(disk: &SimDisk, answered: &Answered) {
    let state = start(disk).await.expect("a crash leaves metadata that loads").stop().await;
    let catalog = state.catalog();
    assert!(answered.cluster.is_none_or(|cluster| catalog.cluster().unwrap().cluster_id == cluster));
    for (topic, record) in catalog.topics() {
        assert!(catalog.is_complete(record), "{topic} is complete once a sentinel has started");
    }
    assert!(answered.created.iter().all(|topic| catalog.topic(topic).is_some()));
    assert!(answered.deleted.iter().all(|topic| catalog.topic(topic).is_none()));
    assert_eq!(catalog.orphans().count(), 0, "nothing is left of what was deleted");
    assert!(catalog.counter(keys::Counter::Producer).0 > answered.producer);
}

#[tokio::test]
async fn a_power_cut_at_any_operation_leaves_no_change_half_done() {
    let disk = SimDisk::from_seed(1);
    let mut answered = Answered::default();
    script(&disk, &mut answered).await.expect("an undisturbed run");
    check(&disk.restart(), &answered).await;
    for stop_at in 1..=disk.operations() {
        let disk = SimDisk::from_seed(stop_at);
        disk.set_faults(Faults { stop_at: Some(stop_at), ..Faults::default() });
        let mut answered = Answered::default();
        assert!(script(&disk, &mut answered).await.is_none() || stop_at + 20 > disk.operations());
        for unsynced in [Unsynced::None, Unsynced::Random] {
            check(&disk.crash(unsynced), &answered).await;
        }
    }
}

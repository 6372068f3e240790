//! A broker of many partitions dies, and the leader among the sentinels with it, in the middle of the elections.

use goulette_meta::{Entry, EtcdOptions, EtcdStore, MetaStore, keys};
use goulette_types::{BrokerId, Revision};

use crate::{
    brokers::Extra,
    cluster::{Store, eventually},
    mode::Mode,
    sentinels::Sentinels,
};

/// A transaction takes 100 keys at most: ten of them and more.
const PARTITIONS: usize = 1_000;
/// The leader is killed at once when the first transaction is seen; it may have been faster all the same.
const ATTEMPTS: usize = 10;

pub(crate) fn leader_killed_half_way(mode: &Mode) {
    let mut sentinels = Sentinels::start(mode);
    let store = Observer::new(&sentinels.stores[0]);
    let (whom, count) = (sentinels.all(), PARTITIONS.to_string());
    let _survivor = Extra::start(&sentinels.base, "broker2", &whom, &[]);
    let mut victim = Extra::start(&sentinels.base, "broker1", &whom, &[]);
    sentinels.until_works(&["topic", "create", "wide", "--partitions", &count, "--replication-factor", "2"]);

    for attempt in 1.. {
        eventually("both brokers are in sync everywhere", || {
            (store.in_sync("broker1") == PARTITIONS && store.in_sync("broker2") == PARTITIONS).then_some(())
        });
        let (leader, before) = (sentinels.leader(), store.revision());
        drop(victim);
        store.until_partition_changes(before);
        sentinels.kill(leader);
        let left = store.in_sync("broker1");
        println!(
            "  attempt {attempt}: the leader died when {left} of {PARTITIONS} partitions still counted on the dead broker"
        );
        eventually("another sentinel finishes it", || {
            (store.in_sync("broker1") == 0 && store.led_by("broker2") == PARTITIONS).then_some(())
        });
        sentinels.launch(leader);
        sentinels.until_serving(leader);
        if left > 0 {
            break;
        }
        assert!(attempt < ATTEMPTS, "the leader was always done before it could be killed");
        victim = Extra::start(&sentinels.base, "broker1", &whom, &[]);
    }

    let log = sentinels.json(&["oplog", "--from", "0", "--limit", "100000"]);
    let ids: Vec<_> = log.as_array().unwrap().iter().map(|entry| entry["id"].as_u64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids rise: {ids:?}");
    let status = sentinels.json(&["cluster", "status"]);
    assert_eq!(status["offline_count"], 0, "{status}");
    for index in 0..3 {
        let log = std::fs::read_to_string(sentinels.base.dir.path().join(format!("logs/sentinel_s{index}.log")));
        assert!(!log.unwrap().contains("does not agree"), "the operation log agrees with the keys at every start");
    }
}

/// Reads the metadata where it is kept.
struct Observer {
    runtime: tokio::runtime::Runtime,
    store: EtcdStore,
}

impl Observer {
    fn new(store: &Store) -> Self {
        let Store::External { endpoints, prefix } = store else { panic!("looks into an external etcd") };
        let mut options = EtcdOptions::new(vec![endpoints.clone()]);
        options.prefix.clone_from(prefix);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let store = EtcdStore::new(&options).unwrap();
        drop(entered);
        Self { runtime, store }
    }

    fn partitions(&self) -> (Revision, Vec<keys::PartitionRecord>) {
        let snapshot = self.runtime.block_on(self.store.range(keys::PREFIX)).unwrap();
        let partition = |stored: &goulette_meta::Stored| match Entry::parse(&stored.key, &stored.value).unwrap()? {
            Entry::Partition(_, record) => Some(record),
            _ => None,
        };
        (snapshot.revision, snapshot.entries.iter().filter_map(partition).collect())
    }

    fn revision(&self) -> Revision {
        self.partitions().0
    }

    /// In how many partitions a broker counts as in sync.
    fn in_sync(&self, broker: &str) -> usize {
        let broker: BrokerId = broker.parse().unwrap();
        let counts = |record: &&keys::PartitionRecord| record.isr.iter().any(|member| member.broker == broker);
        self.partitions().1.iter().filter(counts).count()
    }

    fn led_by(&self, broker: &str) -> usize {
        let broker: BrokerId = broker.parse().unwrap();
        let leads =
            |record: &&keys::PartitionRecord| record.leader.as_ref().is_some_and(|leader| leader.broker == broker);
        self.partitions().1.iter().filter(leads).count()
    }

    fn until_partition_changes(&self, behind: Revision) {
        let mut watch = self.store.watch(keys::PREFIX, Revision(behind.0 + 1));
        self.runtime.block_on(async {
            loop {
                let changes = watch.next().await.unwrap().changes;
                if changes.iter().any(|change| matches!(keys::Key::parse(&change.key), Some(keys::Key::Partition(_)))) {
                    return;
                }
            }
        });
    }
}

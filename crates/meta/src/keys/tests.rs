//! Paths and values as they are stored, to the letter: other programs, and later releases, read them.

use goulette_types::{ClusterId, Incarnation, LeaderEpoch, PartitionEpoch, PartitionIndex, StorageId, Timestamp};

use super::*;

fn topic_id() -> TopicId {
    TopicId(0xab)
}

fn entries() -> Vec<(Entry, &'static str, &'static str)> {
    let broker: BrokerId = "broker1".parse().unwrap();
    let topic: TopicName = "orders".parse().unwrap();
    let operation = OperationId(7);
    let sentinel = SentinelRecord {
        id: "s1".parse().unwrap(),
        address: "127.0.0.1:50052".to_owned(),
        incarnation: Incarnation(3),
        started_at: Timestamp(5),
        release: "0.1.0".to_owned(),
    };
    vec![
        (
            Entry::Cluster(ClusterRecord {
                cluster_id: ClusterId(0xc),
                replication_factor: 3,
                generation: 0,
                created_at: Timestamp(5),
                operation,
            }),
            "/goulette/cluster",
            r#"{"version":1,"cluster_id":"0000000000000000000000000000000c","replication_factor":3,"created_at_ms":5,"operation":"00000000000000000007"}"#,
        ),
        (
            Entry::Topic(
                topic.clone(),
                TopicRecord {
                    id: topic_id(),
                    partitions: 2,
                    replication_factor: 3,
                    config: [("fragment_ms".to_owned(), "1000".to_owned())].into(),
                    created_at: Timestamp(5),
                    request_id: None,
                    operation,
                },
            ),
            "/goulette/topics/orders",
            r#"{"version":1,"id":"000000000000000000000000000000ab","partitions":2,"replication_factor":3,"config":{"fragment_ms":"1000"},"created_at_ms":5,"operation":"00000000000000000007"}"#,
        ),
        (
            Entry::Partition(
                PartitionId { topic: topic_id(), index: PartitionIndex(1) },
                PartitionRecord {
                    replicas: vec![broker.clone()],
                    isr: vec![InSync { broker: broker.clone(), storage: StorageId(2) }],
                    eligible: Vec::new(),
                    leader: Some(Leader { broker: broker.clone(), incarnation: Incarnation(3) }),
                    leader_epoch: LeaderEpoch(4),
                    partition_epoch: PartitionEpoch(5),
                    min_insync_replicas: 1,
                    min_wanted: None,
                    unclean_epoch: LeaderEpoch(0),
                    moving: None,
                    doubt: None,
                    operation,
                },
            ),
            "/goulette/partitions/000000000000000000000000000000ab/1",
            r#"{"version":1,"replicas":["broker1"],"isr":[{"broker":"broker1","storage":"00000000000000000000000000000002"}],"leader":{"broker":"broker1","incarnation":"00000000000000000000000000000003"},"leader_epoch":4,"partition_epoch":5,"operation":"00000000000000000007"}"#,
        ),
        (
            Entry::Broker(
                broker.clone(),
                BrokerRecord {
                    address: "127.0.0.1:50051".to_owned(),
                    incarnation: Incarnation(3),
                    storage: StorageId(2),
                    state: BrokerState::Live,
                    since: Timestamp(5),
                    release: "0.1.0".to_owned(),
                    weight: 1,
                    rack: None,
                    replicates: false,
                    hands_over: false,
                    hangs: false,
                    leaving: None,
                    operation,
                },
            ),
            "/goulette/brokers/broker1",
            r#"{"version":1,"address":"127.0.0.1:50051","incarnation":"00000000000000000000000000000003","storage":"00000000000000000000000000000002","state":"live","since_ms":5,"release":"0.1.0","operation":"00000000000000000007"}"#,
        ),
        (
            Entry::Deleted(topic_id(), DeletedRecord { name: topic, at: Timestamp(5), operation }),
            "/goulette/deleted/000000000000000000000000000000ab",
            r#"{"version":1,"name":"orders","at_ms":5,"operation":"00000000000000000007"}"#,
        ),
        (
            Entry::Operation(
                OperationId(7),
                OperationRecord {
                    at: Timestamp(5),
                    request_id: Some("r1".to_owned()),
                    operation: Operation::GenerateTopicReplicas {
                        topic_id: topic_id(),
                        first: PartitionIndex(0),
                        replicas: vec![vec![broker]],
                    },
                },
            ),
            "/goulette/operations/00000000000000000007",
            r#"{"version":1,"at_ms":5,"request_id":"r1","name":"generateTopicReplicas","topic_id":"000000000000000000000000000000ab","first":0,"replicas":[["broker1"]]}"#,
        ),
        (
            Entry::Counter(Counter::Producer, CounterRecord { next: 9 }),
            "/goulette/increment/producer_id",
            r#"{"version":1,"next":9}"#,
        ),
        (
            Entry::Ring(RingRecord {
                members: [("b1".parse().unwrap(), RingMember { weight: 2, rack: Some("r".to_owned()) })].into(),
                operation,
            }),
            "/goulette/ring",
            r#"{"version":1,"members":{"b1":{"weight":2,"rack":"r"}},"operation":"00000000000000000007"}"#,
        ),
        (
            Entry::Sentinel(sentinel.id.clone(), sentinel.clone()),
            "/goulette/sentinels/s1",
            r#"{"version":1,"id":"s1","address":"127.0.0.1:50052","incarnation":"00000000000000000000000000000003","started_at_ms":5,"release":"0.1.0"}"#,
        ),
        (
            Entry::LeadingSentinel(sentinel),
            "/goulette/sentinel/leader",
            r#"{"version":1,"id":"s1","address":"127.0.0.1:50052","incarnation":"00000000000000000000000000000003","started_at_ms":5,"release":"0.1.0"}"#,
        ),
    ]
}

#[test]
fn every_entry_is_stored_as_documented_and_reads_back() {
    for (entry, path, value) in entries() {
        assert_eq!(entry.key().path(), path);
        assert_eq!(String::from_utf8_lossy(&entry.value()), value);
        assert_eq!(Entry::parse(path, value.as_bytes()).unwrap(), Some(entry));
    }
}

#[test]
fn a_newer_version_is_refused_by_name() {
    for (_, path, value) in entries() {
        let newer = value.replacen(r#""version":1"#, r#""version":2"#, 1);
        let error = Entry::parse(path, newer.as_bytes()).unwrap_err();
        assert!(matches!(&error, KeyError::Newer { found: 2, .. }), "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_field_that_a_later_release_added_is_no_obstacle() {
    for (entry, path, value) in entries() {
        let grown = value.replacen('{', r#"{"added_later":[1],"#, 1);
        assert_eq!(Entry::parse(path, grown.as_bytes()).unwrap(), Some(entry));
    }
}

#[test]
fn foreign_values_are_refused_and_foreign_keys_are_left_alone() {
    for value in ["", "null", "{}", "[]", r#"{"version":1}"#, r#"{"version":1,"cluster_id":"x"}"#, "\u{0}"] {
        let error = Entry::parse("/goulette/cluster", value.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("/goulette/cluster"), "{error}");
    }
    for path in [
        "/other/cluster",
        "/goulette/",
        "/goulette/x/y",
        "/goulette/topics/../x",
        "/goulette/operations/7",
        "",
        "/goulette/partitions/000000000000000000000000000000ab/01",
        "/goulette/increment/other",
    ] {
        assert_eq!(Entry::parse(path, b"x").unwrap(), None, "{path}");
    }
}

#[test]
fn operations_have_the_names_that_people_look_for() {
    let broker: BrokerId = "b".parse().unwrap();
    let named = |operation: &Operation| serde_json::to_value(operation).unwrap()["name"].as_str().unwrap().to_owned();
    let (incarnation, storage) = (Incarnation(1), StorageId(2));
    assert_eq!(
        named(&Operation::AddBrokerToHashRing { broker: broker.clone(), weight: 1, rack: None }),
        "addBrokerToHashRing"
    );
    let register = Operation::RegisterBroker { broker: broker.clone(), incarnation, storage, elected: 0 };
    assert_eq!(named(&register), "registerBroker");
    let unregister = Operation::UnregisterBroker { broker: broker.clone(), incarnation };
    assert_eq!(named(&unregister), "unregisterBroker");
    let unreachable = Operation::HandleUnreachableBrokers { brokers: vec![broker] };
    assert_eq!(named(&unreachable), "handleUnreachableBrokers");
}

//! The operation log, and metadata that moves.

use crate::{
    cluster::{Cluster, eventually},
    mode::{CLUSTER_ID, Mode, ask, ask_json, operations as operations_of, until_state},
};

pub(crate) fn operations(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"x\n");
    let before = operations_of(&cluster);
    for name in ["registerBroker", "addBrokerToHashRing", "generateTopicReplicas"] {
        assert!(before.iter().any(|(_, found)| found == name), "{name} is missing in {before:?}");
    }
    cluster.stop_broker();
    until_state(&cluster, "broker1", "left");
    cluster.kill_sentinel();
    cluster.start_sentinel();
    cluster.start_broker();
    ask(&cluster, &["topic", "create", "later"]);
    let after = operations_of(&cluster);
    assert_eq!(after[..before.len()], before, "what happened stays");
    let new: Vec<_> = after[before.len()..].iter().map(|(_, name)| name.as_str()).collect();
    for name in ["unregisterBroker", "registerBroker", "generateTopicReplicas"] {
        assert!(new.contains(&name), "{name} is missing in {new:?}");
    }
    let newest = ask_json(&cluster, &["oplog", "--limit", "1"]);
    assert_eq!(newest[0]["id"].as_u64(), after.last().map(|(id, _)| *id));
    let ask_text = ask(&cluster, &["oplog"]);
    assert!(ask_text.starts_with("ID"), "{ask_text}");
}

pub(crate) fn sentinel_killed(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"x\ny\n");
    let before = (ask_json(&cluster, &["topic", "describe", "orders"])["id"].clone(), operations_of(&cluster));
    for _ in 0..3 {
        cluster.kill_sentinel();
        cluster.start_sentinel();
        until_state(&cluster, "broker1", "healthy");
    }
    let described = ask_json(&cluster, &["topic", "describe", "orders"]);
    assert_eq!((&described["id"], &described["partitions"][0]["committed"]), (&before.0, &2.into()));
    assert_eq!(operations_of(&cluster)[..before.1.len()], before.1);
    cluster.produce("orders", b"z\n");
    assert_eq!(cluster.consume("orders"), b"x\ny\nz\n");
}

/// What an export must bring along of each topic.
fn essence(cluster: &Cluster) -> Vec<(String, String, String, usize)> {
    let topics = ask_json(cluster, &["topic", "list"]);
    let of = |topic: &serde_json::Value| {
        let partitions = topic["partitions"].as_array().unwrap().len();
        (topic["name"].to_string(), topic["id"].to_string(), topic["config"].to_string(), partitions)
    };
    topics.as_array().unwrap().iter().map(of).collect()
}

pub(crate) fn export_and_import(mode: &Mode) {
    let mut cluster = mode.start();
    ask(&cluster, &["topic", "create", "orders", "--partitions", "3", "--config", "retention_ms=86400000"]);
    cluster.produce("orders", b"a\nb\nc\n");
    cluster.produce("other", b"d\n");
    let (topics, log) = (essence(&cluster), operations_of(&cluster));
    ask(&cluster, &["cluster", "export", "metadata.jsonl"]);
    let twice = cluster.run(&["cluster", "export", "metadata.jsonl", "--sentinel", &cluster.sentinel_address]);
    assert!(!twice.status.success(), "an existing file is not overwritten");
    cluster.stop_broker();
    cluster.stop_sentinel();

    // To a new place in this mode, to the folder, and to an embedded etcd.
    for store in [mode.store(), Mode::Folder.store(), Mode::Embedded.store()] {
        // A new place, also where a mode has but one.
        for old in ["data/sentinel_sentinel1", "default.etcd"] {
            let _ = std::fs::remove_dir_all(cluster.dir.path().join(old));
        }
        cluster.store = store.clone();
        cluster.start_sentinel();
        ask(&cluster, &["cluster", "import", "metadata.jsonl"]);
        assert_eq!(essence(&cluster), topics, "{store:?}");
        let moved = operations_of(&cluster);
        assert!(
            moved.len() >= log.len() && moved[..log.len()] == log,
            "{store:?}: {moved:?} does not begin with {log:?}"
        );
        let again = cluster.run(&["cluster", "import", "metadata.jsonl", "--sentinel", &cluster.sentinel_address]);
        assert!(!again.status.success(), "metadata with topics is not overwritten");
        cluster.start_broker();
        until_state(&cluster, "broker1", "healthy");
        assert_eq!(cluster.consume("other"), b"d\n", "{store:?}");
        let mut lines: Vec<_> = cluster.consume("orders").split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        assert_eq!(lines.concat(), b"abc", "{store:?}");
        cluster.stop_broker();
        cluster.stop_sentinel();
    }
}

pub(crate) fn adopted(mode: &Mode) {
    let mut cluster = mode.start();
    ask(&cluster, &["topic", "create", "orders", "--partitions", "2"]);
    cluster.produce("orders", b"a\nb\n");
    let id = ask_json(&cluster, &["topic", "describe", "orders"])["id"].clone();
    cluster.stop_broker();
    cluster.stop_sentinel();
    for old in ["data/sentinel_sentinel1", "default.etcd"] {
        let _ = std::fs::remove_dir_all(cluster.dir.path().join(old));
    }
    cluster.store = mode.store();
    cluster.start_sentinel();
    cluster.start_broker();
    let status = eventually("the broker tells what nobody knows", || {
        let status = ask_json(&cluster, &["cluster", "status"]);
        (status["unknown_count"] == 2).then_some(status)
    });
    assert_eq!((&status["unknown"][0]["topic"], &status["unknown"][0]["topic_id"]), (&"orders".into(), &id));
    assert!(ask(&cluster, &["cluster", "status"]).contains("cluster adopt"));
    ask(&cluster, &["cluster", "adopt"]);
    assert_eq!(ask_json(&cluster, &["topic", "describe", "orders"])["id"], id);
    eventually("nothing is unknown", || {
        (ask_json(&cluster, &["cluster", "status"])["unknown_count"] == 0).then_some(())
    });
    let mut lines: Vec<_> = cluster.consume("orders").split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    lines.sort();
    assert_eq!(lines.concat(), b"ab");
    assert_eq!(ask_json(&cluster, &["cluster", "status"])["cluster_id"], CLUSTER_ID);
}

//! The operation log, and metadata that moves.

use std::{thread, time::Duration};

use rustix::process::Signal;

use crate::{
    cluster::{Cluster, Store, eventually, free_port, signal, text},
    mode::{CLUSTER_ID, Mode, ask, ask_json, broker_state, operations as operations_of, until_state},
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
        cluster.forget_metadata(store.clone());
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

/// A backup is put back that knows less than the brokers.
pub(crate) fn older_metadata(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"a\nb\n");
    ask(&cluster, &["cluster", "export", "metadata.jsonl"]);
    for _ in 0..2 {
        cluster.kill_broker();
        cluster.start_broker();
        until_state(&cluster, "broker1", "healthy");
    }
    cluster.produce("orders", b"c\n");
    cluster.produce("newer", b"d\n");
    let epoch = |cluster: &Cluster| {
        ask_json(cluster, &["topic", "describe", "orders"])["partitions"][0]["leader_epoch"].as_u64().unwrap()
    };
    let before = epoch(&cluster);
    cluster.stop_broker();
    cluster.stop_sentinel();
    cluster.forget_metadata(mode.store());
    cluster.start_sentinel();
    ask(&cluster, &["cluster", "import", "metadata.jsonl"]);
    cluster.start_broker();
    assert_eq!(cluster.consume("orders"), b"a\nb\nc\n", "nothing is cut off");
    assert!(epoch(&cluster) > before, "the sentinel goes on above what the broker has seen");
    eventually("what the backup does not know is told", || {
        (ask_json(&cluster, &["cluster", "status"])["unknown_count"] == 1).then_some(())
    });
    ask(&cluster, &["cluster", "adopt"]);
    assert_eq!(cluster.consume("newer"), b"d\n");
    cluster.produce("orders", b"e\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\nc\ne\n");
}

/// While the only sentinel sleeps longer than a session, nobody is heard; that is nobody's death.
pub(crate) fn sentinel_asleep(mode: &Mode) {
    let cluster = mode.start();
    cluster.produce("orders", b"a\n");
    let sentinel = cluster.sentinel.as_ref().unwrap();
    signal(sentinel, Signal::STOP);
    thread::sleep(Duration::from_secs(8));
    signal(sentinel, Signal::CONT);
    until_state(&cluster, "broker1", "healthy");
    // A session later it still is.
    thread::sleep(Duration::from_secs(7));
    assert_eq!(broker_state(&cluster, "broker1"), "healthy");
    let log = operations_of(&cluster);
    assert!(log.iter().all(|(_, name)| name != "handleUnreachableBrokers"), "{log:?}");
    cluster.produce("orders", b"b\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\n");
}

pub(crate) fn one_sentinel_id_twice(mode: &Mode) {
    let cluster = mode.start();
    let address = format!("-address=127.0.0.1:{}", free_port());
    let store = match &cluster.store {
        Store::Embedded { .. } => Store::Embedded { port: free_port(), peer_port: free_port() },
        shared => shared.clone(),
    };
    let mut flags = vec!["sentinel".to_owned(), address, "-admin-address=off".to_owned()];
    flags.extend(store.flags());
    let second = cluster.run(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    let named = match store {
        Store::Folder => "data/sentinel_sentinel1",
        Store::External { .. } => "sentinel id sentinel1 is taken",
        Store::Embedded { .. } => "default.etcd",
    };
    assert!(text(&second).contains(named), "{}", text(&second));
    cluster.produce("orders", b"a\n");
    assert_eq!(cluster.consume("orders"), b"a\n");
}

/// What somebody else writes among our keys does not count, is named, and harms nobody.
pub(crate) fn foreign_values(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"a\n");
    let (endpoint, prefix) = match &cluster.store {
        Store::Folder => panic!("nobody else writes into a folder that is locked"),
        Store::External { endpoints, prefix } => (endpoints.clone(), prefix.clone()),
        Store::Embedded { port, .. } => (format!("127.0.0.1:{port}"), "/goulette".to_owned()),
    };
    let etcd = |arguments: &[&str]| {
        let output = cluster.run(&[&["etcd"], arguments, &["--endpoints", &endpoint]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    };
    let key = |name: &str| format!("{prefix}/{name}");
    for name in ["topics/mine", "brokers/broker7", "operations/00000000000000000001", "nobody/knows/this"] {
        etcd(&["put", &key(name), r#"{"hello":"world"}"#]);
    }
    etcd(&["put", &key("topics/worse"), "no JSON"]);
    let foreign = eventually("the status names them", || {
        let status = ask_json(&cluster, &["cluster", "status"]);
        let foreign = status["foreign_keys"].as_array().unwrap().clone();
        (foreign.len() >= 4).then_some(foreign)
    });
    let foreign = format!("{foreign:?}");
    assert!(foreign.contains("topics/mine") && foreign.contains("topics/worse"), "{foreign}");
    ask(&cluster, &["topic", "create", "later"]);
    // At a start, too.
    cluster.stop_sentinel();
    cluster.start_sentinel();
    let topics = ask_json(&cluster, &["topic", "list"]);
    let names: Vec<_> = topics.as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["later", "orders"]);
    cluster.produce("orders", b"b\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\n");
    assert!(ask(&cluster, &["cluster", "status"]).contains("foreign key"));
}

pub(crate) fn adopted(mode: &Mode) {
    let mut cluster = mode.start();
    ask(&cluster, &["topic", "create", "orders", "--partitions", "2"]);
    cluster.produce("orders", b"a\nb\n");
    let id = ask_json(&cluster, &["topic", "describe", "orders"])["id"].clone();
    cluster.stop_broker();
    cluster.stop_sentinel();
    cluster.forget_metadata(mode.store());
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

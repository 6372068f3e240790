//! An external etcd that is away, or late.

use std::{fs, io::Write, process::Stdio};

use rustix::process::Signal;

use crate::{
    cluster::{Cluster, Store, eventually, signal, text},
    mode::{Mode, RealEtcd, ask, ask_json},
    users::Etcdctl,
};

pub(crate) fn external(mode: &Mode) -> &RealEtcd {
    let Mode::External(etcd) = mode else { panic!("a case of the external mode") };
    etcd
}

/// Waits until changes are taken again, and the status has nothing against the etcd any more.
fn recovers(cluster: &Cluster) {
    eventually("writes work again", || {
        let made = cluster.run(&["topic", "create", "again", "--sentinel", &cluster.sentinel_address]);
        (made.status.success() || text(&made).contains("exists")).then_some(())
    });
    eventually("the etcd is healthy", || {
        (ask_json(cluster, &["cluster", "status"])["store"]["healthy"] == true).then_some(())
    });
}

pub(crate) fn etcd_away(mode: &Mode) {
    let etcd = external(mode).another();
    let mut cluster = mode.prepare(&[]);
    cluster.store = Store::External { endpoints: etcd.endpoint(), prefix: "/goulette".to_owned() };
    cluster.start_sentinel();
    cluster.start_broker();
    // A producer that has its id: a new one would have to be given one, which is metadata.
    let producer = cluster.client(&["-mode", "producer", "-topic", "orders", "-file", "-"]);
    let mut producer = { producer }.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = producer.stdin.take().unwrap();
    pipe.write_all(b"a\n").unwrap();
    eventually("the first record is there", || {
        let described = cluster.run(&["topic", "describe", "orders", "--sentinel", &cluster.sentinel_address]);
        (described.status.success() && cluster.consume("orders") == b"a\n").then_some(())
    });

    signal(&etcd.child, Signal::STOP);
    eventually("the status says that the etcd is silent", || {
        let status = ask_json(&cluster, &["cluster", "status"]);
        (status["store"]["healthy"] == false).then_some(())
    });
    ask(&cluster, &["topic", "describe", "orders"]);
    // What runs needs no metadata that changes.
    pipe.write_all(b"b\n").unwrap();
    drop(pipe);
    let produced = producer.wait_with_output().unwrap();
    assert!(produced.status.success(), "{}", text(&produced));
    assert_eq!(cluster.consume("orders"), b"a\nb\n");
    let refused = cluster.run(&["topic", "create", "later", "--sentinel", &cluster.sentinel_address]);
    assert!(!refused.status.success(), "a write is refused: {}", text(&refused));
    signal(&etcd.child, Signal::CONT);
    recovers(&cluster);
}

/// Somebody fills the etcd: changes are refused in so many words, and taken again as soon as there is room.
pub(crate) fn etcd_full(mode: &Mode) {
    let mut etcd = external(mode).another();
    etcd.restart_with(&["--quota-backend-bytes=16777216".to_owned()]);
    etcd.until_serving();
    let mut cluster = mode.prepare(&[]);
    cluster.store = Store::External { endpoints: etcd.endpoint(), prefix: "/goulette".to_owned() };
    cluster.start_sentinel();
    cluster.start_broker();
    cluster.produce("orders", b"a\n");
    let value = "x".repeat(100_000);
    let filled = (0..1_000).find(|_| !etcd.tool(&["put", "/other/key", &value]).status.success());
    assert!(filled.is_some(), "a quota of 16 MiB is reached");

    let refused = cluster.run(&["topic", "create", "later", "--sentinel", &cluster.sentinel_address]);
    assert!(!refused.status.success() && text(&refused).contains("is full"), "{}", text(&refused));
    eventually("the status names the alarm", || {
        let problems = ask_json(&cluster, &["cluster", "status"])["problems"].to_string();
        (problems.contains("NOSPACE") && !problems.contains("does not answer")).then_some(())
    });
    assert_eq!(cluster.consume("orders"), b"a\n");

    let etcdctl = Etcdctl::of(&etcd, &[]);
    let revision = etcdctl.output(&["get", "/other/key", "--write-out=json", "--keys-only"]);
    let revision: serde_json::Value = serde_json::from_slice(&revision.stdout).unwrap();
    etcdctl.run(&["compact", &revision["header"]["revision"].to_string()]);
    etcdctl.run(&["defrag"]);
    etcdctl.run(&["alarm", "disarm"]);
    recovers(&cluster);
}

pub(crate) fn etcd_absent_at_the_start(mode: &Mode) {
    let mut etcd = external(mode).another();
    etcd.kill();
    let mut cluster = mode.prepare(&[]);
    cluster.store = Store::External { endpoints: etcd.endpoint(), prefix: "/goulette".to_owned() };
    cluster.launch_sentinel();
    let log = cluster.dir.path().join("logs/sentinel_sentinel1.log");
    let waits = |log: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(&etcd.endpoint())).count();
    eventually("the log says for whom it waits", || (waits(&fs::read_to_string(&log).ok()?) > 0).then_some(()));
    assert!(!cluster.run(&["health", &cluster.sentinel_address]).status.success(), "it is not ready");
    assert!(waits(&fs::read_to_string(&log).unwrap()) <= 2, "one line, not one for each attempt");
    etcd.restart();
    cluster.until_serving(&cluster.sentinel_address);
    cluster.start_broker();
    cluster.produce("orders", b"a\n");
}

//! Brokers that come, go, fall silent and return.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cluster::{Cluster, eventually, free_port, signal, snapshot, text},
    mode::{Mode, ask_json, broker_state, operations, until_state},
};

/// Defaults of the sentinel.
const SESSION: Duration = Duration::from_secs(6);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What asking for a state, in a process of its own, may take.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn broker_restarted(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"a\nb\n");
    cluster.stop_broker();
    until_state(&cluster, "broker1", "left");
    assert!(operations(&cluster).iter().any(|(_, name)| name == "unregisterBroker"));
    cluster.start_broker();
    until_state(&cluster, "broker1", "healthy");
    cluster.produce("orders", b"c\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\nc\n");
}

pub(crate) fn owner_killed(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"a\nb\n");
    cluster.kill_broker();
    until_state(&cluster, "broker1", "down");
    let flags = ["-mode", "producer", "-topic", "orders", "-message", "lost", "-delivery-timeout", "3"];
    let refused = cluster.client(&flags).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("broker1"), "the failure names the broker: {}", text(&refused));
    let described = ask_json(&cluster, &["topic", "describe", "orders"]);
    let offline = described["partitions"][0]["offline"].as_str().unwrap();
    assert!(offline.contains("broker1"), "{described}");
    assert_eq!(ask_json(&cluster, &["cluster", "status"])["offline_count"], 1);
    cluster.start_broker();
    cluster.produce("orders", b"c\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\nc\n");
    assert_eq!(cluster.committed("orders"), 3, "offsets are unbroken");
}

pub(crate) fn broker_paused(mode: &Mode) {
    let cluster = mode.start();
    cluster.produce("orders", b"a\n");
    let broker: &Child = cluster.broker.as_ref().unwrap();
    signal(broker, Signal::STOP);
    let stopped = Instant::now();
    let mut seen = Vec::new();
    eventually("broker1 is down", || {
        let state = broker_state(&cluster, "broker1");
        if seen.last() != Some(&state) {
            seen.push(state.clone());
        }
        (state == "down").then_some(())
    });
    let down = stopped.elapsed();
    signal(broker, Signal::CONT);
    let woken = Instant::now();
    until_state(&cluster, "broker1", "healthy");
    println!("  down after {:.2} s, back after {:.2} s", down.as_secs_f64(), woken.elapsed().as_secs_f64());
    // It was heard last at most a heartbeat before it was stopped.
    assert!(SESSION - HEARTBEAT <= down && down <= SESSION + Duration::from_secs(1) + LOOK, "down after {down:?}");
    assert!(seen.iter().any(|state| state == "suspect"), "it is suspect before it is down: {seen:?}");
    cluster.produce("orders", b"b\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\n");
}

pub(crate) fn one_id_twice(mode: &Mode) {
    let cluster = mode.start();
    cluster.produce("orders", b"a\n");
    let address = format!("127.0.0.1:{}", free_port());
    let flags = ["broker", "-id", "broker1", "-address", &address, "-data", "other", "-admin-address", "off"];
    let second = cluster.run(&[&flags[..], &["-sentinel", &cluster.sentinel_address]].concat());
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    assert!(text(&second).contains("broker1"), "{}", text(&second));
    cluster.produce("orders", b"b\n");
    assert_eq!(cluster.consume("orders"), b"a\nb\n");
}

pub(crate) fn broker_added(mode: &Mode) {
    let cluster = mode.start();
    cluster.produce("orders", b"a\n");
    let second = Extra::start(&cluster, "broker2", &cluster.sentinel_address, &[]);
    until_state(&cluster, "broker2", "healthy");
    let flags = ["topic", "create", "wide", "--partitions", "16", "--replication-factor", "1"];
    let wide = ask_json(&cluster, &flags);
    let led: Vec<_> = wide["partitions"].as_array().unwrap().iter().map(|partition| &partition["leader"]).collect();
    assert!(led.iter().any(|leader| *leader == "broker2"), "the new broker leads something new: {led:?}");
    assert!(led.iter().any(|leader| *leader == "broker1"), "the old one, too: {led:?}");
    assert_eq!(ask_json(&cluster, &["topic", "describe", "orders"])["partitions"][0]["leader"], "broker1");
    let lines: String = (0..200).map(|number| format!("{number}\n")).collect();
    cluster.produce("wide", lines.as_bytes());
    assert_eq!(cluster.consume("wide").iter().filter(|&&byte| byte == b'\n').count(), 200);
    drop(second);
}

/// Half of the cluster's weight is in a rack of its own: every partition has one of its two replicas there.
pub(crate) fn racks_and_weights(mode: &Mode) {
    let mut cluster = mode.prepare(&[]);
    cluster.start_sentinel();
    let placed = [("broker1", "left", "1"), ("broker2", "left", "1"), ("broker3", "right", "2")];
    let _brokers = placed.map(|(id, rack, weight)| {
        Extra::start(&cluster, id, &cluster.sentinel_address, &["-rack", rack, "-weight", weight])
    });
    for (id, ..) in placed {
        until_state(&cluster, id, "healthy");
    }
    let wide = ask_json(&cluster, &["topic", "create", "wide", "--partitions", "24", "--replication-factor", "2"]);
    for partition in wide["partitions"].as_array().unwrap() {
        let replicas = partition["replicas"].as_array().unwrap();
        assert!(replicas.len() == 2 && replicas.iter().any(|replica| replica == "broker3"), "{partition}");
    }
    let status = ask_json(&cluster, &["cluster", "status"]);
    let third = status["brokers"].as_array().unwrap().iter().find(|broker| broker["id"] == "broker3").unwrap();
    assert_eq!((&third["rack"], &third["weight"]), (&"right".into(), &2.into()));
}

pub(crate) fn foreign_cluster(mode: &Mode) {
    let mut cluster = mode.start();
    cluster.produce("orders", b"a\n");
    cluster.stop_broker();
    let identity = |cluster: &Cluster| {
        snapshot(&cluster.broker_data()).into_iter().find(|(path, _)| path.ends_with("broker.json")).unwrap()
    };
    let before = identity(&cluster);
    // Without the suite's id, so that it draws one.
    let mut other = Cluster::prepare(&[], &[]);
    other.store = mode.store();
    other.start_sentinel();
    let address = format!("127.0.0.1:{}", free_port());
    let refused =
        cluster.run(&["broker", "-address", &address, "-sentinel", &other.sentinel_address, "-admin-address", "off"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("cluster"), "{}", text(&refused));
    assert!(identity(&cluster) == before);
    cluster.start_broker();
    assert_eq!(cluster.consume("orders"), b"a\n");
}

/// A further broker of a cluster; killed at the end.
pub(crate) struct Extra {
    child: Child,
}

impl Extra {
    /// Serving, registered at these sentinels.
    pub(crate) fn start(cluster: &Cluster, id: &str, sentinels: &str, more: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let flags = ["broker", "-id", id, "-address", &address, "-sentinel", sentinels, "-admin-address", "off"];
        let out = std::fs::File::create(cluster.dir.path().join(format!("{id}.out"))).unwrap();
        let child = cluster.command(&[&flags[..], more].concat()).stderr(out).spawn().unwrap();
        let extra = Self { child };
        cluster.until_serving(&address);
        extra
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The admin port of the real processes.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use crate::cluster::{Cluster, eventually, free_port, text};

/// Status and body of an answer.
fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Where a process says, in its log, that its admin port is.
fn admin_address(cluster: &Cluster, log: &str) -> String {
    eventually("the log names the admin port", || {
        let log = fs::read_to_string(cluster.dir.path().join("logs").join(log)).ok()?;
        let (_, address) = log.rsplit_once("admin port: http://")?;
        Some(address.split('/').next()?.to_owned())
    })
}

/// The names of the metrics of one page, as its `TYPE` lines and samples tell them.
fn names(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let suffixed = types.filter_map(|line| line.split_once(' ')).map(|(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    });
    suffixed.collect()
}

#[test]
fn the_documented_metrics_are_the_ones_served() {
    let cluster = Cluster::start();
    cluster.produce("metered", b"one\ntwo\n");
    assert_eq!(cluster.consume("metered"), b"one\ntwo\n");
    // The producer has gone; the broker hears of that in its own time.
    let broker = eventually("no produce stream is left", || {
        let broker = get(&admin_address(&cluster, "broker_broker1.log"), "/metrics").expect("metrics");
        broker.1.contains("goulette_broker_produce_streams 0\n").then_some(broker)
    });
    let sentinel = get(&admin_address(&cluster, "sentinel_sentinel1.log"), "/metrics").expect("metrics");
    assert_eq!((broker.0, sentinel.0), (200, 200));
    for (page, sample) in [
        (&broker.1, "goulette_broker_appended_records_total 2\n"),
        (&broker.1, "goulette_broker_partitions_led 1\n"),
        (&sentinel.1, "goulette_sentinel_topics 1\n"),
        (&sentinel.1, "goulette_sentinel_partitions_offline 0\n"),
        (&sentinel.1, "goulette_sentinel_brokers{state=\"live\"} 1\n"),
        (&sentinel.1, "{method=\"RegisterBroker\",outcome=\"ok\"} 1\n"),
    ] {
        assert!(page.contains(sample), "no {sample:?} in\n{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
    // Two records in one batch or in two, as the producer's timing has it.
    let appends = ["goulette_broker_append_seconds_count 1\n", "goulette_broker_append_seconds_count 2\n"];
    assert!(appends.iter().any(|sample| broker.1.contains(sample)), "{}", broker.1);
    let served: BTreeSet<_> = names(&broker.1).union(&names(&sentinel.1)).cloned().collect();
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md"));
    let document = document.expect("the page of metrics");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `goulette_")?.split('`').next());
    let documented: BTreeSet<_> = rows.map(|name| format!("goulette_{name}")).collect();
    assert_eq!(served, documented);
}

#[test]
fn a_broker_without_a_sentinel_is_live_and_not_ready_and_says_why() {
    let mut cluster = Cluster::start();
    cluster.stop_broker();
    cluster.kill_sentinel();
    let port = format!("127.0.0.1:{}", free_port());
    let flags = ["broker", "-address", &cluster.broker_address, "-sentinel", &cluster.sentinel_address];
    let mut command = cluster.command(&flags);
    command.args(["-admin-address", &port]);
    cluster.broker = Some(command.spawn().expect("the binary starts"));
    let (status, reason) = eventually("the admin port answers that it waits", || {
        get(&port, "/readyz").filter(|(_, reason)| reason.contains("sentinel"))
    });
    assert_eq!(status, 503, "{reason}");
    assert_eq!(get(&port, "/livez"), Some((200, "live\n".to_owned())));
    cluster.start_sentinel();
    eventually("the broker becomes ready", || get(&port, "/readyz").filter(|(status, _)| *status == 200));
    cluster.stop_broker();
}

#[test]
fn a_taken_admin_port_is_named_and_off_does_without() {
    let mut cluster = Cluster::start();
    cluster.stop_broker();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").to_string();
    for role in ["broker", "sentinel"] {
        let address = format!("127.0.0.1:{}", free_port());
        let data = format!("{role}-data");
        let mut command = cluster.command(&[role, "-address", &address, "-admin-address", &port, "-data", &data]);
        match role {
            "broker" => command.args(["-sentinel", &cluster.sentinel_address]),
            _ => command.arg("-enable-embedded-etcd=false"),
        };
        let refused = command.output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(&port) && stderr.contains("-admin-address"), "{stderr}");
    }
    let flags = ["broker", "-address", &cluster.broker_address, "-sentinel", &cluster.sentinel_address];
    let already = cluster.broker_log().matches("admin port").count();
    let mut command = cluster.command(&flags);
    cluster.broker = Some(command.args(["-admin-address", "off"]).spawn().expect("the binary starts"));
    cluster.until_serving(&cluster.broker_address);
    assert_eq!(cluster.broker_log().matches("admin port").count(), already);
    cluster.stop_broker();
}

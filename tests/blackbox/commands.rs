//! The commands that people and scripts use beside producing and consuming.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::cluster::{Cluster, binary, text};

fn json(output: &std::process::Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

#[test]
fn topics_are_created_shown_altered_and_deleted() {
    let cluster = Cluster::start();
    let topic = |arguments: &[&str]| {
        let mut command = cluster.command(&["topic"]);
        command.args(arguments).args(["--sentinel", &cluster.sentinel_address]).output().expect("the binary runs")
    };
    let created =
        topic(&["create", "orders", "--partitions", "3", "--replication-factor", "3", "--config", "fragment_ms=60000"]);
    assert!(created.status.success(), "{}", text(&created));
    assert!(String::from_utf8_lossy(&created.stdout).contains("1 of 3"), "{}", text(&created));
    let again = topic(&["create", "orders"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(String::from_utf8_lossy(&again.stderr).contains("orders"));

    let described = json(&topic(&["describe", "orders", "--output", "json"]));
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(described["config"]["fragment_ms"], "60000");
    assert!(String::from_utf8_lossy(&topic(&["describe", "orders"]).stdout).contains("1 of 3"));

    let altered = topic(&["alter", "orders", "--partitions", "4", "--config", "fragment_ms=70000"]);
    assert!(altered.status.success(), "{}", text(&altered));
    assert_eq!(
        json(&topic(&["describe", "orders", "--output", "json"]))["partitions"].as_array().map(Vec::len),
        Some(4)
    );
    let fewer = topic(&["alter", "orders", "--partitions", "2"]);
    assert_eq!(fewer.status.code(), Some(1), "{}", text(&fewer));

    assert!(String::from_utf8_lossy(&topic(&["list"]).stdout).contains("orders"));
    let deleted = topic(&["delete", "orders"]);
    assert!(deleted.status.success(), "{}", text(&deleted));
    let gone = topic(&["describe", "orders"]);
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone));
}

#[test]
fn a_topic_made_again_under_its_old_name_is_empty() {
    let mut cluster = Cluster::start();
    cluster.produce("again", b"old\n");
    let deleted = cluster.run(&["topic", "delete", "again", "--sentinel", &cluster.sentinel_address]);
    assert!(deleted.status.success(), "{}", text(&deleted));
    cluster.produce("again", b"new\n");
    assert_eq!(cluster.consume("again"), b"new\n");
    cluster.kill_broker();
    cluster.start_broker();
    assert_eq!(cluster.consume("again"), b"new\n");
}

#[test]
fn the_old_names_of_the_programs_work() {
    let cluster = Cluster::start();
    let bin = cluster.dir.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    for name in ["broker", "sentinel", "client"] {
        symlink(binary(), bin.join(name)).expect("a link");
        let help = Command::new(bin.join(name)).arg("-help").output().expect("the binary runs");
        assert!(help.status.success(), "{}", text(&help));
        assert!(String::from_utf8_lossy(&help.stdout).contains("-log-level"), "{}", text(&help));
    }
    let arguments = ["-mode=producer", "--sentinel", &cluster.sentinel_address, "-topic", "names", "-message", "-5"];
    let sent = Command::new(bin.join("client")).args(arguments).current_dir(cluster.dir.path()).output();
    let sent = sent.expect("the binary runs");
    assert!(sent.status.success(), "{}", text(&sent));
    assert_eq!(cluster.consume("names"), b"-5\n");
}

#[test]
fn version_and_help_succeed() {
    let cluster = Cluster::prepare(&[], &[]);
    let version = cluster.run(&["--version"]);
    assert!(version.status.success() && String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    for command in [&["--help"][..], &["broker", "--help"], &["topic", "--help"], &["bench", "--help"]] {
        assert!(cluster.run(command).status.success(), "{command:?}");
    }
}

#[test]
fn the_benches_measure_and_print_json() {
    let cluster = Cluster::start();
    let produce = json(&cluster.run(&[
        "bench",
        "produce",
        "--sentinel",
        &cluster.sentinel_address,
        "--topic",
        "b",
        "--records",
        "5000",
        "--size",
        "100",
        "--output",
        "json",
    ]));
    for key in ["records_per_s", "mb_per_s", "ack_ms_p50", "ack_ms_p99", "ack_ms_p999"] {
        assert!(produce[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} in {produce}");
    }
    assert_eq!(produce["acks"], "all");
    assert_eq!(cluster.committed("b"), 5000);
    let consume = json(&cluster.run(&[
        "bench",
        "consume",
        "--sentinel",
        &cluster.sentinel_address,
        "--topic",
        "b",
        "--records",
        "5000",
        "--output",
        "json",
    ]));
    assert!(consume["mb_per_s"].as_f64().is_some_and(|figure| figure > 0.0), "{consume}");
}

#[test]
fn status_and_health_tell_the_truth() {
    let mut cluster = Cluster::start();
    assert_eq!(cluster.run(&["health", &cluster.broker_address]).status.code(), Some(0));
    cluster.kill_broker();
    assert_eq!(cluster.run(&["health", &cluster.broker_address]).status.code(), Some(3));
}

//! Bad input: each gives one clear line, the right exit code, no panic, and leaves the data as it was.

use std::{fs, process::Output};

use crate::cluster::{Cluster, binary, feed, free_port, snapshot, text};

/// One line on stderr that holds all of `words`, and the exit code.
fn assert_refused(what: &str, output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {}", text(output));
    for word in words {
        assert!(said.contains(word), "{what}: {word:?} is missing in {said:?}");
    }
    assert!(!said.contains("panicked"), "{what}: {said}");
    let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
    // Usage errors may add how the command is used.
    assert!(lines == 1 || code == 2 && (1..=8).contains(&lines), "{what}: {lines} lines: {said}");
}

/// Starts a server that is expected to end at once. Its admin port would be its own port + 10, which may be another test's.
fn start(cluster: &Cluster, arguments: &[&str]) -> Output {
    cluster.run(&[arguments, &["-admin-address", "off"]].concat())
}

#[test]
fn usage_errors_exit_2_and_name_the_flag() {
    let cluster = Cluster::prepare(&[], &[]);
    let long = "x".repeat(250);
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("no mode", &["client", "-message", "x"], &["mode"]),
        ("unknown mode", &["client", "-mode", "both"], &["both"]),
        ("unknown command", &["frobnicate"], &["frobnicate"]),
        ("unknown flag", &["broker", "-frob", "1"], &["frob"]),
        ("topic with a path", &["client", "-mode", "producer", "-topic", "../x", "-message", "x"], &["../x", "topic"]),
        ("empty topic", &["client", "-mode", "producer", "-topic", "", "-message", "x"], &["topic", "empty"]),
        ("long topic", &["client", "-mode", "producer", "-topic", &long, "-message", "x"], &["249"]),
        ("topic with a space", &["client", "-mode", "producer", "-topic", "a b", "-message", "x"], &["a b"]),
        ("create of an illegal topic", &["topic", "create", "a/b"], &["a/b"]),
        ("broker id with a path", &["broker", "-id", "../b"], &["../b"]),
        ("long sentinel id", &["sentinel", "-id", &long, "-enable-embedded-etcd=false"], &["64"]),
        ("message and file", &["client", "-mode", "producer", "-message", "x", "-file", "y"], &["-message", "-file"]),
        ("bad address", &["broker", "-address", "nonsense"], &["nonsense"]),
        ("bad level", &["broker", "-log-level", "loud"], &["loud"]),
        ("bad window", &["client", "-mode", "producer", "-message", "x", "-window", "0"], &["window"]),
        ("bad acks", &["client", "-mode", "producer", "-message", "x", "-acks", "most"], &["most"]),
    ];
    for (what, arguments, words) in cases {
        assert_refused(what, &cluster.run(arguments), 2, words);
    }
    assert!(!cluster.dir.path().join("data").exists(), "nothing was made");
}

#[test]
fn flags_of_another_mode_are_refused_and_named() {
    let cluster = Cluster::prepare(&[], &[]);
    let both = ["sentinel", "-etcd-endpoints", "127.0.0.1:1"];
    assert_refused(
        "endpoints beside the embedded etcd",
        &cluster.run(&both),
        2,
        &["-etcd-endpoints", "-enable-embedded-etcd=false"],
    );
    let user = ["sentinel", "-enable-embedded-etcd=false", "-etcd-username", "u"];
    assert_refused("a user without an etcd", &cluster.run(&user), 2, &["-etcd-username", "-etcd-endpoints"]);
    let alone = ["sentinel", "-etcd-initial-cluster", "s2=http://127.0.0.1:1"];
    assert_refused("a cluster of others", &cluster.run(&alone), 2, &["-etcd-initial-cluster", "sentinel1"]);
    assert!(!cluster.dir.path().join("default.etcd").exists(), "nothing was made");
}

#[test]
fn taken_ports_of_the_embedded_etcd_are_named_with_both_ways_out() {
    let cluster = Cluster::prepare(&[], &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (peer, address) = (free_port().to_string(), format!("127.0.0.1:{}", free_port()));
    let sentinel = ["sentinel", "-address", &address, "-etcd-port", &port, "-etcd-peer-port", &peer];
    let words = [port.as_str(), "-etcd-port", "-enable-embedded-etcd=false -etcd-endpoints"];
    assert_refused("the client port", &start(&cluster, &sentinel), 1, &words);
    let sentinel = ["sentinel", "-address", &address, "-etcd-port", &peer, "-etcd-peer-port", &port];
    let words = [port.as_str(), "-etcd-peer-port", "-enable-embedded-etcd=false -etcd-endpoints"];
    assert_refused("the peer port", &start(&cluster, &sentinel), 1, &words);
}

#[test]
fn an_unreachable_sentinel_exits_3_and_names_it() {
    let cluster = Cluster::prepare(&[], &[]);
    let address = format!("127.0.0.1:{}", free_port());
    for arguments in [
        &["client", "-mode", "producer", "-message", "x", "-sentinel", &address][..],
        &["client", "-mode", "consumer", "-count", "1", "-sentinel", &address],
        &["topic", "list", "--sentinel", &address],
        &["health", &address],
    ] {
        assert_refused(&format!("{arguments:?}"), &cluster.run(arguments), 3, &[&address]);
    }
}

#[test]
fn requests_that_cannot_be_met_are_refused_and_store_nothing() {
    let cluster = Cluster::start_with(&["-auto-create-topics=false"], &[]);
    let unknown = feed(cluster.client(&["-mode", "producer", "-topic", "nope", "-file", "-"]), b"x\n");
    assert_refused("unknown topic", &unknown, 1, &["nope", "topic create"]);
    let unknown = cluster.client(&["-mode", "consumer", "-topic", "nope", "-count", "1"]).output().expect("it runs");
    assert_refused("unknown topic to read", &unknown, 1, &["nope"]);

    let created = cluster.run(&["topic", "create", "t", "--sentinel", &cluster.sentinel_address]);
    assert!(created.status.success(), "{}", text(&created));
    cluster.produce("t", b"a\nb\n");

    let big = vec![b'x'; 1024 * 1024 + 1];
    let refused = feed(cluster.client(&["-mode", "producer", "-topic", "t", "-file", "-"]), &big);
    assert_refused("large record", &refused, 1, &["1048576"]);

    let missing =
        cluster.client(&["-mode", "producer", "-topic", "t", "-file", "no-such-file"]).output().expect("it runs");
    assert_refused("missing file", &missing, 1, &["no-such-file"]);

    let far =
        cluster.client(&["-mode", "consumer", "-topic", "t", "-group", "", "-from", "99", "-count", "1"]).output();
    assert_refused("offset out of range", &far.expect("it runs"), 1, &["99", "2"]);

    let config = ["topic", "create", "u", "--config", "colour=red", "--sentinel", &cluster.sentinel_address];
    assert_refused("unknown topic key", &cluster.run(&config), 1, &["colour", "fragment_ms"]);
    let many = ["topic", "create", "u", "--partitions", "1000000", "--sentinel", &cluster.sentinel_address];
    assert_refused("too many partitions", &cluster.run(&many), 1, &["partitions"]);

    assert_eq!(cluster.consume("t"), b"a\nb\n");
}

#[test]
fn busy_ports_are_named() {
    let cluster = Cluster::start();
    let other = cluster.dir.path().join("other");
    let other = other.to_str().expect("a path");
    let broker = ["broker", "-id", "b2", "-address", &cluster.sentinel_address, "-data", other];
    assert_refused("broker", &start(&cluster, &broker), 1, &[&cluster.sentinel_address]);
    let sentinel =
        ["sentinel", "-id", "s2", "-address", &cluster.broker_address, "-data", other, "-enable-embedded-etcd=false"];
    assert_refused("sentinel", &start(&cluster, &sentinel), 1, &[&cluster.broker_address]);
}

#[test]
fn a_data_folder_in_use_is_refused_and_left_alone() {
    let mut cluster = Cluster::start();
    cluster.produce("t", b"x\n");
    let free = format!("127.0.0.1:{}", free_port());
    let broker = ["broker", "-address", &free, "-sentinel", &cluster.sentinel_address];
    assert_refused("locked by a broker", &start(&cluster, &broker), 1, &["data/broker1"]);
    let sentinel = ["sentinel", "-address", &free, "-enable-embedded-etcd=false"];
    assert_refused("locked by a sentinel", &start(&cluster, &sentinel), 1, &["data/sentinel_sentinel1"]);
    assert_eq!(cluster.consume("t"), b"x\n");

    cluster.stop_broker();
    let before = snapshot(&cluster.broker_data());
    let foreign = ["broker", "-id", "broker9", "-data", "data/broker1", "-address", &free];
    assert_refused("of another broker", &start(&cluster, &foreign), 1, &["broker1", "broker9"]);
    assert_eq!(snapshot(&cluster.broker_data()), before);

    cluster.stop_sentinel();
    let before = snapshot(&cluster.dir.path().join("data/sentinel_sentinel1"));
    let foreign =
        ["sentinel", "-id", "s9", "-data", "data/sentinel_sentinel1", "-address", &free, "-enable-embedded-etcd=false"];
    assert_refused("of another sentinel", &start(&cluster, &foreign), 1, &["sentinel1", "s9"]);
    assert_eq!(snapshot(&cluster.dir.path().join("data/sentinel_sentinel1")), before);
}

#[test]
fn data_of_a_newer_version_is_refused_with_both_versions_named() {
    let mut cluster = Cluster::start();
    cluster.produce("t", b"x\n");
    cluster.stop_broker();
    let identity = cluster.broker_data().join("broker.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(&identity).expect("a file")).expect("broker.json is JSON");
    json["format_version"] = 99.into();
    fs::write(&identity, json.to_string()).expect("a file");
    let before = snapshot(&cluster.broker_data());
    let broker = ["broker", "-address", &cluster.broker_address, "-sentinel", &cluster.sentinel_address];
    assert_refused("newer broker.json", &start(&cluster, &broker), 1, &["99", "1", "broker.json"]);
    assert_eq!(snapshot(&cluster.broker_data()), before);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let cluster = Cluster::prepare(&[], &[]);
    fs::write(cluster.dir.path().join("file"), b"").expect("a file");
    let address = format!("127.0.0.1:{}", free_port());
    let broker = ["broker", "-address", &address, "-data", "file/data"];
    assert_refused("broker", &start(&cluster, &broker), 1, &["file/data"]);
    let sentinel = ["sentinel", "-address", &address, "-data", "file/data", "-enable-embedded-etcd=false"];
    assert_refused("sentinel", &start(&cluster, &sentinel), 1, &["file/data"]);
}

#[test]
fn a_broker_of_another_cluster_is_refused_by_name() {
    let mut cluster = Cluster::start();
    cluster.produce("t", b"x\n");
    cluster.stop_broker();
    let other = Cluster::start();
    let before = snapshot(&cluster.broker_data());
    let broker = ["broker", "-address", &cluster.broker_address, "-sentinel", &other.sentinel_address];
    assert_refused("foreign cluster", &start(&cluster, &broker), 1, &["cluster"]);
    let json =
        |files: &[(std::path::PathBuf, Vec<u8>)]| files.iter().find(|(path, _)| path.ends_with("broker.json")).cloned();
    assert_eq!(json(&snapshot(&cluster.broker_data())), json(&before));
    // Back home, all is there.
    cluster.start_broker();
    assert_eq!(cluster.consume("t"), b"x\n");
}

#[test]
fn a_broker_offered_two_sentinels_that_share_nothing_is_refused_by_both() {
    let (mut one, mut other) = (Cluster::prepare(&[], &[]), Cluster::prepare(&[], &[]));
    one.start_sentinel();
    other.start_sentinel();
    for sentinels in [[&one, &other], [&other, &one]] {
        let both = sentinels.map(|cluster| cluster.sentinel_address.as_str()).join(",");
        let broker = ["broker", "-address", &one.broker_address, "-sentinel", &both];
        assert_refused("two sentinels", &start(&one, &broker), 1, &["broker1", "2 sentinels", "-sentinel"]);
    }
    // Without the other one it is welcome, with the same folder.
    one.start_broker();
}

#[test]
fn standard_input_of_a_terminal_is_not_waited_for() {
    // `script` gives the client a terminal as its standard input.
    let cluster = Cluster::start();
    let line = format!("{} client -mode producer -sentinel {}", binary().display(), cluster.sentinel_address);
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(cluster.dir.path()).stdin(std::process::Stdio::null());
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(2), "{}", text(&output));
            assert!(said.contains("-message") && said.contains("-file"), "{said}");
        }
        Err(error) => panic!("the test needs script(1) of util-linux: {error}"),
    }
}

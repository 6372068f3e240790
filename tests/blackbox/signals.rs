//! How the services take signals, and what they leave in their logs.

use std::{fs, process::Stdio};

use rustix::process::Signal;

use crate::cluster::{Cluster, eventually, signal, text, wait};

#[test]
fn sigterm_stops_both_with_success_and_the_logs_tell_it() {
    let mut cluster = Cluster::start();
    cluster.produce("t", b"x\n");
    cluster.stop_broker();
    cluster.stop_sentinel();
    for file in ["logs/broker_broker1.log", "logs/sentinel_sentinel1.log"] {
        let log = fs::read_to_string(cluster.dir.path().join(file)).expect("a log file");
        assert!(log.lines().last().is_some_and(|line| line.contains("stopped")), "{file}: {log}");
        assert!(log.ends_with('\n'));
    }
}

#[test]
fn sigint_works_like_sigterm() {
    let mut cluster = Cluster::start();
    let mut broker = cluster.broker.take().expect("the broker runs");
    signal(&broker, Signal::INT);
    assert!(wait(&mut broker, "the broker stops").success());
}

#[test]
fn an_orderly_stop_loses_nothing_of_a_running_producer() {
    let mut cluster = Cluster::start();
    let mut producer = cluster
        .client(&["-mode", "producer", "-topic", "t", "-file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut pipe = producer.stdin.take().expect("a pipe");
    use std::io::Write;
    pipe.write_all(b"before\n").expect("a pipe");
    eventually("the topic exists", || {
        cluster.run(&["topic", "describe", "t", "--sentinel", &cluster.sentinel_address]).status.success().then_some(())
    });
    cluster.stop_broker();
    pipe.write_all(b"during\n").expect("a pipe");
    cluster.start_broker();
    pipe.write_all(b"after\n").expect("a pipe");
    drop(pipe);
    let output = producer.wait_with_output().expect("the producer ends");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(cluster.consume("t"), b"before\nduring\nafter\n");
}

#[test]
fn a_consumer_whose_broker_is_away_ends_within_ten_seconds_and_says_what_it_could_not_do() {
    let mut cluster = Cluster::start();
    cluster.produce("t", b"x\n");
    let came = cluster.dir.path().join("came.txt");
    let mut consumer = cluster
        .client(&["-mode", "consumer", "-topic", "t", "-group", "readers"])
        .stdout(fs::File::create(&came).expect("a file"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    eventually("the record is printed", || (fs::read(&came).ok()? == b"x\n").then_some(()));
    // Within a second from here the position would be committed.
    cluster.kill_broker();
    std::thread::sleep(std::time::Duration::from_secs(2)); // Now it tries to.
    signal(&consumer, Signal::INT);
    let asked = std::time::Instant::now();
    let status = wait(&mut consumer, "the consumer ends");
    assert!(asked.elapsed() < std::time::Duration::from_secs(10), "after {:?}", asked.elapsed());
    let said = text(&consumer.wait_with_output().expect("what it said"));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("the group's position is not committed"), "{said}");
}

#[test]
fn sighup_reopens_the_log_file() {
    let mut cluster = Cluster::start();
    let (log, moved) = (cluster.dir.path().join("logs/broker_broker1.log"), cluster.dir.path().join("moved.log"));
    fs::rename(&log, &moved).expect("a rename");
    signal(cluster.broker.as_ref().expect("the broker runs"), Signal::HUP);
    eventually("the log file is there again", || log.exists().then_some(()));
    cluster.stop_broker();
    assert!(fs::read_to_string(&log).expect("a log file").contains("stopped"));
}

#[test]
fn an_idle_broker_logs_nothing_and_a_lost_sentinel_one_line() {
    let mut cluster = Cluster::start();
    cluster.produce("t", b"x\n");
    let lines = |cluster: &Cluster| cluster.broker_log().lines().count();
    let before = lines(&cluster);
    std::thread::sleep(std::time::Duration::from_secs(3)); // Idle: three heartbeats pass.
    assert_eq!(lines(&cluster), before, "{}", cluster.broker_log());
    cluster.kill_sentinel();
    eventually("the broker notices", || (lines(&cluster) > before).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(3)); // Unreachable: several attempts pass.
    assert_eq!(lines(&cluster), before + 1, "{}", cluster.broker_log());
    cluster.start_sentinel();
    eventually("the broker is back", || (lines(&cluster) == before + 2).then_some(()));
}

#[test]
fn the_level_changes_while_the_broker_runs() {
    let cluster = Cluster::start();
    let output = cluster.run(&["log-level", &cluster.broker_address, "debug"]);
    assert!(output.status.success(), "{}", text(&output));
    cluster.produce("t", b"x\n");
    eventually("a line at DEBUG appears", || cluster.broker_log().contains(" DEBUG ").then_some(()));
    let output = cluster.run(&["log-level", &cluster.broker_address, "loud"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_service_manager_learns_when_they_serve_and_when_they_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(crate::cluster::PATIENCE)).expect("a socket");
    let told = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).expect("the manager is told something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let cluster = Cluster::prepare(&[], &[]);
    let flags = ["-enable-embedded-etcd=false", "-admin-address", "off"];
    let mut command = cluster.command(&["sentinel", "-address", &cluster.sentinel_address]);
    let mut sentinel = command.args(flags).env("NOTIFY_SOCKET", &socket).spawn().expect("the binary starts");
    assert_eq!(told(), format!("READY=1\nSTATUS=sentinel sentinel1 listens on {}", cluster.sentinel_address));
    assert!(cluster.run(&["health", &cluster.sentinel_address]).status.success(), "it serves when it says so");
    let broker = ["broker", "-address", &cluster.broker_address, "-sentinel", &cluster.sentinel_address];
    let mut command = cluster.command(&[&broker[..], &["-admin-address", "off"]].concat());
    let mut broker = command.env("NOTIFY_SOCKET", &socket).spawn().expect("the binary starts");
    assert_eq!(told(), format!("READY=1\nSTATUS=broker broker1 listens on {}", cluster.broker_address));
    for child in [&mut broker, &mut sentinel] {
        signal(child, Signal::TERM);
        assert_eq!(told(), "STOPPING=1");
        assert!(wait(child, "it stops").success());
    }
}

#[test]
fn a_sentinel_starts_its_etcd_and_stops_it() {
    use crate::cluster::{Store, free_port};
    let mut cluster = Cluster::prepare(&[], &[]);
    cluster.store = Store::Embedded { port: free_port(), peer_port: free_port() };
    cluster.start_sentinel();
    cluster.start_broker();
    cluster.produce("t", b"x\n");
    cluster.stop_broker();
    cluster.stop_sentinel();
    let log = fs::read_to_string(cluster.dir.path().join("logs/sentinel_sentinel1.log")).expect("a log file");
    let lines: Vec<&str> = log.lines().collect();
    let last =
        |word: &str| lines.iter().rposition(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {log}"));
    assert!(last("the embedded etcd stopped") > last("sentinel stopped"), "the etcd goes last: {log}");
    assert!(cluster.dir.path().join("default.etcd").exists());
    cluster.start_sentinel();
    cluster.start_broker();
    assert_eq!(cluster.consume("t"), b"x\n");
}

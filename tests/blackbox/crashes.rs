//! `kill -9` under a running producer and consumer: nothing is lost, nothing comes twice.

use std::{io::Write, process::Stdio, thread};

use goulette_types::SplitMix64;

use crate::{
    cluster::{Cluster, eventually, text, wait},
    lines,
};

/// Sends a text through standard input and calls `at` when the given parts of it have gone into the pipe.
fn produce_with_interruptions(
    cluster: &mut Cluster,
    topic: &str,
    sent: &[u8],
    parts: &[f64],
    mut at: impl FnMut(&mut Cluster, usize),
) {
    let mut producer = cluster
        .client(&["-mode", "producer", "-topic", topic, "-file", "-", "-window", "1000"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut pipe = producer.stdin.take().expect("a pipe");
    let mut from = 0;
    for (moment, &part) in parts.iter().enumerate() {
        let to = lines::cut(sent, part);
        pipe.write_all(&sent[from..to]).expect("the producer reads on");
        from = to;
        at(cluster, moment);
    }
    pipe.write_all(&sent[from..]).expect("the producer reads on");
    drop(pipe);
    let output = producer.wait_with_output().expect("the producer ends");
    assert!(output.status.success(), "{}\n{}", text(&output), cluster.said());
}

#[test]
fn a_broker_killed_three_times_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start();
    let seed = std::env::var("GOULETTE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    let sent = lines::text(lines::count(), seed);
    let records = sent.iter().filter(|&&b| b == b'\n').count() as f64;
    let mut random = SplitMix64::new(seed);
    let mut parts: Vec<f64> =
        (0..3).map(|third| 0.15 + 0.23 * (third as f64 + (random.next() % 1000) as f64 / 1000.0)).collect();
    parts.sort_by(f64::total_cmp);
    println!("seed {seed}, broker killed when {parts:?} of the input had been handed over");
    produce_with_interruptions(&mut cluster, "killed", &sent, &parts, |cluster, _| {
        // What is acknowledged follows what is handed over by at most the window and the pipe: let it pass 10 %.
        let committed = eventually("the producer gets on", || {
            let committed = cluster.committed("killed") as f64;
            (committed >= 0.1 * records).then_some(committed)
        });
        assert!(committed <= 0.9 * records, "killed too late: {committed} of {records}");
        cluster.kill_broker();
        cluster.start_broker();
    });
    assert_eq!(cluster.committed("killed") as f64, records);
    lines::assert_same(&sent, &cluster.consume("killed"));
}

#[test]
fn neither_producer_nor_consumer_fails_while_the_sentinel_is_away() {
    let mut cluster = Cluster::start();
    let sent = lines::text(lines::count() / 2, 7);
    let records = sent.iter().filter(|&&b| b == b'\n').count().to_string();
    cluster.run(&["topic", "create", "steady", "--sentinel", &cluster.sentinel_address]);
    let consumer = cluster
        .client(&["-mode", "consumer", "-topic", "steady", "-group", "", "-from", "beginning", "-count", &records])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let reader = thread::spawn(move || consumer.wait_with_output().expect("the consumer ends"));
    produce_with_interruptions(&mut cluster, "steady", &sent, &[0.3, 0.6], |cluster, moment| {
        if moment == 0 {
            cluster.kill_sentinel();
        } else {
            cluster.start_sentinel();
        }
    });
    let output = reader.join().expect("the reader ends");
    assert!(output.status.success(), "{}", text(&output));
    lines::assert_same(&sent, &output.stdout);
    // The restarted sentinel knows the topic and its broker, and new topics can be made.
    cluster.produce("after", b"x\n");
}

#[test]
fn a_consumer_goes_on_where_it_was_when_its_broker_is_killed() {
    let mut cluster = Cluster::start();
    let first = lines::text(2_000, 8);
    cluster.produce("follow", &first);
    let mut consumer = cluster
        .client(&["-mode", "consumer", "-topic", "follow", "-group", "", "-from", "beginning", "-count", "2003"])
        .stdout(std::fs::File::create(cluster.dir.path().join("came.txt")).expect("a file"))
        .spawn()
        .expect("the binary starts");
    let came = || std::fs::read(cluster.dir.path().join("came.txt")).expect("a file");
    eventually("the consumer reads what is there", || (came().len() == first.len()).then_some(()));
    let path = cluster.dir.path().join("came.txt");
    cluster.kill_broker();
    cluster.start_broker();
    cluster.produce("follow", b"x\ny\nz\n");
    assert!(wait(&mut consumer, "the consumer gets its 2003 records").success());
    let expected = [first, b"x\ny\nz\n".to_vec()].concat();
    lines::assert_same(&expected, &std::fs::read(path).expect("a file"));
}

#[test]
fn a_broker_whose_folder_was_emptied_leads_nothing_of_before_and_the_sentinel_says_so() {
    let mut cluster = Cluster::start();
    let data = cluster.broker_data();
    let (aside, other) = (cluster.dir.path().join("aside"), cluster.dir.path().join("other"));
    cluster.produce("before", b"x\n");
    cluster.stop_broker();
    std::fs::rename(&data, &aside).expect("a folder to move");
    cluster.start_broker();
    let log = std::fs::read_to_string(cluster.dir.path().join("logs/sentinel_sentinel1.log")).expect("a log file");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(matches!(warnings[..], [one] if one.contains("broker1 came back with another disk")), "{log}");
    // It takes new topics, and with its own disk it leads the old one again.
    cluster.produce("after", b"y\n");
    cluster.stop_broker();
    std::fs::rename(&data, &other).expect("a folder to move");
    std::fs::rename(&aside, &data).expect("a folder to move");
    cluster.start_broker();
    assert_eq!(cluster.consume("before"), b"x\n");
}

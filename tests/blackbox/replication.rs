//! Three brokers: what one acknowledged the others have, whoever is killed. A quick version of `make test-chaos`.

use std::{
    fs::File,
    io::Write,
    process::{Child, Stdio},
};

use crate::{
    cluster::{Cluster, eventually, free_port, signal, text, wait},
    lines,
};

/// The cluster's own broker, and two more.
struct Trio {
    cluster: Cluster,
    addresses: [String; 2],
    others: [Option<Child>; 2],
}

impl Trio {
    fn start() -> Self {
        let cluster = Cluster::start_with(&["-default-replication-factor", "3"], &[]);
        let addresses = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let mut trio = Self { cluster, addresses, others: [None, None] };
        trio.start_broker(1);
        trio.start_broker(2);
        trio
    }

    fn start_broker(&mut self, broker: usize) {
        let Some(other) = broker.checked_sub(1) else { return self.cluster.start_broker() };
        let out = File::options().create(true).append(true).open(self.cluster.dir.path().join(format!("{broker}.out")));
        let out = out.expect("a file for the output");
        let (id, address) = (format!("broker{}", broker + 1), self.addresses[other].clone());
        let mut command = self.cluster.command(&["broker", "-id", &id, "-address", &address]);
        command.args(["-sentinel", &self.cluster.sentinel_address, "-admin-address", "127.0.0.1:0"]);
        self.others[other] =
            Some(command.stdout(out.try_clone().expect("a handle")).stderr(out).spawn().expect("it starts"));
        self.cluster.until_serving(&address);
    }

    fn kill(&mut self, broker: usize) {
        match broker.checked_sub(1) {
            None => self.cluster.kill_broker(),
            Some(other) => end(&mut self.others[other]),
        }
    }

    /// SIGTERM, which ends with code 0.
    fn stop(&mut self, broker: usize) {
        match broker.checked_sub(1) {
            None => self.cluster.stop_broker(),
            Some(other) => {
                let mut child = self.others[other].take().expect("it runs");
                signal(&child, rustix::process::Signal::TERM);
                assert!(wait(&mut child, "the broker stops").success());
            }
        }
    }

    fn describe(&self, topic: &str) -> serde_json::Value {
        let arguments = ["topic", "describe", topic, "--sentinel", &self.cluster.sentinel_address, "--output", "json"];
        let output = self.cluster.run(&arguments);
        assert!(output.status.success(), "describe: {}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("describe prints JSON")["partitions"][0]
            .clone()
    }

    /// Waits until all three are in sync, and says who leads.
    fn until_in_sync(&self, topic: &str) -> usize {
        eventually("all replicas are in sync", || {
            let partition = self.describe(topic);
            let whole = partition["isr"].as_array().is_some_and(|isr| isr.len() == 3);
            let leader = partition["leader"].as_str()?.strip_prefix("broker")?.parse::<usize>().ok()?;
            whole.then_some(leader - 1)
        })
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        self.others.iter_mut().for_each(end);
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn what_three_brokers_acknowledged_survives_the_death_of_each() {
    let mut trio = Trio::start();
    let create = ["topic", "create", "t", "--sentinel", &trio.cluster.sentinel_address];
    assert!(trio.cluster.run(&create).status.success());
    trio.until_in_sync("t");
    let sent = lines::text(lines::count() / 4, 11);
    let mut producer = trio
        .cluster
        .client(&["-mode", "producer", "-topic", "t", "-file", "-", "-window", "500"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut pipe = producer.stdin.take().expect("a pipe");
    let mut from = 0;
    for (part, fault) in [(0.2, "kill"), (0.4, "kill a follower"), (0.6, "stop"), (0.8, "kill")] {
        let to = lines::cut(&sent, part);
        pipe.write_all(&sent[from..to]).expect("the producer reads on");
        from = to;
        let leader = trio.until_in_sync("t");
        match fault {
            "kill" => trio.kill(leader),
            "stop" => trio.stop(leader),
            _ => trio.kill((leader + 1) % 3),
        }
        let struck = if fault == "kill a follower" { (leader + 1) % 3 } else { leader };
        trio.start_broker(struck);
    }
    pipe.write_all(&sent[from..]).expect("the producer reads on");
    drop(pipe);
    let output = producer.wait_with_output().expect("the producer ends");
    assert!(output.status.success(), "{}\n{}", text(&output), trio.cluster.said());
    lines::assert_same(&sent, &trio.cluster.consume("t"));

    // All copies are the same.
    trio.until_in_sync("t");
    (0..3).for_each(|broker| trio.stop(broker));
    let dumps: Vec<String> = (1..=3)
        .map(|broker| {
            let data = trio.cluster.dir.path().join(format!("data/broker{broker}")).display().to_string();
            let output = trio.cluster.run(&["log", "dump", &data, "--topic", "t"]);
            assert!(output.status.success(), "{}", text(&output));
            let lines = String::from_utf8(output.stdout).expect("text");
            lines.lines().map(|line| line.split(" at=").next().unwrap_or_default().to_owned() + "\n").collect()
        })
        .collect();
    lines::assert_same(dumps[0].as_bytes(), dumps[1].as_bytes());
    lines::assert_same(dumps[0].as_bytes(), dumps[2].as_bytes());
}

#[test]
fn a_replica_that_was_down_brings_back_no_record_of_a_topic_that_was_made_anew() {
    let mut trio = Trio::start();
    let sentinel = trio.cluster.sentinel_address.clone();
    let order = |trio: &Trio, what: &str| {
        let output = trio.cluster.run(&["topic", what, "t", "--sentinel", &sentinel]);
        assert!(output.status.success(), "{}", text(&output));
    };
    order(&trio, "create");
    trio.until_in_sync("t");
    trio.cluster.produce("t", &lines::text(300, 1));
    trio.kill(2);
    order(&trio, "delete");
    order(&trio, "create");
    let sent = lines::text(200, 2);
    trio.cluster.produce("t", &sent);
    trio.start_broker(2);
    trio.until_in_sync("t");
    lines::assert_same(&sent, &trio.cluster.consume("t"));
    // Nor has the one that was down anything left of it.
    trio.stop(2);
    let topics = trio.cluster.dir.path().join("data/broker3/topics");
    assert_eq!(std::fs::read_dir(&topics).expect("the broker has topics").count(), 1);
}

#[test]
fn a_broker_with_anothers_disk_is_refused_and_one_with_an_empty_one_starts_as_a_new_replica() {
    let mut trio = Trio::start();
    let create = ["topic", "create", "t", "--sentinel", &trio.cluster.sentinel_address];
    assert!(trio.cluster.run(&create).status.success());
    trio.until_in_sync("t");
    let sent = lines::text(300, 3);
    trio.cluster.produce("t", &sent);
    trio.stop(1);
    trio.stop(2);
    let data = |broker: usize| trio.cluster.dir.path().join(format!("data/broker{}", broker + 1));
    let (second, third, aside) = (data(1), data(2), data(8));
    std::fs::rename(&second, &aside).expect("a folder can be moved");
    std::fs::rename(&third, &second).expect("a folder can be moved");
    let address = trio.addresses[0].clone();
    let flags = ["broker", "-id", "broker2", "-address", &address, "-sentinel", &trio.cluster.sentinel_address];
    let output = trio.cluster.run(&[&flags[..], &["-admin-address", "127.0.0.1:0"]].concat());
    assert!(!output.status.success(), "it runs on the disk of broker3");
    let said = text(&output);
    assert!(said.contains("broker3"), "{said}");
    // With an empty one it begins anew, and counts when it has everything.
    std::fs::rename(&second, &third).expect("a folder can be moved");
    trio.start_broker(1);
    trio.start_broker(2);
    trio.until_in_sync("t");
    trio.kill(0);
    lines::assert_same(&sent, &trio.cluster.consume("t"));
}

//! Three embedded sentinels whose leader dies again and again.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, eventually, free_port, text, wait},
    mode::{CLUSTER_ID, Mode},
};

const KILLS: usize = 20;
/// For discovery, and for a topic's creation, after a leader's death.
const OUTAGE_MAX: Duration = Duration::from_secs(3);

struct Sentinels {
    base: Cluster,
    addresses: Vec<String>,
    flags: Vec<Vec<String>>,
    children: Vec<Option<Child>>,
}

impl Sentinels {
    fn start() -> Self {
        let base = Cluster::prepare(&[], &[]);
        let addresses: Vec<_> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
        let members: Vec<_> =
            ports.iter().enumerate().map(|(index, (_, peer))| format!("s{index}=http://127.0.0.1:{peer}")).collect();
        let flags = ports.iter().enumerate().map(|(index, (client, peer))| {
            let (id, address) = (format!("s{index}"), &addresses[index]);
            let flags = [
                "sentinel",
                "-id",
                &id,
                "-address",
                address,
                "-admin-address",
                "off",
                "-cluster-id",
                CLUSTER_ID,
                "-etcd-port",
                &client.to_string(),
                "-etcd-peer-port",
                &peer.to_string(),
                "-etcd-data-dir",
                &format!("{id}.etcd"),
                "-etcd-initial-cluster",
                &members.join(","),
            ];
            flags.map(ToOwned::to_owned).to_vec()
        });
        let flags = flags.collect();
        let mut sentinels = Self { base, addresses, flags, children: vec![None, None, None] };
        for index in 0..3 {
            sentinels.launch(index);
        }
        for index in 0..3 {
            sentinels.until_serving(index);
        }
        sentinels
    }

    fn launch(&mut self, index: usize) {
        let flags: Vec<_> = self.flags[index].iter().map(String::as_str).collect();
        let path = self.base.dir.path().join(format!("s{index}.out"));
        let out = fs::File::options().create(true).append(true).open(path).unwrap();
        self.children[index] = Some(self.base.command(&flags).stderr(out).spawn().unwrap());
    }

    fn until_serving(&self, index: usize) {
        let address = &self.addresses[index];
        eventually("a sentinel serves", || self.base.run(&["health", address]).status.success().then_some(()));
    }

    fn all(&self) -> String {
        self.addresses.join(",")
    }

    fn leader(&self) -> usize {
        eventually("one leads", || {
            let output = self.base.run(&["cluster", "status", "--output", "json", "--sentinel", &self.all()]);
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let leader =
                status["sentinels"].as_array()?.iter().find(|sentinel| sentinel["leader"] == true)?["id"].clone();
            leader.as_str()?.strip_prefix('s')?.parse().ok()
        })
    }

    fn kill(&mut self, index: usize) {
        let mut child = self.children[index].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in self.children.iter_mut().filter_map(Option::as_mut) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            for index in 0..3 {
                let log = fs::read_to_string(self.base.dir.path().join(format!("logs/sentinel_s{index}.log")));
                let log = log.unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                eprintln!("--- s{index}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
    }
}

/// Repeats a command until it succeeds; how long that took.
fn until_works(sentinels: &Sentinels, arguments: &[&str]) -> Duration {
    let began = Instant::now();
    let whom = sentinels.all();
    eventually(&format!("{arguments:?}"), || {
        let output = sentinels.base.run(&[arguments, &["--sentinel", &whom]].concat());
        // An attempt whose answer was lost may have made it.
        (output.status.success() || text(&output).contains("exists")).then_some(())
    });
    began.elapsed()
}

pub(crate) fn leader_killed_again_and_again(_: &Mode) {
    let mut sentinels = Sentinels::start();
    let whom = sentinels.all();
    let broker_address = format!("127.0.0.1:{}", free_port());
    let broker = ["broker", "-address", &broker_address, "-sentinel", &whom, "-admin-address", "off"];
    let mut broker = sentinels.base.command(&broker).spawn().unwrap();
    sentinels.base.until_serving(&broker_address);

    let client = ["client", "-sentinel", &whom, "-topic", "stream", "-mode"];
    let producer = sentinels.base.command(&[&client[..], &["producer", "-file", "-"]].concat());
    let mut producer = { producer }.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = producer.stdin.take().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sending = thread::spawn(move || {
        let mut sent = 0_u64;
        while stopped.try_recv().is_err() {
            writeln!(pipe, "{sent}").unwrap();
            sent += 1;
            thread::sleep(Duration::from_millis(2));
        }
        sent
    });
    until_works(&sentinels, &["topic", "describe", "stream"]);
    let read = sentinels.base.dir.path().join("read.txt");
    let consumer = sentinels.base.command(&[&client[..], &["consumer", "-group", "readers"]].concat());
    let mut consumer = { consumer }.stdout(fs::File::create(&read).unwrap()).stderr(Stdio::piped()).spawn().unwrap();

    let (mut discovery, mut creation) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let leader = sentinels.leader();
        sentinels.kill(leader);
        discovery.push(until_works(&sentinels, &["topic", "describe", "stream"]));
        let died = Instant::now();
        until_works(&sentinels, &["topic", "create", &format!("made-{kill}")]);
        creation.push(died.elapsed() + discovery[kill]);
        sentinels.launch(leader);
        sentinels.until_serving(leader);
    }
    let worst = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    let show = |times: &[Duration]| times.iter().map(|time| time.as_millis().to_string()).collect::<Vec<_>>().join(" ");
    println!("  discovery after ms: {}\n  creation after ms: {}", show(&discovery), show(&creation));
    stop.send(()).unwrap();
    let sent = sending.join().unwrap();
    let produced = producer.wait_with_output().unwrap();
    assert!(produced.status.success(), "{}", text(&produced));
    eventually("the consumer has read all", || {
        (fs::read_to_string(&read).ok()?.lines().count() as u64 >= sent).then_some(())
    });
    crate::cluster::signal(&consumer, rustix::process::Signal::TERM);
    wait(&mut consumer, "the consumer ends");
    let numbers: Vec<u64> = fs::read_to_string(&read).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..sent), "every record once, in order");

    let output =
        sentinels.base.run(&["oplog", "--from", "0", "--limit", "100000", "--output", "json", "--sentinel", &whom]);
    let log: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let log = log.as_array().unwrap();
    let ids: BTreeSet<u64> = log.iter().map(|entry| entry["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), log.len(), "no id twice");
    for kill in 0..KILLS {
        let name = format!("\"made-{kill}\"");
        let made = log.iter().filter(|entry| entry["name"] == "createTopic" && entry.to_string().contains(&name));
        assert_eq!(made.count(), 1, "{name} was made once, in one operation");
    }
    let _ = broker.kill();
    let _ = broker.wait();
    assert!(worst(&discovery) < OUTAGE_MAX && worst(&creation) < OUTAGE_MAX, "longer than {OUTAGE_MAX:?}");
}

//! Three sentinels whose leader dies, or sleeps.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    brokers::Extra,
    cluster::{eventually, free_port, signal, text, wait},
    mode::Mode,
    sentinels::Sentinels,
};

const KILLS: usize = 20;
/// For discovery, and for a topic's creation, after a leader's death.
const OUTAGE_MAX: Duration = Duration::from_secs(3);

pub(crate) fn leader_killed_again_and_again(mode: &Mode) {
    let mut sentinels = Sentinels::start(mode);
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
    sentinels.until_works(&["topic", "describe", "stream"]);
    let read = sentinels.base.dir.path().join("read.txt");
    let consumer = sentinels.base.command(&[&client[..], &["consumer", "-group", "readers"]].concat());
    let mut consumer = { consumer }.stdout(fs::File::create(&read).unwrap()).stderr(Stdio::piped()).spawn().unwrap();

    let (mut discovery, mut creation) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let leader = sentinels.leader();
        sentinels.kill(leader);
        let died = Instant::now();
        sentinels.until_works(&["topic", "describe", "stream"]);
        discovery.push(died.elapsed());
        sentinels.until_works(&["topic", "create", &format!("made-{kill}")]);
        creation.push(died.elapsed());
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

    let log = sentinels.json(&["oplog", "--from", "0", "--limit", "100000"]);
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

/// How long the leader sleeps: much longer than its lease, and than a broker's session.
const SLEEP: Duration = Duration::from_secs(30);

/// A leader that sleeps and wakes up in the belief that it leads writes nothing, and nobody is dead for its sleep.
pub(crate) fn leader_asleep(mode: &Mode) {
    let sentinels = Sentinels::start(mode);
    let broker = Extra::start(&sentinels.base, "broker1", &sentinels.all(), &[]);
    sentinels.until_works(&["topic", "create", "before"]);
    let sleeper = sentinels.leader();
    signal(sentinels.child(sleeper), Signal::STOP);
    let fell_asleep = Instant::now();
    sentinels.until_works(&["topic", "create", "meanwhile"]);
    thread::sleep((SLEEP - Duration::from_secs(1)).saturating_sub(fell_asleep.elapsed()));
    // It waits in the socket of the sleeper, who reads it before it can have learnt anything.
    let address = &sentinels.addresses[sleeper];
    let asked = ["topic", "create", "at-the-sleeper", "--sentinel", address];
    let asked = sentinels.base.command(&asked).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(SLEEP.saturating_sub(fell_asleep.elapsed()));
    signal(sentinels.child(sleeper), Signal::CONT);
    let asked = asked.wait_with_output().unwrap();
    sentinels.until_works(&["topic", "create", "at-the-sleeper"]);
    sentinels.until_works(&["topic", "create", "after"]);

    let log = sentinels.json(&["oplog", "--from", "0", "--limit", "100000"]);
    let log = log.as_array().unwrap();
    let ids: BTreeSet<u64> = log.iter().map(|entry| entry["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), log.len(), "no id twice");
    for name in ["before", "meanwhile", "at-the-sleeper", "after"] {
        let name = format!("\"{name}\"");
        let made = log.iter().filter(|entry| entry["name"] == "createTopic" && entry.to_string().contains(&name));
        assert_eq!(made.count(), 1, "{name} was made once; the sleeper answered {}", text(&asked));
    }
    assert!(log.iter().all(|entry| entry["name"] != "handleUnreachableBrokers"), "nobody is dead: {log:?}");
    let status = sentinels.json(&["cluster", "status"]);
    assert_eq!(status["brokers"][0]["state"], "healthy");
    drop(broker);
}

/// For a change to be known at every sentinel.
const FRESH: Duration = Duration::from_secs(1);

/// Whichever sentinel is asked, a second after a change its answer is right.
pub(crate) fn answers_are_fresh(mode: &Mode) {
    let sentinels = Sentinels::start(mode);
    let whom = sentinels.all();
    let mut brokers = vec![Extra::start(&sentinels.base, "broker1", &whom, &[])];
    let mut worst = Duration::ZERO;
    let mut until_all = |what: &str, arguments: &[&str], right: &dyn Fn(&str) -> bool| {
        let changed = Instant::now();
        for address in &sentinels.addresses {
            eventually(&format!("{address} knows: {what}"), || {
                let answer = sentinels.base.run(&[arguments, &["--sentinel", address, "--output", "json"]].concat());
                (answer.status.success() && right(&String::from_utf8_lossy(&answer.stdout))).then_some(())
            });
        }
        worst = worst.max(changed.elapsed());
    };
    for round in 0..5 {
        let name = format!("orders-{round}");
        sentinels.until_works(&["topic", "create", &name]);
        until_all("a topic", &["topic", "describe", &name], &|_| true);
        sentinels.until_works(&["topic", "alter", &name, "--partitions", "3"]);
        let three = |answer: &str| answer.matches("\"leader_epoch\"").count() == 3;
        until_all("its partitions", &["topic", "describe", &name], &three);
        sentinels.until_works(&["topic", "delete", &name]);
        until_all("that it is gone", &["topic", "list"], &|answer| !answer.contains(&name));
        let id = format!("added{round}");
        brokers.push(Extra::start(&sentinels.base, &id, &whom, &[]));
        until_all("a broker", &["cluster", "status"], &|answer| answer.contains(&format!("\"{id}\"")));
    }
    println!("  at the latest after {} ms", worst.as_millis());
    assert!(worst < FRESH, "{worst:?}");
}

//! `goulette log`: looking at a data folder without a broker.

use std::{fs, path::PathBuf, process::Output};

use serde_json::Value;

use crate::cluster::{Cluster, snapshot, text};

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

fn log(cluster: &Cluster, arguments: &[&str]) -> Output {
    let data = cluster.broker_data();
    cluster.command(&["log"]).args(arguments).arg(data).output().expect("the binary runs")
}

#[test]
fn a_killed_brokers_folder_is_shown_checked_and_left_as_it_is() {
    let mut cluster = Cluster::start();
    cluster.produce("orders", b"first\nsecond\nthird\n");
    let refused = log(&cluster, &["verify"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("in use by the running broker broker1"), "{}", text(&refused));
    cluster.kill_broker();

    let before = snapshot(&cluster.broker_data());
    let stats = json(&log(&cluster, &["stats", "--output", "json"]));
    assert_eq!(stats["broker"], "broker1");
    let partition = &stats["partitions"][0];
    assert_eq!((&partition["topic"], &partition["start"], &partition["end"]), (&"orders".into(), &0.into(), &3.into()));
    assert!(text(&log(&cluster, &["stats"])).contains("orders"));

    let shown = log(&cluster, &["dump", "--topic", "orders", "--records"]);
    for expected in ["orders/0 0..", "crc=ok", "codec=none", r#""value":"third""#] {
        assert!(text(&shown).contains(expected), "{expected}: {}", text(&shown));
    }
    let last = log(&cluster, &["dump", "-from=2", "-count=1", "-records", "-output=json"]);
    let records = json(&last)["records"].as_array().expect("records").clone();
    assert_eq!(records.last().map(|record| record["value"].clone()), Some("third".into()), "{}", text(&last));
    assert_eq!(json(&last)["producer"]["epoch"], 0, "{}", text(&last));

    let sound = log(&cluster, &["verify", "--output", "json"]);
    assert!(sound.status.success(), "{}", text(&sound));
    assert_eq!((&json(&sound)["sound"], &json(&sound)["records"]), (&true.into(), &3.into()), "{}", text(&sound));
    assert!(snapshot(&cluster.broker_data()) == before, "nothing in the folder has changed");
}

#[test]
fn a_flipped_bit_is_named_with_file_and_byte_and_ends_in_failure() {
    let mut cluster = Cluster::start();
    cluster.produce("orders", b"first\nsecond\nthird\n");
    cluster.stop_broker();
    assert!(log(&cluster, &["verify"]).status.success(), "after a clean stop");
    let fragment = snapshot(&cluster.broker_data()).into_iter().map(|(path, _)| path);
    let fragments: Vec<PathBuf> =
        fragment.filter(|path| path.extension().is_some_and(|found| found == "log")).collect();
    let [fragment] = &fragments[..] else { panic!("{fragments:?}") };
    let mut bytes = fs::read(fragment).expect("a fragment");
    *bytes.last_mut().expect("bytes") ^= 4;
    fs::write(fragment, bytes).expect("a fragment");

    let damaged = log(&cluster, &["verify"]);
    assert_eq!(damaged.status.code(), Some(1), "{}", text(&damaged));
    assert!(text(&damaged).contains(&format!("{} at byte ", fragment.display())), "{}", text(&damaged));
    let damaged = log(&cluster, &["verify", "--output", "json"]);
    assert_eq!(json(&damaged)["damages"][0]["file"], fragment.display().to_string());
    assert!(text(&log(&cluster, &["dump"])).contains("orders/0 DAMAGED at topics/orders."));

    fs::write(cluster.broker_data().join("checkpoint"), "rubbish").expect("a checkpoint");
    let shown = log(&cluster, &["dump"]);
    assert!(text(&shown).contains("run goulette log verify "), "{}", text(&shown));
    assert!(text(&log(&cluster, &["verify"])).contains("checkpoint at byte 0: "));

    let elsewhere = cluster.command(&["log", "stats", "no-such-folder"]).output().expect("the binary runs");
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(text(&elsewhere).contains("is not the data directory of a broker"), "{}", text(&elsewhere));
}

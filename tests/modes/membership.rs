//! Sentinels that join the cluster of the embedded etcds later, and that leave it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Output},
};

use serde_json::Value;

use crate::{
    brokers::Extra,
    cluster::{Store, eventually, free_port, text, wait},
    mode::Mode,
    sentinels::Sentinels,
};

/// A sentinel beyond the first three; killed at the end.
struct Later {
    address: String,
    flags: Vec<String>,
    child: Child,
}

impl Later {
    /// Started with what `goulette sentinel join` says, and with ports of its own.
    fn start(sentinels: &Sentinels, id: &str, said: &str) -> Self {
        let said = said.strip_prefix("goulette ").expect("a command of ours");
        let address = format!("127.0.0.1:{}", free_port());
        let more =
            ["-address", &address, "-admin-address=off", &format!("-etcd-port={}", free_port())].map(str::to_owned);
        let mut flags: Vec<_> = said.split(' ').map(str::to_owned).chain(more).collect();
        flags.push(format!("-etcd-data-dir={id}.etcd"));
        let child = launch(sentinels, &flags, id);
        Self { address, flags, child }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(sentinels: &Sentinels, flags: &[String], id: &str) -> Child {
    let out = fs::File::options().create(true).append(true).open(out(sentinels, id)).unwrap();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    sentinels.base.command(&flags).stderr(out).spawn().unwrap()
}

fn out(sentinels: &Sentinels, id: &str) -> PathBuf {
    sentinels.base.dir.path().join(format!("{id}.out"))
}

fn endpoints(sentinels: &Sentinels) -> String {
    let ports = sentinels.stores.iter().filter_map(|store| match store {
        Store::Embedded { port, .. } => Some(format!("127.0.0.1:{port}")),
        _ => None,
    });
    ports.collect::<Vec<_>>().join(",")
}

/// Names of the members that count for majorities.
fn voters(sentinels: &Sentinels) -> Vec<String> {
    let output = sentinels.base.run(&["etcd", "member", "list", "--output=json", "--endpoints", &endpoints(sentinels)]);
    let Ok(members) = serde_json::from_slice::<Vec<Value>>(&output.stdout) else { return Vec::new() };
    let voters = members.iter().filter(|member| member["isLearner"] != true);
    let mut names: Vec<_> = voters.map(|member| member["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

pub(crate) fn joins_and_leaves(mode: &Mode) {
    let mut sentinels = Sentinels::start(mode);
    let _broker = Extra::start(&sentinels.base, "broker1", &sentinels.all(), &[]);
    let endpoints = endpoints(&sentinels);
    let run = |sentinels: &Sentinels, arguments: &[&str]| -> Output {
        sentinels.base.run(&[&["sentinel"], arguments, &["-etcd-endpoints", &endpoints]].concat())
    };
    let refused = |sentinels: &Sentinels, arguments: &[&str], why: &str| {
        let output = run(sentinels, arguments);
        assert!(!output.status.success() && text(&output).contains(why), "{arguments:?}: {}", text(&output));
    };
    sentinels.until_works(&["topic", "create", "before"]);

    // One that never starts takes no majority away, and can be taken back.
    let (wrong, right) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
    let output = run(&sentinels, &["join", "-id=s3", "-peer-url", &wrong]);
    assert!(output.status.success(), "{}", text(&output));
    refused(&sentinels, &["join", "-id=s3", "-peer-url", &right], &format!("leave -peer-url {wrong}"));
    sentinels.until_works(&["topic", "create", "beside"]);
    let output = run(&sentinels, &["leave", "-peer-url", &wrong]);
    assert!(output.status.success(), "{}", text(&output));
    refused(&sentinels, &["leave", "-id=s3"], "s3 is no member");
    refused(&sentinels, &["join", "-id=s1", "-peer-url", &right], "s1 is a member already");

    // Asked twice, as by somebody whose first answer was lost.
    for _ in 0..2 {
        let output = run(&sentinels, &["join", "-id=s3", "-peer-url", &right, "-output=json"]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let answer = run(&sentinels, &["join", "-id=s3", "-peer-url", &right, "-output=json"]);
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let mut joined = Later::start(&sentinels, "s3", answer["start"].as_str().unwrap());
    sentinels.base.until_serving(&joined.address);
    eventually("it counts for majorities", || (voters(&sentinels) == ["s0", "s1", "s2", "s3"]).then_some(()));

    // With one of the first gone, three of four are needed: without the new one nothing could be written.
    sentinels.kill(0);
    sentinels.until_works(&["topic", "create", "with-the-new-one"]);
    let list = sentinels.base.run(&["topic", "list", "--output=json", "--sentinel", &joined.address]);
    assert!(text(&list).contains("with-the-new-one"), "it answers itself: {}", text(&list));
    let output = run(&sentinels, &["leave", "-id=s0"]);
    assert!(output.status.success(), "{}", text(&output));
    eventually("the lost one is gone", || (voters(&sentinels) == ["s1", "s2", "s3"]).then_some(()));

    // It leaves while it runs: its process ends, and says why when it is started again.
    let output = run(&sentinels, &["leave", "-id=s3"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!wait(&mut joined.child, "it ends").success());
    joined.child = launch(&sentinels, &joined.flags, "again");
    assert!(!wait(&mut joined.child, "it does not come back").success());
    let said = fs::read_to_string(out(&sentinels, "again")).unwrap();
    assert!(said.contains("permanently removed"), "{said}");
    sentinels.until_works(&["topic", "create", "after"]);
    assert_eq!(voters(&sentinels), ["s1", "s2"]);
}

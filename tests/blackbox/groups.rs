//! Consumer groups: positions that last, one live member per partition.

use std::process::Stdio;

use crate::cluster::{Cluster, eventually, signal, text, wait};

fn read_as_group(cluster: &Cluster, more: &[&str]) -> String {
    let mut command = cluster.client(&["-mode", "consumer", "-topic", "g", "-group", "readers"]);
    let output = command.args(more).output().expect("the binary runs");
    assert!(output.status.success(), "{}\n{}", text(&output), cluster.said());
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_group_resumes_where_it_stopped_even_after_a_crash_of_the_broker() {
    let mut cluster = Cluster::start();
    cluster.produce("g", b"a\nb\nc\nd\n");
    assert_eq!(read_as_group(&cluster, &["-count", "2"]), "a\nb\n");
    cluster.kill_broker();
    cluster.start_broker();
    assert_eq!(read_as_group(&cluster, &["-count", "1"]), "c\n");
    assert_eq!(read_as_group(&cluster, &["-until-end"]), "d\n");
    assert_eq!(read_as_group(&cluster, &["-until-end"]), "");
    // What is asked for beats what was committed.
    assert_eq!(read_as_group(&cluster, &["-from", "beginning", "-count", "1"]), "a\n");
}

#[test]
fn a_second_live_member_is_refused_by_name() {
    let cluster = Cluster::start();
    cluster.produce("g", b"a\n");
    let came = cluster.dir.path().join("first.txt");
    let mut first = cluster
        .client(&["-mode", "consumer", "-topic", "g", "-group", "readers"])
        .stdout(std::fs::File::create(&came).expect("a file"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    eventually("the first member reads", || (std::fs::read(&came).ok()? == b"a\n").then_some(()));
    let output = cluster
        .client(&["-mode", "consumer", "-topic", "g", "-group", "readers", "-until-end"])
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(said.contains("readers") && said.lines().count() == 1, "{said}");
    // Ctrl-C ends it with success, and frees its place with its position.
    signal(&first, rustix::process::Signal::INT);
    assert_eq!(wait(&mut first, "the first member ends").code(), Some(0));
    assert_eq!(read_as_group(&cluster, &["-until-end"]), "");
}

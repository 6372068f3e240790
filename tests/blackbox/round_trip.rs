//! What goes in comes out: byte for byte, in order.

use crate::{
    cluster::{Cluster, feed, text},
    lines,
};

#[test]
fn a_text_file_comes_out_byte_for_byte() {
    let cluster = Cluster::start();
    let sent = lines::text(lines::count(), 1);
    let path = cluster.dir.path().join("sent.txt");
    std::fs::write(&path, &sent).expect("a file");
    let output = cluster
        .client(&["-mode", "producer", "-topic", "text", "-file", path.to_str().expect("a path")])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output));
    lines::assert_same(&sent, &cluster.consume("text"));
}

#[test]
fn bytes_behind_the_last_newline_are_a_record() {
    let cluster = Cluster::start();
    cluster.produce("tail", b"one\n\nthree");
    assert_eq!(cluster.consume("tail"), b"one\n\nthree\n");
    assert_eq!(cluster.committed("tail"), 3);
}

#[test]
fn an_empty_input_sends_nothing_and_succeeds() {
    let cluster = Cluster::start();
    cluster.produce("nothing", b"");
    cluster.produce("nothing", b"x\n");
    assert_eq!(cluster.committed("nothing"), 1);
}

#[test]
fn each_compression_comes_out_the_same() {
    let cluster = Cluster::start();
    let sent = lines::text(3_000, 2);
    for compression in ["none", "lz4", "zstd", "snappy", "gzip"] {
        let arguments = ["-mode", "producer", "-topic", compression, "-file", "-", "-compression", compression];
        let output = feed(cluster.client(&arguments), &sent);
        assert!(output.status.success(), "{}", text(&output));
        lines::assert_same(&sent, &cluster.consume(compression));
    }
}

#[test]
fn records_survive_an_orderly_restart_of_both() {
    let mut cluster = Cluster::start();
    let sent = lines::text(5_000, 3);
    cluster.produce("kept", &sent);
    cluster.stop_broker();
    cluster.stop_sentinel();
    cluster.start_sentinel();
    cluster.start_broker();
    lines::assert_same(&sent, &cluster.consume("kept"));
    cluster.produce("kept", b"more\n");
    assert_eq!(cluster.committed("kept"), 5_001);
}

#[test]
fn a_consumer_starts_where_it_is_told() {
    let cluster = Cluster::start();
    cluster.produce("places", b"a\nb\nc\n");
    let from = |from: &str| {
        let arguments = ["-mode", "consumer", "-topic", "places", "-group", "", "-from", from, "-until-end"];
        let output = cluster.client(&arguments).output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(from("beginning"), "a\nb\nc\n");
    assert_eq!(from("1"), "b\nc\n");
    assert_eq!(from("end"), "");
    assert_eq!(from("2001-01-01T00:00:00Z"), "a\nb\nc\n");
    assert_eq!(from("2101-01-01T00:00:00Z"), "");
}

#[test]
fn json_and_print_fields_show_what_is_asked_for() {
    let cluster = Cluster::start();
    cluster.produce("fields", b"hello\n");
    let consume = |more: &[&str]| {
        let mut command = cluster.client(&[
            "-mode",
            "consumer",
            "-topic",
            "fields",
            "-group",
            "",
            "-from",
            "beginning",
            "-count",
            "1",
        ]);
        let output = command.args(more).output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let json: serde_json::Value = serde_json::from_str(&consume(&["-output", "json"])).expect("a line of JSON");
    assert_eq!(json["offset"], 0);
    assert_eq!(json["value"], "hello");
    assert!(json["timestamp"].is_string() || json["timestamp"].is_number());
    let line = consume(&["-print", "offset,key"]);
    assert!(line.starts_with('0') && line.trim_end().ends_with("hello"), "{line:?}");
}

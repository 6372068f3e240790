//! Records through sentinel and broker, whatever happens to the sentinel.

use std::{io::Write, process::Stdio};

use crate::{
    cluster::{eventually, text},
    mode::Mode,
};

pub(crate) fn produce_then_consume(mode: &Mode) {
    let cluster = mode.start();
    let lines: Vec<u8> = (0..1_000).flat_map(|line| format!("line {line} 行\n").into_bytes()).collect();
    cluster.produce("orders", &lines);
    assert!(cluster.consume("orders") == lines, "all lines come back in order");
    let group = |more: &[&str]| {
        let flags = ["-mode", "consumer", "-topic", "orders", "-group", "readers"];
        let output = cluster.client(&[&flags, more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(group(&["-count", "2"]), "line 0 行\nline 1 行\n");
    assert_eq!(group(&["-count", "1"]), "line 2 行\n");
}

pub(crate) fn sentinel_stopped_while_producing(mode: &Mode) {
    let mut cluster = mode.start();
    let mut producer = cluster
        .client(&["-mode", "producer", "-topic", "t", "-file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = producer.stdin.take().unwrap();
    let mut expected = Vec::new();
    let mut send = |word: &str| {
        for number in 0..500 {
            let line = format!("{word} {number}\n");
            pipe.write_all(line.as_bytes()).unwrap();
            expected.extend(line.into_bytes());
        }
    };
    send("before");
    eventually("the producer has begun", || {
        let flags = ["topic", "describe", "t", "--sentinel", &cluster.sentinel_address];
        cluster.run(&flags).status.success().then_some(())
    });
    cluster.stop_sentinel();
    send("without");
    cluster.start_sentinel();
    send("after");
    cluster.kill_sentinel();
    send("killed");
    drop(pipe);
    let output = producer.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), cluster.said());
    cluster.start_sentinel();
    assert!(cluster.consume("t") == expected, "every line once, in order");
}

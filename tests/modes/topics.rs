//! Topics from their creation to their end.

use std::thread;

use crate::{
    cluster::text,
    mode::{Mode, ask, ask_json},
};

pub(crate) fn topics(mode: &Mode) {
    let cluster = mode.start();
    let config = ["--partitions", "4", "--config", "fragment_ms=3600000"];
    let created = ask_json(&cluster, &[&["topic", "create", "orders"][..], &config].concat());
    assert_eq!(created["partitions"].as_array().map(Vec::len), Some(4));
    let again = cluster.run(&["topic", "create", "orders", "--sentinel", &cluster.sentinel_address]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(text(&again).contains("orders"), "{}", text(&again));

    let described = ask_json(&cluster, &["topic", "describe", "orders"]);
    assert_eq!((&described["id"], &described["config"]["fragment_ms"]), (&created["id"], &"3600000".into()));
    assert!(described["partitions"].as_array().unwrap().iter().all(|partition| partition["leader"] == "broker1"));
    assert!(ask(&cluster, &["topic", "describe", "orders"]).contains("fragment_ms=3600000"));

    let altered = ask_json(&cluster, &["topic", "alter", "orders", "--partitions", "6", "--unset", "fragment_ms"]);
    assert_eq!((altered["partitions"].as_array().map(Vec::len), altered["config"].to_string()), (Some(6), "{}".into()));

    ask(&cluster, &["topic", "create", "other"]);
    let names = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&ask_json(&cluster, &["topic", "list"])), ["orders", "other"]);
    cluster.produce("other", b"x\n");
    ask(&cluster, &["topic", "delete", "other"]);
    assert_eq!(names(&ask_json(&cluster, &["topic", "list"])), ["orders"]);
}

pub(crate) fn auto_creation(mode: &Mode) {
    let cluster = mode.start_with(&["-default-partitions=3"]);
    cluster.produce("made", b"x\n");
    let made = ask_json(&cluster, &["topic", "describe", "made"]);
    assert_eq!(made["partitions"].as_array().map(Vec::len), Some(3));

    let cluster = mode.start_with(&["-auto-create-topics=false"]);
    let refused = cluster.client(&["-mode", "producer", "-topic", "nope", "-message", "x"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("nope"), "{}", text(&refused));
    assert_eq!(ask_json(&cluster, &["topic", "list"]).as_array().map(Vec::len), Some(0));
}

pub(crate) fn many_creators(mode: &Mode) {
    let cluster = mode.start();
    let create = |name: &str| {
        let output = cluster.run(&["topic", "create", name, "--sentinel", &cluster.sentinel_address]);
        (output.status.success(), text(&output))
    };
    let results: Vec<_> = thread::scope(|scope| {
        let creators = (0..8).map(|number| {
            let create = &create;
            scope.spawn(move || (create("same"), create(&format!("own-{number}"))))
        });
        creators.collect::<Vec<_>>().into_iter().map(|creator| creator.join().unwrap()).collect()
    });
    let won = results.iter().filter(|((won, _), _)| *won).count();
    assert_eq!(won, 1, "{results:?}");
    assert!(results.iter().all(|(_, (made, _))| *made), "{results:?}");
    assert_eq!(ask_json(&cluster, &["topic", "list"]).as_array().map(Vec::len), Some(9));
}

//! A leader that may lack acknowledged records: only by an operator's order.

use std::path::Path;

use goulette_client::{Client, ClientOptions, Producer, ProducerOptions, ProducerRecord, TopicSpec};
use goulette_types::{Offset, TopicName};

use crate::rig::{Rig, names};

pub(crate) async fn an_unclean_election(binary: &Path) {
    let mut rig = Rig::start(binary, 1);
    rig.add_broker("broker1", &[]);
    rig.add_broker("broker2", &[]);
    let client = Client::connect(ClientOptions::for_sentinels(&rig.whom())).await.unwrap();
    let topic: TopicName = "t".parse().unwrap();
    let config = [("min_insync_replicas".to_owned(), "1".to_owned())].into();
    client.admin().create_topic(&topic, TopicSpec { partitions: 1, replication_factor: 2, config }).await.unwrap();
    until_in_sync(&rig, 2);
    send(&client, &topic, 0..10).await;

    let unclean = |broker: &'static str| ["election", "unclean", "t", "0", broker, "--accept-loss"];
    let refused = rig.try_order(&unclean("broker2")).unwrap_err();
    assert!(refused.contains("can lead without any loss"), "{refused}");

    // The last ten are on one broker alone, and that goes.
    let partition = rig.partition("t").unwrap();
    let (stays, goes) = match partition["leader"].as_str() {
        Some("broker1") => ("broker2", "broker1"),
        _ => ("broker1", "broker2"),
    };
    rig.kill(stays);
    until_in_sync(&rig, 1);
    send(&client, &topic, 10..20).await;
    rig.kill(goes);
    rig.restart(stays);
    let offline = rig.eventually("t is offline", || {
        let partition = rig.partition("t")?;
        partition["offline"].as_str().filter(|why| why.contains(goes)).map(ToOwned::to_owned)
    });
    println!("  offline: {offline}");
    let refused = rig.try_order(&["election", "unclean", "t", "0", stays]).unwrap_err();
    assert!(refused.contains("--accept-loss"), "{refused}");

    rig.eventually("the order is taken", || {
        // Not before the broker is registered.
        rig.try_order(&unclean(stays)).ok()
    });
    let recorded = rig.ask(&["oplog", "--from", "0", "--limit", "100000"]).unwrap().to_string();
    assert!(recorded.contains("electLeaderUnclean"), "{recorded}");
    send(&client, &topic, 10..15).await;

    // The other one comes back, and drops what was lost by order.
    rig.restart(goes);
    until_in_sync(&rig, 2);
    rig.stop("broker1");
    rig.stop("broker2");
    let dump = |broker: &str| {
        let output = rig.run(&["log", "dump", &rig.data(broker).display().to_string(), "--topic", "t"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split(" at=").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(dump("broker1"), dump("broker2"));
    println!("  {} batches, the same on both", dump("broker1").len());
}

/// Sends a record for each offset, one after the other, and compares.
async fn send(client: &Client, topic: &TopicName, offsets: std::ops::Range<u64>) {
    let producer = Producer::new(client, topic, ProducerOptions::default()).await.unwrap();
    for offset in offsets {
        let sent = producer.send(ProducerRecord::new(vec![b'x'; 100])).await.unwrap().await.unwrap();
        assert_eq!(sent.offset, Some(Offset(offset)));
    }
    producer.close().await.unwrap();
}

fn until_in_sync(rig: &Rig, count: usize) {
    rig.eventually(&format!("{count} are in sync"), || {
        (names(&rig.partition("t")?["isr"]).len() == count).then_some(())
    });
}

//! A rolling restart of everything.

use std::{path::Path, time::Duration};

use goulette_client::{Client, ClientOptions, TopicSpec};

use crate::{
    loads::Loads,
    rig::{Rig, names},
};

const TOPICS: usize = 3;
const BETWEEN: u64 = 300;
/// The sum over all restarts of the longest time without an ack during each.
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub(crate) async fn every_process_restarts(binary: &Path) {
    let mut rig = Rig::start(binary, 3);
    for broker in ["broker1", "broker2", "broker3"] {
        rig.add_broker(broker, &[]);
    }
    let client = Client::connect(ClientOptions::for_sentinels(&rig.whom())).await.unwrap();
    let mut loads = Loads::none(&client);
    for number in 0..TOPICS {
        let spec = TopicSpec { partitions: 1, replication_factor: 3, ..TopicSpec::default() };
        loads.add(&format!("t{number}"), spec).await;
    }
    until_whole(&rig, &loads);
    loads.go_on(&mut rig, BETWEEN).await;
    let mut sums = [Duration::ZERO; TOPICS];
    for process in ["sentinel1", "sentinel2", "sentinel3", "broker1", "broker2", "broker3"] {
        loads.take_pauses();
        rig.stop(process);
        rig.restart(process);
        until_whole(&rig, &loads);
        loads.go_on(&mut rig, BETWEEN).await;
        let pauses = loads.take_pauses();
        let told: Vec<_> = pauses.iter().map(|pause| format!("{} ms", pause.as_millis())).collect();
        println!("  {process}: longest pauses {}", told.join(", "));
        sums.iter_mut().zip(pauses).for_each(|(sum, pause)| *sum += pause);
    }
    let worst = sums.into_iter().max().unwrap();
    println!("  together {} ms at most", worst.as_millis());
    assert!(worst < PAUSE_MAX, "longer than {PAUSE_MAX:?}");
    loads.verify().await;
}

/// Waits until all replicas of all topics are in sync, as an operator does before the next restart.
fn until_whole(rig: &Rig, loads: &Loads) {
    for topic in loads.topics() {
        rig.eventually(&format!("all replicas of {topic} are in sync"), || {
            let partition = rig.partition(&topic)?;
            (names(&partition["isr"]).len() == 3 && partition["leader"] != "").then_some(())
        });
    }
}

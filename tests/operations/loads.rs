//! A load on each of several topics.

use std::time::{Duration, Instant};

use goulette_client::{Client, TopicSpec};
use goulette_types::TopicName;
use tokio::time::sleep;

use crate::{
    load::Load,
    rig::{LOOK, PATIENCE, Rig},
};

/// An order of an operator holds acks up for no longer: well below the time in which a silent broker is found out.
const PAUSE_MAX: Duration = Duration::from_secs(3);

pub(crate) struct Loads {
    client: Client,
    loads: Vec<(TopicName, Load)>,
}

impl Loads {
    pub(crate) fn none(client: &Client) -> Self {
        Self { client: client.clone(), loads: Vec::new() }
    }

    /// Makes a topic of one partition, and loads it.
    pub(crate) async fn add(&mut self, topic: &str, spec: TopicSpec) {
        let topic: TopicName = topic.parse().unwrap();
        self.client.admin().create_topic(&topic, spec).await.unwrap();
        let load = Load::start(&self.client, &topic);
        self.loads.push((topic, load));
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.loads.iter().map(|(topic, _)| topic.to_string()).collect()
    }

    /// Waits until so many more records of each topic are acknowledged.
    pub(crate) async fn go_on(&self, rig: &mut Rig, more: u64) {
        for (topic, load) in &self.loads {
            let (begun, wanted) = (Instant::now(), load.acknowledged() + more);
            while load.acknowledged() < wanted {
                assert!(rig.died().is_empty(), "a process has ended by itself: {:?}", rig.died());
                assert!(!load.ended(), "a client of {topic} has given up");
                assert!(begun.elapsed() < PATIENCE, "the producer of {topic} does not get on");
                sleep(LOOK).await;
            }
        }
    }

    /// As [`go_on`](Self::go_on), and tells the longest time without an ack since the last call, which is to be short.
    pub(crate) async fn go_on_after(&self, what: &str, rig: &mut Rig, more: u64) {
        self.go_on(rig, more).await;
        let pause = self.take_pauses().into_iter().max().unwrap_or_default();
        println!("  {what}: longest pause between two acks {} ms", pause.as_millis());
        assert!(pause < PAUSE_MAX, "{what}: nothing was acknowledged for {} ms", pause.as_millis());
    }

    /// The longest time without an ack since the last call, of each topic.
    pub(crate) fn take_pauses(&self) -> Vec<Duration> {
        self.loads.iter().map(|(_, load)| load.take_pause()).collect()
    }

    /// Stops, and reads everything back: nothing was refused, of unknown outcome, or is lost.
    pub(crate) async fn verify(self) {
        for (topic, load) in self.loads {
            print!("  {topic}:");
            assert_eq!(load.unknown(), 0, "nobody knows the outcome of some of {topic}");
            load.verify(&self.client, &topic).await;
        }
    }
}

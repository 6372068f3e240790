//! Links that lose, delay, repeat and reorder; and streams, which keep their order until they break.

use std::collections::BTreeMap;

use goulette_replication::Stream;

use crate::{
    plan::Plan,
    random::Random,
    time::{Time, micros, millis, seconds},
};

/// Who talks on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    Broker(u8),
    Sentinel(u8),
    Client(u8),
    Store,
}

/// The network between all nodes.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Directed links that carry nothing.
    cut: Vec<(Node, Node)>,
    streams: BTreeMap<Stream, Channel>,
    next_stream: u64,
    /// Links take up to this much longer.
    pub(crate) slowness: Time,
    /// No more faults.
    pub(crate) healed: bool,
}

#[derive(Debug)]
struct Channel {
    ends: [Node; 2],
    /// When the last message arrives at each end.
    last: [Time; 2],
}

/// What becomes of a message on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives(Time),
    /// Lost, and the stream with it.
    Breaks,
    /// The stream is broken already.
    Gone,
}

impl Network {
    pub(crate) fn cut(&mut self, from: Node, to: Node) {
        self.cut.push((from, to));
    }

    pub(crate) fn mend(&mut self) {
        self.cut.clear();
        self.slowness = Time(0);
    }

    pub(crate) fn is_cut(&self, from: Node, to: Node) -> bool {
        self.cut.contains(&(from, to))
    }

    fn delay(&self, random: &mut Random) -> Time {
        let usual = random.time(micros(100), millis(2));
        // Now and then a packet is sent again.
        let again = if random.chance(5) { random.time(millis(20), millis(400)) } else { Time(0) };
        let slow = if self.slowness.0 > 0 { random.time(Time(0), self.slowness) } else { Time(0) };
        usual + again + slow
    }

    /// When a call arrives: never, once, or twice.
    pub(crate) fn call(&self, plan: &Plan, random: &mut Random, now: Time, from: Node, to: Node) -> Vec<Time> {
        if self.is_cut(from, to) || (!self.healed && random.chance(plan.loss)) {
            return Vec::new();
        }
        let mut arrivals = vec![now + self.delay(random)];
        // Without its sequence numbers a producer's batch would count twice; those are the log's matter, not replication's.
        let repeatable = !matches!(from, Node::Client(_));
        if repeatable && !self.healed && random.chance(plan.repeats) {
            arrivals.push(now + self.delay(random) + random.time(Time(1), seconds(5)));
        }
        arrivals
    }

    pub(crate) fn open(&mut self, opener: Node, other: Node) -> Stream {
        self.next_stream += 1;
        let stream = Stream(self.next_stream);
        self.streams.insert(stream, Channel { ends: [opener, other], last: [Time(0); 2] });
        stream
    }

    /// What becomes of a message on a stream: they arrive in order, and none behind a lost one.
    pub(crate) fn send(
        &mut self,
        plan: &Plan,
        random: &mut Random,
        now: Time,
        stream: Stream,
        from: Node,
        to: Node,
    ) -> Fate {
        let lost = self.is_cut(from, to) || (!self.healed && random.chance(plan.breaks));
        let delay = self.delay(random);
        let Some(channel) = self.streams.get_mut(&stream) else { return Fate::Gone };
        if lost {
            return Fate::Breaks;
        }
        let last = &mut channel.last[usize::from(channel.ends[0] == from)];
        *last = (*last).max(now + delay) + Time(1);
        Fate::Arrives(*last)
    }

    /// The stream carries nothing any more; its ends, which will notice some time.
    pub(crate) fn close(&mut self, stream: Stream) -> Option<[Node; 2]> {
        self.streams.remove(&stream).map(|channel| channel.ends)
    }

    pub(crate) fn streams_of(&self, node: Node) -> Vec<Stream> {
        self.streams.iter().filter(|(_, channel)| channel.ends.contains(&node)).map(|(stream, _)| *stream).collect()
    }
}

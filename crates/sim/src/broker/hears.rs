//! What a broker does with each message: of its peers, of sentinels, of clients.

use goulette_replication::{BatchFacts, FromLeader, Outcome, Stream, ToFollower};
use goulette_types::{Acks, LeaderEpoch, Offset};

use crate::{
    disk::{Entry, Record},
    network::Node,
    world::{Message, Refusal, World},
};

impl World {
    pub(crate) fn broker_hears(&mut self, index: u8, from: Node, message: Message) {
        let Some(process) = self.process(index) else {
            if let Message::Open(stream) = message {
                // Nobody listens: the connection is refused.
                self.break_stream(stream);
            }
            return;
        };
        match message {
            Message::Open(stream) => {
                let Node::Broker(peer) = from else { return };
                process.down.insert(stream, (peer, None));
                self.send(index, peer, stream, Message::Opened(stream));
            }
            Message::Opened(stream) => {
                let up = process.up.iter_mut().find(|(_, (known, _))| *known == stream);
                if let Some((&peer, up)) = up {
                    up.1 = true;
                    let name = self.brokers[peer as usize].name.clone();
                    let follows = self.brokers[index as usize].process.as_ref().and_then(|p| p.replica.follows());
                    if follows.is_none_or(|leader| leader.broker != name) {
                        return;
                    }
                    self.decide(index, |replica, _, effects| replica.stream_opened(stream, effects));
                }
            }
            Message::ToLeader(message) => {
                let Node::Broker(peer) = from else { return };
                if process.down.get(&message.stream).is_some_and(|(known, _)| *known == peer) {
                    let name = self.brokers[peer as usize].name.clone();
                    self.decide(index, |replica, now, effects| replica.from_follower(now, &name, message, effects));
                }
            }
            Message::ToFollower(message) if process.is_up(message.stream) => {
                self.decide(index, |replica, _, effects| replica.from_leader(message, effects));
            }
            Message::Batches { stream, epoch, base, records, committed, start } if process.is_up(stream) => {
                self.take_batches(index, (stream, epoch), base, &records, committed, start);
            }
            Message::RegisterAgain { incarnation } if process.incarnation == incarnation => process.registered = false,
            Message::Assign { incarnation, state } if process.incarnation == incarnation => {
                process.registered = true;
                self.decide(index, |replica, now, effects| replica.update(now, state, effects));
            }
            Message::Probe { sentinel } => {
                let incarnation = process.incarnation;
                self.call(Node::Broker(index), Node::Sentinel(sentinel), Message::ProbeAnswer { incarnation });
            }
            Message::Produce { op, acks } => self.produce(index, from, op, acks),
            Message::Fetch { op, offset } => {
                let Some(process) = self.process(index) else { return };
                let committed = process.replica.log().committed.0;
                if process.replica.leader().is_none() {
                    return;
                }
                let base = offset.max(process.log.start);
                let records = (base..committed.min(base + 64)).filter_map(|at| process.log.get(at)).collect();
                self.call(Node::Broker(index), from, Message::Fetched { op, base, records });
            }
            Message::AskEnd { op } => {
                let mut effects = Vec::new();
                if let Some(read) = process.replica.fresh_read(&mut effects) {
                    process.fresh.insert(read, (from, op));
                }
                for effect in effects {
                    self.act(index, effect);
                }
            }
            _ => {}
        }
    }

    fn take_batches(
        &mut self,
        index: u8,
        (stream, epoch): (Stream, LeaderEpoch),
        base: u64,
        records: &[Record],
        committed: u64,
        start: u64,
    ) {
        for (at, &record) in (base..).zip(records) {
            let Some(process) = self.process(index) else { return };
            let facts = BatchFacts { base: Offset(at), end: Offset(at + 1), epoch: record.epoch };
            if process.replica.offer(stream, epoch, &facts).is_err() {
                return self.break_stream(stream);
            }
            process.log.apply(Entry::Append(record));
            self.write(index, Entry::Append(record));
        }
        let message = ToFollower { stream, leader_epoch: epoch, body: FromLeader::Committed(Offset(committed)) };
        self.decide(index, |replica, _, effects| replica.from_leader(message, effects));
        let Some(process) = self.process(index) else { return };
        // What the leader's retention removed goes here too, as far as it is committed here.
        let start = start.min(process.replica.log().committed.0);
        if start > process.log.start {
            self.write(index, Entry::Trim { start });
        }
    }

    fn produce(&mut self, index: u8, client: Node, op: u64, acks: Acks) {
        let Some(process) = self.process(index) else { return };
        let Ok(epoch) = process.replica.admit(acks == Acks::All) else {
            let result = Err(Refusal::Refused);
            return self.call(Node::Broker(index), client, Message::Produced { op, result });
        };
        let offset = process.log.end();
        let record = Record { id: op, epoch };
        if !process.replica.appended(Offset(offset), Offset(offset + 1)) {
            return self.oracle.fail(format!("broker {index} leads, but its log does not go on at {offset}"));
        }
        process.log.apply(Entry::Append(record));
        let waits = process.waiters.wait(epoch, acks, Offset(offset + 1), (client, op, offset));
        if let Err((outcome, _)) = waits {
            let result = match outcome {
                Outcome::Reached(acks) => Ok((acks, offset)),
                Outcome::Unknown => Err(Refusal::Unknown),
            };
            self.call(Node::Broker(index), client, Message::Produced { op, result });
        }
        self.write(index, Entry::Append(record));
    }
}

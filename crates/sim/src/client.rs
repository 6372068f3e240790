//! Producers and consumers: what they ask, and the history of what they were told.

use goulette_types::Acks;

use crate::{
    network::Node,
    plan::Plan,
    time::{Time, seconds},
    world::{Event, Message, Refusal, World},
};

/// All clients of a run.
#[derive(Debug)]
pub(crate) struct Clients {
    clients: Vec<Client>,
    producing: bool,
}

#[derive(Debug)]
struct Client {
    kind: Kind,
    /// The broker that it believes to lead.
    leader: u8,
    pending: Option<(u64, Time)>,
    /// Acks since the faults ended.
    acked_since_healed: u64,
}

#[derive(Debug)]
enum Kind {
    Producer {
        last_acked: Option<u64>,
        all: bool,
    },
    Consumer {
        next: u64,
    },
    /// Asks for the end; remembers what had been acknowledged when it asked.
    Reader {
        floor: u64,
    },
}

const PATIENCE: Time = seconds(3);

impl Clients {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut clients = Vec::new();
        let mut add = |kind| clients.push(Client { kind, leader: 0, pending: None, acked_since_healed: 0 });
        for producer in 0..plan.producers {
            add(Kind::Producer { last_acked: None, all: producer != 2 });
        }
        for _ in 0..plan.consumers {
            add(Kind::Consumer { next: 0 });
        }
        add(Kind::Reader { floor: 0 });
        Self { clients, producing: true }
    }

    pub(crate) fn count(&self) -> u8 {
        self.clients.len() as u8
    }

    pub(crate) fn stop_producing(&mut self) {
        self.producing = false;
    }

    /// Whether each producer was acknowledged after the faults.
    pub(crate) fn all_acked(&self) -> bool {
        let producers = self.clients.iter().filter(|client| matches!(client.kind, Kind::Producer { .. }));
        producers.into_iter().all(|client| client.acked_since_healed > 0)
    }
}

impl World {
    pub(crate) fn client_tick(&mut self, index: u8) {
        let pause = Time(self.random.between(self.plan.pause.0 / 2, self.plan.pause.0 * 2));
        self.after(pause, Event::ClientTick { client: index });
        let me = Node::Client(index);
        let (healed, now) = (self.healed, self.now);
        let client = &mut self.clients.clients[index as usize];
        if let Some((_, since)) = client.pending {
            if now < since + PATIENCE {
                return;
            }
            client.pending = None;
            let broker = client.leader;
            if matches!(client.kind, Kind::Producer { .. }) {
                self.stats.unknown += 1;
            }
            self.reroute(index);
            for sentinel in self.sentinel_nodes() {
                if self.random.chance(500) {
                    self.call(me, sentinel, Message::Unreachable { broker });
                }
            }
            return;
        }
        if !self.clients.producing && matches!(self.clients.clients[index as usize].kind, Kind::Producer { .. }) {
            return;
        }
        let op = self.fresh_id();
        let end = self.oracle.acked_end();
        let stray = !healed && self.random.chance(20);
        let anybody = self.random.below(u64::from(self.plan.brokers)) as u8;
        let client = &mut self.clients.clients[index as usize];
        client.pending = Some((op, now));
        let to = Node::Broker(if stray { anybody } else { client.leader });
        let message = match &mut client.kind {
            Kind::Producer { all, .. } => Message::Produce { op, acks: if *all { Acks::All } else { Acks::Leader } },
            Kind::Consumer { next } => Message::Fetch { op, offset: *next },
            Kind::Reader { floor } => {
                *floor = end;
                Message::AskEnd { op }
            }
        };
        self.call(me, to, message);
    }

    fn reroute(&mut self, index: u8) {
        let to = self.random.below(u64::from(self.plan.sentinels)) as u8;
        self.call(Node::Client(index), Node::Sentinel(to), Message::Route);
        // Without an answer another broker is as good as any.
        if self.random.chance(200) {
            let anybody = self.random.below(u64::from(self.plan.brokers)) as u8;
            self.clients.clients[index as usize].leader = anybody;
        }
    }

    pub(crate) fn client_hears(&mut self, index: u8, message: Message) {
        let healed = self.healed;
        let client = &mut self.clients.clients[index as usize];
        let pending = client.pending.map(|(op, _)| op);
        match message {
            Message::RouteAnswer { leader: Some(leader) } => client.leader = leader,
            Message::Produced { op, result } if pending == Some(op) => {
                client.pending = None;
                match result {
                    Ok((acks, offset)) => {
                        client.acked_since_healed += u64::from(healed);
                        let Kind::Producer { last_acked, .. } = &mut client.kind else { return };
                        let before = last_acked.replace(offset);
                        if acks == Acks::All {
                            self.stats.acked += 1;
                            self.oracle.acked(op, offset, before);
                        }
                    }
                    Err(refusal) => {
                        match refusal {
                            Refusal::Refused => self.stats.refused += 1,
                            Refusal::Unknown => self.stats.unknown += 1,
                        }
                        client.pending = None;
                        self.reroute(index);
                    }
                }
            }
            Message::Fetched { op, base, records } if pending == Some(op) => {
                client.pending = None;
                let Kind::Consumer { next } = &mut client.kind else { return };
                let count = records.len() as u64;
                if count > 0 {
                    *next = base + count;
                }
                self.stats.consumed += count;
                self.oracle.consumed(base, &records);
            }
            Message::EndIs { op, end } if pending == Some(op) => {
                client.pending = None;
                let Kind::Reader { floor } = client.kind else { return };
                self.stats.fresh_reads += 1;
                self.oracle.fresh_read(floor, end);
            }
            _ => {}
        }
    }
}

//! Which brokers are alive. Only decides: the detector carries the effects out, in order.

use std::{collections::BTreeMap, time::Duration};

use goulette_types::{BrokerId, Incarnation};

/// Times that decide over a broker's fate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Silence after which a broker that answers no probe is down.
    pub(crate) session: Duration,
    /// How often a broker is to be heard.
    pub(crate) heartbeat: Duration,
    /// How often [`Event::Tick`] is to come.
    pub(crate) tick: Duration,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A broker registered (again), or was found registered at the start: it gets a full session.
    Registered { broker: BrokerId, incarnation: Incarnation },
    /// A broker left in order.
    Left { broker: BrokerId },
    /// A broker opened its stream of heartbeats; later streams have higher numbers.
    Opened { broker: BrokerId, stream: u64 },
    /// A beat came.
    Heartbeat { broker: BrokerId, incarnation: Incarnation },
    /// A stream ended.
    Broken { broker: BrokerId, stream: u64 },
    /// A client says that it does not reach the broker.
    Reported { broker: BrokerId },
    /// The broker answered a probe.
    Answered { broker: BrokerId, incarnation: Incarnation },
    /// The broker did not answer a probe.
    Unanswered { broker: BrokerId, incarnation: Incarnation },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask the broker whether it lives as this start; the answer comes back as an event.
    Probe { broker: BrokerId, incarnation: Incarnation },
    /// It is heard of in time.
    Healthy { broker: BrokerId },
    /// It is silent; nothing is decided yet.
    Suspect { broker: BrokerId },
    /// It is gone: record it.
    Down { broker: BrokerId, incarnation: Incarnation },
}

struct Member {
    incarnation: Incarnation,
    heard: Duration,
    stream: u64,
    suspect: bool,
    probing: bool,
    /// From when on a failed probe is enough: the stream broke, or a client complains of a silent broker.
    accused: Option<Duration>,
}

/// Knows the registered brokers that have not been given up.
pub(crate) struct Membership {
    timing: Timing,
    members: BTreeMap<BrokerId, Member>,
    tick_due: Duration,
}

impl Membership {
    pub(crate) fn new(timing: Timing, now: Duration) -> Self {
        Self { timing, members: BTreeMap::new(), tick_due: now + timing.tick }
    }

    /// Takes an event in; `now` never goes back.
    pub(crate) fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Registered { broker, incarnation } => {
                let known = self.members.get(&broker);
                let (stream, suspect) = known.map_or((0, false), |known| (known.stream, known.suspect));
                let member = Member { incarnation, heard: now, stream, suspect: false, probing: false, accused: None };
                self.members.insert(broker.clone(), member);
                if suspect {
                    effects.push(Effect::Healthy { broker });
                }
            }
            Event::Left { broker } => {
                self.members.remove(&broker);
            }
            Event::Tick => self.tick(now, effects),
            Event::Opened { broker, stream } => {
                if let Some(member) = self.members.get_mut(&broker) {
                    member.stream = stream;
                    member.accused = None;
                }
            }
            Event::Heartbeat { broker, incarnation } => {
                if let Some(member) = self.member(&broker, incarnation) {
                    member.heard = now;
                    member.accused = None;
                    if std::mem::take(&mut member.suspect) {
                        effects.push(Effect::Healthy { broker });
                    }
                }
            }
            Event::Broken { broker, stream } => {
                if let Some(member) = self.members.get_mut(&broker).filter(|member| member.stream == stream) {
                    // A broker that stops in order says so a moment after it has closed its stream.
                    member.accused = Some(now + self.timing.tick);
                }
            }
            Event::Reported { broker } => {
                if let Some(member) = self.members.get_mut(&broker) {
                    // A client's word alone never unseats a broker that we hear ourselves.
                    if now > member.heard + 2 * self.timing.heartbeat {
                        member.accused.get_or_insert(now);
                    }
                    member.probe(&broker, effects);
                }
            }
            Event::Answered { broker, incarnation } => {
                if let Some(member) = self.member(&broker, incarnation) {
                    // Proof of life, but it stays suspect until it beats again.
                    member.heard = now;
                    member.probing = false;
                    member.accused = None;
                }
            }
            Event::Unanswered { broker, incarnation } => {
                let session = self.timing.session;
                if let Some(member) = self.member(&broker, incarnation) {
                    member.probing = false;
                    if member.is_accused(now) || now >= member.heard + session {
                        self.members.remove(&broker);
                        effects.push(Effect::Down { broker, incarnation });
                    }
                }
            }
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        // A late tick means that we slept: nobody's silence counts while we could not hear.
        let late = now.saturating_sub(self.tick_due);
        let slept = if late > self.timing.heartbeat { late } else { Duration::ZERO };
        self.tick_due = now + self.timing.tick;
        for (broker, member) in &mut self.members {
            member.heard = now.min(member.heard + slept);
            // Suspected at half of the session, so that the probe's answer is there when the session ends.
            if member.is_accused(now) || now >= member.heard + self.timing.session / 2 {
                member.suspect(broker, effects);
                member.probe(broker, effects);
            }
        }
    }

    fn member(&mut self, broker: &BrokerId, incarnation: Incarnation) -> Option<&mut Member> {
        self.members.get_mut(broker).filter(|member| member.incarnation == incarnation)
    }
}

impl Member {
    fn is_accused(&self, now: Duration) -> bool {
        self.accused.is_some_and(|from| now >= from)
    }

    fn suspect(&mut self, broker: &BrokerId, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.suspect, true) {
            effects.push(Effect::Suspect { broker: broker.clone() });
        }
    }

    fn probe(&mut self, broker: &BrokerId, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.probing, true) {
            effects.push(Effect::Probe { broker: broker.clone(), incarnation: self.incarnation });
        }
    }
}

#[cfg(test)]
mod tests;

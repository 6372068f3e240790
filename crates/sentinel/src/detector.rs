//! The task around [`Membership`]: hears the brokers, probes them, logs what changes, has the dead recorded.
//!
//! It watches only while this sentinel leads, and grants every broker a full session when that begins.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use goulette_env::Env;
use goulette_logging::{info, warn};
use goulette_meta::keys::BrokerState;
use goulette_types::{BrokerId, Incarnation};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    RequestError,
    controller::ControllerHandle,
    membership::{Effect, Event, Membership, Timing},
    probe::probe,
    state::{Role, State},
};

/// Signals that may wait; heartbeats beyond make their streams wait.
const QUEUE: usize = 1024;

enum Signal {
    Event(Event),
    /// A client does not reach the broker; answered when the probe has been acted on.
    Report {
        broker: BrokerId,
        done: oneshot::Sender<()>,
    },
}

/// Tells the detector what happens.
#[derive(Clone)]
pub(crate) struct DetectorHandle {
    signals: mpsc::Sender<Signal>,
}

impl DetectorHandle {
    /// Tells an event; waits while the queue is full.
    pub(crate) async fn tell(&self, event: Event) {
        // Without a detector the sentinel is stopping, and nobody's life matters any more.
        let _ = self.signals.send(Signal::Event(event)).await;
    }

    /// Tells an event from where one cannot wait; if the queue is full, silence will tell it later.
    pub(crate) fn tell_now(&self, event: Event) {
        let _ = self.signals.try_send(Signal::Event(event));
    }

    /// Has a broker probed that a client does not reach, and waits until the metadata tells the result, but no longer
    /// than `deadline`.
    pub(crate) async fn report(&self, broker: BrokerId, deadline: Duration) {
        let (done, answer) = oneshot::channel();
        let report = async {
            if self.signals.send(Signal::Report { broker, done }).await.is_ok() {
                let _ = answer.await;
            }
        };
        let _ = timeout(deadline, report).await;
    }
}

/// What a piece of work in the background has found.
enum Found {
    Answer { broker: BrokerId, event: Event },
    Recorded { broker: BrokerId },
}

/// See the module.
pub(crate) struct Detector {
    env: Env,
    state: Arc<State>,
    controller: ControllerHandle,
    timing: Timing,
    membership: Membership,
    signals: mpsc::Receiver<Signal>,
    work: JoinSet<Found>,
    /// Who waits for the outcome of a broker's probe.
    waiting: BTreeMap<BrokerId, Vec<oneshot::Sender<()>>>,
}

impl Detector {
    /// A detector that knows nobody yet.
    pub(crate) fn new(
        env: Env,
        state: Arc<State>,
        controller: ControllerHandle,
        timing: Timing,
    ) -> (Self, DetectorHandle) {
        let (sender, signals) = mpsc::channel(QUEUE);
        let now = env.clock.now();
        let membership = Membership::new(timing, now);
        let work = JoinSet::new();
        let detector = Self { env, state, controller, timing, membership, signals, work, waiting: BTreeMap::new() };
        (detector, DetectorHandle { signals: sender })
    }

    /// Grants every broker that is recorded as live a full session, if this sentinel leads; else watches none.
    fn begin(&mut self, role: Role) {
        let now = self.env.clock.now();
        self.membership = Membership::new(self.timing, now);
        // What is still being found out was asked by an earlier leadership.
        self.work.abort_all();
        self.waiting.clear();
        self.state.clear_suspects();
        if role == Role::Follower {
            return;
        }
        for (broker, record) in self.state.catalog().brokers() {
            if record.state == BrokerState::Live {
                let event = Event::Registered { broker: broker.clone(), incarnation: record.incarnation };
                self.membership.step(now, event, &mut Vec::new());
            }
        }
    }

    /// Works until `stopping` becomes true.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut roles = self.state.role();
        let role = *roles.borrow_and_update();
        self.begin(role);
        let mut ticks = interval(self.timing.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // In this order: what waits to be heard is heard before silence is counted.
            tokio::select! {
                biased;
                _ = stopping.wait_for(|&stopping| stopping) => break,
                Ok(()) = roles.changed() => {
                    let role = *roles.borrow_and_update();
                    self.begin(role);
                }
                Some(signal) = self.signals.recv() => self.take(signal),
                Some(found) = self.work.join_next() => {
                    // Work of an earlier leadership was cut off and has nothing to tell.
                    if let Ok(found) = found {
                        self.learn(found);
                    }
                }
                _ = ticks.tick() => self.step(Event::Tick),
            }
        }
        self.work.shutdown().await;
    }

    fn take(&mut self, signal: Signal) {
        match signal {
            Signal::Event(event) => self.step(event),
            Signal::Report { broker, done } => {
                let live = self.state.catalog().broker(&broker).is_some_and(|known| known.state == BrokerState::Live);
                if live {
                    self.waiting.entry(broker.clone()).or_default().push(done);
                    self.step(Event::Reported { broker });
                }
            }
        }
    }

    fn learn(&mut self, found: Found) {
        match found {
            Found::Answer { broker, event } => {
                if !self.step_tells_of_death(event) {
                    self.waiting.remove(&broker);
                }
            }
            Found::Recorded { broker } => {
                self.waiting.remove(&broker);
            }
        }
    }

    fn step(&mut self, event: Event) {
        self.step_tells_of_death(event);
    }

    /// Takes an event in and acts; answers whether a broker's death is being recorded.
    fn step_tells_of_death(&mut self, event: Event) -> bool {
        let mut effects = Vec::new();
        self.membership.step(self.env.clock.now(), event, &mut effects);
        let mut death = false;
        for effect in effects {
            match effect {
                Effect::Probe { broker, incarnation } => self.probe(broker, incarnation),
                Effect::Healthy { broker } => {
                    info!("broker {broker} is healthy again");
                    self.state.note_suspect(&broker, false);
                }
                Effect::Suspect { broker } => {
                    info!("broker {broker} is suspect: it is silent");
                    self.state.note_suspect(&broker, true);
                }
                Effect::Down { broker, incarnation } => {
                    warn!("broker {broker} is down: it is silent and does not answer");
                    self.state.note_suspect(&broker, false);
                    death = true;
                    let controller = self.controller.clone();
                    let pause = self.timing.heartbeat;
                    self.work.spawn(async move {
                        // Nobody watches it any more, so this must not be forgotten; it ends with the detector.
                        let mut told = false;
                        while let Err(error) = controller.mark_down(broker.clone(), incarnation).await {
                            if let RequestError::NotLeader { .. } = error {
                                // The one that leads now looks for itself.
                                break;
                            }
                            if !std::mem::replace(&mut told, true) {
                                warn!("cannot record yet that broker {broker} is down: {error}");
                            }
                            sleep(pause).await;
                        }
                        Found::Recorded { broker }
                    });
                }
            }
        }
        death
    }

    fn probe(&mut self, broker: BrokerId, incarnation: Incarnation) {
        // Short enough that, begun before the end of a session, it ends less than a heartbeat after it.
        let deadline = self.timing.heartbeat * 7 / 10;
        let address = self.state.catalog().broker(&broker).map(|known| known.address.clone());
        self.work.spawn(async move {
            let answer = match address {
                Some(address) => probe(&address, deadline).await,
                None => None,
            };
            let event = if answer == Some(incarnation) {
                Event::Answered { broker: broker.clone(), incarnation }
            } else {
                Event::Unanswered { broker: broker.clone(), incarnation }
            };
            Found::Answer { broker, event }
        });
    }
}

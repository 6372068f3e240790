use super::*;

const TIMING: Timing =
    Timing { session: Duration::from_secs(6), heartbeat: Duration::from_secs(1), tick: Duration::from_millis(250) };
const FIRST: Incarnation = Incarnation(1);
const SECOND: Incarnation = Incarnation(2);

fn id() -> BrokerId {
    "b1".parse().unwrap()
}

/// A membership with one broker, and a clock.
struct World {
    membership: Membership,
    now: Duration,
}

impl World {
    fn new() -> Self {
        let mut world = Self { membership: Membership::new(TIMING, Duration::ZERO), now: Duration::ZERO };
        assert_eq!(world.tell(Event::Registered { broker: id(), incarnation: FIRST }), []);
        assert_eq!(world.tell(Event::Opened { broker: id(), stream: 1 }), []);
        world
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.membership.step(self.now, event, &mut effects);
        effects
    }

    fn beat(&mut self) -> Vec<Effect> {
        self.tell(Event::Heartbeat { broker: id(), incarnation: FIRST })
    }

    /// Lets time pass with punctual ticks; answers what they led to.
    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while self.now < end {
            self.now += TIMING.tick;
            self.membership.step(self.now, Event::Tick, &mut effects);
        }
        effects
    }

    fn unanswered(&mut self) -> Vec<Effect> {
        self.tell(Event::Unanswered { broker: id(), incarnation: FIRST })
    }

    fn answered(&mut self) -> Vec<Effect> {
        self.tell(Event::Answered { broker: id(), incarnation: FIRST })
    }
}

fn suspect() -> Effect {
    Effect::Suspect { broker: id() }
}

fn probe() -> Effect {
    Effect::Probe { broker: id(), incarnation: FIRST }
}

fn healthy() -> Effect {
    Effect::Healthy { broker: id() }
}

fn down() -> Effect {
    Effect::Down { broker: id(), incarnation: FIRST }
}

#[test]
fn a_broker_that_beats_is_left_alone() {
    let mut world = World::new();
    for _ in 0..20 {
        assert_eq!(world.pass(Duration::from_secs(1)), []);
        assert_eq!(world.beat(), []);
    }
}

#[test]
fn a_silent_broker_is_suspect_first_and_down_when_its_session_is_over() {
    let mut world = World::new();
    assert_eq!(world.pass(Duration::from_secs(3)), [suspect(), probe()]);
    assert_eq!(world.unanswered(), [], "the session is not over");
    assert_eq!(world.pass(Duration::from_millis(2_750)), [probe()], "asked again, but one probe at a time");
    assert_eq!(world.unanswered(), []);
    assert_eq!(world.pass(Duration::from_millis(250)), [probe()]);
    assert_eq!(world.unanswered(), [down()]);
    assert_eq!(world.pass(Duration::from_secs(20)), [], "nobody is left to watch");
}

#[test]
fn an_answer_to_a_probe_extends_the_session() {
    let mut world = World::new();
    assert_eq!(world.pass(Duration::from_secs(3)), [suspect(), probe()]);
    assert_eq!(world.answered(), []);
    assert_eq!(world.pass(Duration::from_millis(2_750)), []);
    assert_eq!(world.pass(Duration::from_millis(250)), [probe()], "suspected once, and asked again");
    assert_eq!(world.unanswered(), []);
    assert_eq!(world.beat(), [healthy()]);
}

#[test]
fn a_broken_stream_and_a_failed_probe_are_enough() {
    let mut world = World::new();
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 1 }), []);
    assert_eq!(world.pass(TIMING.tick), [suspect(), probe()]);
    assert_eq!(world.unanswered(), [down()]);
}

#[test]
fn a_broker_that_closes_its_stream_and_then_says_that_it_leaves_is_not_suspect() {
    let mut world = World::new();
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 1 }), []);
    assert_eq!(world.tell(Event::Left { broker: id() }), []);
    assert_eq!(world.pass(Duration::from_secs(20)), []);
}

#[test]
fn a_broker_that_only_lost_its_stream_is_kept() {
    let mut world = World::new();
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 1 }), []);
    assert_eq!(world.tell(Event::Opened { broker: id(), stream: 2 }), []);
    assert_eq!(world.pass(Duration::from_secs(1)), [], "it was back at once");
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 2 }), []);
    assert_eq!(world.pass(TIMING.tick), [suspect(), probe()]);
    assert_eq!(world.answered(), []);
    assert_eq!(world.unanswered(), [], "it has proved that it lives");
}

#[test]
fn the_end_of_an_older_stream_says_nothing() {
    let mut world = World::new();
    assert_eq!(world.tell(Event::Opened { broker: id(), stream: 2 }), []);
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 1 }), []);
    assert_eq!(world.pass(Duration::from_secs(1)), []);
}

#[test]
fn a_clients_word_alone_unseats_nobody_that_is_heard() {
    let mut world = World::new();
    assert_eq!(world.pass(Duration::from_secs(1)), []);
    assert_eq!(world.tell(Event::Reported { broker: id() }), [probe()]);
    assert_eq!(world.unanswered(), [], "it was heard a second ago");
    assert_eq!(world.pass(Duration::from_millis(1_250)), []);
    assert_eq!(world.tell(Event::Reported { broker: id() }), [probe()]);
    assert_eq!(world.unanswered(), [down()], "silent, reported, and not answering");
}

#[test]
fn a_sentinel_that_slept_counts_nobodys_silence_for_its_sleep() {
    let mut world = World::new();
    world.now += Duration::from_secs(30);
    assert_eq!(world.tell(Event::Tick), [], "thirty seconds asleep");
    assert_eq!(world.pass(Duration::from_millis(2_500)), []);
    assert_eq!(world.pass(Duration::from_millis(250)), [suspect(), probe()], "awake, silence counts again");
}

#[test]
fn a_tick_that_is_a_little_late_is_no_excuse() {
    let mut world = World::new();
    world.now += Duration::from_millis(1_200);
    world.tell(Event::Tick);
    assert_eq!(world.pass(Duration::from_millis(2_000)), [suspect(), probe()]);
}

#[test]
fn beats_and_answers_of_a_replaced_start_count_for_nothing() {
    let mut world = World::new();
    assert_eq!(world.tell(Event::Registered { broker: id(), incarnation: SECOND }), []);
    assert_eq!(world.pass(Duration::from_secs(3)).len(), 2);
    assert_eq!(world.beat(), []);
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 1 }), []);
    assert_eq!(world.pass(TIMING.tick), [], "a probe is on its way already");
    assert_eq!(world.unanswered(), [], "that one asked for the first start");
    let second = Event::Unanswered { broker: id(), incarnation: SECOND };
    assert_eq!(world.tell(second), [Effect::Down { broker: id(), incarnation: SECOND }]);
}

#[test]
fn registering_anew_clears_the_suspicion() {
    let mut world = World::new();
    assert_eq!(world.pass(Duration::from_secs(3)), [suspect(), probe()]);
    assert_eq!(world.tell(Event::Registered { broker: id(), incarnation: FIRST }), [healthy()]);
    assert_eq!(world.pass(Duration::from_millis(2_750)), []);
}

#[test]
fn a_broker_that_left_is_not_missed() {
    let mut world = World::new();
    assert_eq!(world.tell(Event::Left { broker: id() }), []);
    assert_eq!(world.tell(Event::Broken { broker: id(), stream: 1 }), []);
    assert_eq!(world.pass(Duration::from_secs(20)), []);
}

use goulette_types::{Acks, LeaderEpoch, Offset, ProducerEpoch, ProducerId};

use super::{partition::SEQUENCE_MAX, *};

const TIMEOUT: Duration = Duration::from_secs(120);
const P0: PartitionIndex = PartitionIndex(0);

/// A core with virtual time, and what it wanted so far.
struct Story {
    core: Core,
    now: Instant,
    effects: Vec<Effect>,
    next_batch: u64,
}

fn broker(name: &str) -> BrokerId {
    name.parse().unwrap()
}

fn led_by(name: &str) -> Option<LeaderRef> {
    Some(LeaderRef { broker: broker(name), epoch: LeaderEpoch(1) })
}

fn acked(base: u64) -> Acked {
    Acked { base_offset: Some(Offset(base)), duplicate: false, acks: Acks::All }
}

impl Story {
    #[allow(clippy::disallowed_methods, reason = "the moment from which virtual time counts")]
    fn new(idempotent: bool, leaders: &[&str]) -> Self {
        let backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };
        let options = CoreOptions { idempotent, delivery_timeout: TIMEOUT, backoff, seed: 7 };
        let core = Core::new(options, leaders.iter().map(|name| led_by(name)).collect());
        Self { core, now: Instant::now(), effects: Vec::new(), next_batch: 0 }
    }

    /// Identified, one partition, and connected to its leader, which grants `batches_in_flight`.
    fn connected(batches_in_flight: u32) -> Self {
        let mut story = Story::new(true, &["b1"]);
        story.identified(9, 0);
        story.close(P0);
        assert_eq!(story.take(), [Effect::Connect(broker("b1"))]);
        story.up("b1", batches_in_flight);
        story.ack(0, 0);
        story.take();
        story
    }

    fn step(&mut self, event: Event) -> &mut Self {
        self.core.step(self.now, event, &mut self.effects);
        self
    }

    /// Lets time pass, with a tick at the end of it.
    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.step(Event::Tick)
    }

    /// Closes a batch of ten records.
    fn close(&mut self, partition: PartitionIndex) -> &mut Self {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        self.step(Event::Closed { batch, partition, records: 10, opened: self.now })
    }

    fn up(&mut self, name: &str, batches_in_flight: u32) -> &mut Self {
        self.step(Event::Connected { broker: broker(name), batches_in_flight })
    }

    fn down(&mut self, name: &str) -> &mut Self {
        self.step(Event::Disconnected { broker: broker(name), reason: "cut".to_owned() })
    }

    fn ack(&mut self, request: u64, base: u64) -> &mut Self {
        self.step(Event::Acked { request: RequestId(request), acked: acked(base) })
    }

    fn refuse(&mut self, request: u64, kind: ErrorKind) -> &mut Self {
        self.step(Event::Refused { request: RequestId(request), kind, message: "no".to_owned() })
    }

    fn identified(&mut self, id: u64, epoch: u16) -> &mut Self {
        assert!(matches!(self.step(Event::Tick).take()[..], [.., Effect::Identify(_)]));
        self.step(Event::Identity(Identity { id: ProducerId(id), epoch: ProducerEpoch(epoch) }))
    }

    fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What was sent since the last look: (request, batch, producer epoch, sequence).
    fn sent(&mut self) -> Vec<(u64, u64, u16, u32)> {
        let sent = |effect| match effect {
            Effect::Send(Send { request, batch, sequence: Some((identity, sequence)), .. }) => {
                Some((request.0, batch.0, identity.epoch.0, sequence))
            }
            _ => None,
        };
        self.take().into_iter().filter_map(sent).collect()
    }

    /// What was settled since the last look, by batch.
    fn settled(&mut self) -> Vec<(u64, Result<Option<u64>, ErrorKind>)> {
        let settled = |effect| match effect {
            Effect::Complete(batch, result) => {
                let result = result.map(|acked| acked.base_offset.map(|offset| offset.0));
                Some((batch.0, result.map_err(|error| error.kind())))
            }
            _ => None,
        };
        self.take().into_iter().filter_map(settled).collect()
    }
}

#[test]
fn batches_go_out_in_order_as_many_as_granted() {
    let mut story = Story::connected(2);
    story.close(P0).close(P0).close(P0);
    assert_eq!(story.sent(), [(1, 1, 0, 10), (2, 2, 0, 20)]);
    story.ack(1, 10);
    assert_eq!(
        story.take(),
        [
            Effect::Complete(BatchId(1), Ok(acked(10))),
            Effect::Send(Send {
                request: RequestId(3),
                broker: broker("b1"),
                partition: P0,
                leader_epoch: LeaderEpoch(1),
                batch: BatchId(3),
                sequence: Some((Identity { id: ProducerId(9), epoch: ProducerEpoch(0) }, 30)),
            }),
        ]
    );
    story.ack(2, 20).ack(3, 30);
    assert!(story.core.is_idle());
}

#[test]
fn nothing_is_sent_before_the_producer_has_an_identity() {
    let mut story = Story::new(true, &["b1"]);
    story.close(P0).up("b1", 8);
    assert_eq!(story.sent(), []);
    story.step(Event::IdentityFailed { reason: "no sentinel".to_owned() }).take();
    story.pass(Duration::from_secs(3));
    assert_eq!(story.take(), [Effect::Identify(None)]);
    story.step(Event::Identity(Identity { id: ProducerId(1), epoch: ProducerEpoch(0) }));
    assert_eq!(story.sent(), [(0, 0, 0, 0)]);
}

#[test]
fn after_a_reconnect_all_that_is_unacknowledged_is_sent_again_with_the_same_numbers() {
    let mut story = Story::connected(3);
    story.close(P0).close(P0).close(P0).close(P0);
    assert_eq!(story.sent(), [(1, 1, 0, 10), (2, 2, 0, 20), (3, 3, 0, 30)]);
    story.ack(1, 10).take();
    story.down("b1");
    assert_eq!(story.take(), [Effect::Refresh { unreachable: vec![broker("b1")] }]);
    story.step(Event::Routes(vec![led_by("b1")])).pass(Duration::from_millis(50));
    assert_eq!(story.take(), [Effect::Connect(broker("b1"))]);
    story.up("b1", 3);
    assert_eq!(story.sent(), [(5, 2, 0, 20), (6, 3, 0, 30), (7, 4, 0, 40)]);
    // An answer that belongs to the old stream means nothing any more.
    story.ack(2, 99);
    assert_eq!(story.take(), []);
}

#[test]
fn a_duplicate_counts_as_success() {
    let mut story = Story::connected(1);
    story.close(P0);
    let ack = Acked { base_offset: None, duplicate: true, acks: Acks::All };
    story.step(Event::Acked { request: RequestId(1), acked: ack });
    assert_eq!(story.settled(), [(1, Ok(None))]);
}

#[test]
fn a_refused_batch_and_all_later_ones_are_sent_again_in_order() {
    let mut story = Story::connected(3);
    story.close(P0).close(P0).close(P0).close(P0).take();
    story.refuse(1, ErrorKind::Busy).refuse(2, ErrorKind::OutOfOrder);
    story.pass(Duration::from_secs(3));
    assert_eq!(story.sent(), [], "one request is still unanswered");
    story.refuse(3, ErrorKind::OutOfOrder);
    story.pass(Duration::from_millis(1));
    assert_eq!(story.sent(), [(4, 1, 0, 10), (5, 2, 0, 20), (6, 3, 0, 30)]);
}

#[test]
fn a_retry_waits_longer_each_time_until_something_succeeds() {
    let mut story = Story::connected(1);
    story.close(P0).close(P0).take();
    let mut pauses = Vec::new();
    for request in 1..=4 {
        story.refuse(request, ErrorKind::Busy);
        let from = story.now;
        let sent = (0..100).any(|_| !story.pass(Duration::from_millis(5)).sent().is_empty());
        assert!(sent, "not within 500 ms");
        pauses.push((story.now - from).as_millis());
    }
    assert!((25..=50).contains(&pauses[0]), "{pauses:?}");
    assert!((200..=400).contains(&pauses[3]), "{pauses:?}");
    story.ack(5, 10).take();
    story.refuse(6, ErrorKind::Busy).pass(Duration::from_millis(50));
    assert_eq!(story.sent().len(), 1);
}

#[test]
fn a_batch_goes_to_the_new_leader_once_the_old_one_has_answered() {
    let mut story = Story::connected(2);
    story.close(P0).close(P0).take();
    story.refuse(1, ErrorKind::NotLeader);
    assert_eq!(story.take(), [Effect::Refresh { unreachable: vec![] }]);
    story.step(Event::Routes(vec![led_by("b2")])).pass(Duration::from_secs(1));
    assert_eq!(story.take(), [], "the old leader may still store the second batch");
    story.refuse(2, ErrorKind::NotLeader);
    assert!(story.take().contains(&Effect::Connect(broker("b2"))));
    story.up("b2", 2);
    assert_eq!(story.sent(), [(3, 1, 0, 10), (4, 2, 0, 20)]);
}

#[test]
fn a_new_leader_gets_nothing_while_the_old_one_may_still_store_something() {
    let mut story = Story::connected(4);
    story.close(P0).take();
    story.step(Event::Routes(vec![led_by("b2")])).up("b2", 4).close(P0);
    assert_eq!(story.sent(), []);
    story.ack(1, 10);
    assert_eq!(story.sent(), [(2, 2, 0, 20)]);
}

#[test]
fn an_old_leader_that_stays_silent_is_not_waited_for() {
    let mut story = Story::connected(4);
    story.close(P0).take();
    // A sentinel is asked, once in a while, as long as nothing comes.
    let asked = story.pass(Duration::from_secs(2)).take();
    assert_eq!(asked, [Effect::Refresh { unreachable: vec![] }]);
    story.step(Event::Routes(vec![led_by("b1")])).pass(Duration::from_millis(10));
    assert_eq!(story.sent(), [], "it leads still");
    story.step(Event::Routes(vec![led_by("b2")])).pass(Duration::from_millis(10)).up("b2", 4);
    assert_eq!(story.sent(), [(2, 1, 0, 10)], "under its old number");
    // Too late: what counts is what the new leader says.
    story.ack(1, 10);
    assert_eq!(story.settled(), []);
    story.ack(2, 11);
    assert_eq!(story.settled(), [(1, Ok(Some(11)))]);
}

#[test]
fn a_hopeless_batch_fails_alone_and_the_rest_takes_a_new_epoch() {
    let mut story = Story::connected(3);
    story.close(P0).close(P0).close(P0).take();
    story.refuse(1, ErrorKind::Invalid);
    assert_eq!(story.settled(), [(1, Err(ErrorKind::Invalid))]);
    // The broker never got numbers 10 to 19.
    story.refuse(2, ErrorKind::OutOfOrder).refuse(3, ErrorKind::OutOfOrder);
    story.take();
    story.pass(Duration::from_millis(50));
    let before = Identity { id: ProducerId(9), epoch: ProducerEpoch(0) };
    assert_eq!(story.take(), [Effect::Identify(Some(before))]);
    story.step(Event::Identity(Identity { epoch: ProducerEpoch(1), ..before }));
    assert_eq!(story.sent(), [(4, 2, 1, 0), (5, 3, 1, 10)]);
    story.close(P0);
    assert_eq!(story.sent(), [(6, 4, 1, 20)]);
}

#[test]
fn only_the_partition_with_the_gap_changes_its_epoch() {
    let mut story = Story::new(true, &["b1", "b1"]);
    story.identified(9, 0);
    story.up("b1", 4).close(P0).close(PartitionIndex(1)).take();
    story.refuse(0, ErrorKind::OutOfOrder).pass(Duration::from_millis(50)).take();
    story.step(Event::Identity(Identity { id: ProducerId(9), epoch: ProducerEpoch(1) }));
    assert_eq!(story.sent(), [(2, 0, 1, 0)]);
    story.ack(1, 0).close(PartitionIndex(1));
    assert_eq!(story.sent(), [(3, 2, 0, 10)]);
}

#[test]
fn a_batch_that_was_never_sent_expires_as_not_stored() {
    let mut story = Story::new(true, &["b1"]);
    story.identified(9, 0).close(P0).take();
    story.down("b1").pass(TIMEOUT);
    assert_eq!(story.settled(), [(0, Err(ErrorKind::DeadlineExceeded))]);
    assert!(story.core.is_idle());
}

#[test]
fn a_batch_that_was_refused_each_time_expires_as_not_stored() {
    let mut story = Story::connected(1);
    story.close(P0).take();
    story.refuse(1, ErrorKind::StorageFull).take();
    story.now += TIMEOUT;
    story.step(Event::Tick);
    let [Effect::Complete(_, Err(error)), ..] = &story.take()[..] else { panic!("it is settled") };
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().ends_with("no"), "{error}: says what the broker said");
}

#[test]
fn a_batch_without_an_answer_expires_as_unknown_and_its_stream_is_given_up() {
    let mut story = Story::connected(1);
    story.close(P0).take();
    story.pass(TIMEOUT);
    let effects = story.take();
    assert!(matches!(&effects[0], Effect::Complete(_, Err(SendError::OutcomeUnknown { .. }))), "{effects:?}");
    assert_eq!(effects[1], Effect::Disconnect(broker("b1")));
    story.close(P0).pass(Duration::from_secs(1));
    assert!(story.take().contains(&Effect::Connect(broker("b1"))));
}

/// Two batches were sent on a stream that broke. The first is given up; the second meets a gap.
fn given_up_and_then_a_gap() -> Story {
    let mut story = Story::connected(2);
    story.close(P0).pass(Duration::from_secs(1));
    story.close(P0).down("b1").take();
    story.now += TIMEOUT - Duration::from_secs(1);
    story.step(Event::Tick);
    assert_eq!(story.settled(), [(1, Err(ErrorKind::OutcomeUnknown))]);
    story.close(P0).up("b1", 2);
    assert_eq!(story.sent(), [(3, 2, 0, 20), (4, 3, 0, 30)]);
    story
}

#[test]
fn behind_a_batch_of_unknown_outcome_only_what_was_never_lost_is_numbered_anew() {
    let mut story = given_up_and_then_a_gap();
    story.refuse(3, ErrorKind::OutOfOrder).refuse(4, ErrorKind::OutOfOrder).take();
    story.pass(Duration::from_millis(50)).take();
    story.step(Event::Identity(Identity { id: ProducerId(9), epoch: ProducerEpoch(1) }));
    // Batch 2 was on the broken stream: it may be stored yet, behind batch 1. Batch 3 was not.
    let effects = story.take();
    assert!(matches!(&effects[0], Effect::Complete(BatchId(2), Err(SendError::OutcomeUnknown { .. }))), "{effects:?}");
    assert!(matches!(&effects[1], Effect::Send(Send { batch: BatchId(3), sequence: Some((_, 0)), .. })), "{effects:?}");
}

#[test]
fn behind_a_batch_that_turns_out_stored_all_goes_on() {
    let mut story = given_up_and_then_a_gap();
    story.ack(3, 20).ack(4, 30);
    assert_eq!(story.settled(), [(2, Ok(Some(20))), (3, Ok(Some(30)))]);
}

#[test]
fn an_answer_to_a_batch_that_was_given_up_makes_room() {
    let mut story = Story::connected(1);
    story.close(P0).take();
    story.now += Duration::from_secs(1);
    story.close(P0);
    // The oldest expires; its stream is given up, so its answer never comes, and the next one is sent on a new stream.
    story.now += TIMEOUT - Duration::from_secs(1);
    story.step(Event::Tick).take();
    story.ack(1, 10).pass(Duration::from_millis(60)).up("b1", 1);
    assert_eq!(story.sent(), [(2, 2, 0, 20)]);
}

#[test]
fn without_idempotence_one_batch_is_in_flight() {
    let mut story = Story::new(false, &["b1"]);
    story.close(P0).close(P0).up("b1", 8);
    let sent = |effects: Vec<Effect>| effects.into_iter().filter(|effect| matches!(effect, Effect::Send(_))).count();
    assert_eq!(sent(story.take()), 1);
    story.ack(0, 0);
    assert_eq!(sent(story.take()), 1);
}

#[test]
fn a_partition_without_a_leader_asks_again_and_again_with_growing_pauses() {
    let mut story = Story::new(false, &["b1"]);
    story.step(Event::Routes(vec![None])).close(P0);
    assert!(story.take().contains(&Effect::Refresh { unreachable: vec![] }));
    story.step(Event::Routes(vec![None]));
    let mut asked = 0;
    for _ in 0..500 {
        story.pass(Duration::from_millis(20));
        if story.take().contains(&Effect::Refresh { unreachable: vec![] }) {
            asked += 1;
            story.step(Event::Routes(vec![None]));
        }
    }
    assert!((6..=16).contains(&asked), "{asked} times in 10 s");
    story.step(Event::Routes(vec![led_by("b2")]));
    assert!(story.take().contains(&Effect::Connect(broker("b2"))));
}

#[test]
fn a_broker_that_is_back_in_a_new_epoch_is_looked_up_at_once_however_long_it_was_away() {
    let mut story = Story::connected(1);
    story.close(P0).take();
    for _ in 0..8 {
        story.step(Event::Disconnected { broker: broker("b1"), reason: "it is away".into() });
        story.pass(Duration::from_secs(3)).step(Event::Routes(vec![led_by("b1")])).take();
    }
    story.up("b1", 1);
    let (request, ..) = story.sent()[0];
    story.refuse(request, ErrorKind::NotLeader);
    assert_eq!(story.take(), [Effect::Refresh { unreachable: vec![] }]);
}

#[test]
fn a_sentinel_that_is_away_does_not_keep_a_broker_from_being_tried() {
    let mut story = Story::connected(1);
    story.close(P0).down("b1").take();
    story.step(Event::RoutesFailed { reason: "no sentinel".to_owned() }).pass(Duration::from_millis(50));
    assert!(story.take().contains(&Effect::Connect(broker("b1"))));
    story.up("b1", 1);
    assert_eq!(story.sent(), [(2, 1, 0, 10)]);
}

#[test]
fn routes_that_nobody_asked_for_cost_no_pause() {
    let mut story = Story::connected(5);
    for _ in 0..10 {
        story.step(Event::Routes(vec![led_by("b1")]));
    }
    story.close(P0).take();
    story.down("b1");
    assert!(matches!(story.take()[..], [Effect::Refresh { .. }]));
}

#[test]
fn a_deleted_topic_fails_all_that_waits() {
    let mut story = Story::connected(1);
    story.close(P0).close(P0).take();
    story.step(Event::TopicGone { message: "gone".to_owned() });
    assert_eq!(story.settled(), [(1, Err(ErrorKind::NotFound)), (2, Err(ErrorKind::NotFound))]);
}

#[test]
fn used_up_numbers_make_a_new_epoch() {
    let mut story = Story::connected(4);
    let huge = SEQUENCE_MAX - 25;
    story.step(Event::Closed { batch: BatchId(50), partition: P0, records: huge, opened: story.now });
    story.close(P0).close(P0);
    assert_eq!(story.sent(), [(1, 50, 0, 10), (2, 1, 0, SEQUENCE_MAX - 15)]);
    story.ack(1, 0).ack(2, 0);
    assert!(story.take().iter().any(|effect| matches!(effect, Effect::Identify(Some(_)))));
    story.step(Event::Identity(Identity { id: ProducerId(9), epoch: ProducerEpoch(1) }));
    assert_eq!(story.sent(), [(3, 2, 1, 0)]);
}

#[test]
fn a_full_stream_takes_turns() {
    let leaders = vec!["b1"; LINK_BATCHES_MAX + 2];
    let mut story = Story::new(false, &leaders);
    story.up("b1", 1);
    for index in 0..leaders.len() {
        story.close(PartitionIndex(index as u32));
    }
    let sends = |story: &mut Story| story.take().into_iter().filter(|effect| matches!(effect, Effect::Send(_))).count();
    assert_eq!(sends(&mut story), LINK_BATCHES_MAX);
    story.ack(0, 0).ack(1, 0).ack(2, 0);
    assert_eq!(sends(&mut story), 2);
}

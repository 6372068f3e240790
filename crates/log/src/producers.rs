//! What a partition remembers of its idempotent producers, so that a retry is stored once.

use std::collections::{HashMap, VecDeque};

use goulette_records::Producer;
use goulette_types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// Batches remembered per producer and partition, and so the most that a broker may grant in flight.
pub const REMEMBERED_BATCHES: usize = 32;

/// Sequence numbers go from 0 to `i32::MAX` and then to 0 again; half of that tells before from after.
const SEQUENCE_HALF: u32 = 1 << 30;

/// One batch of a producer, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredBatch {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) base_sequence: u32,
    pub(crate) last_sequence: u32,
    pub(crate) base_offset: Offset,
}

impl StoredBatch {
    fn new(producer: &Producer, base_offset: Offset) -> Self {
        Self {
            epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            last_sequence: producer.last_sequence,
            base_offset,
        }
    }

    fn next_sequence(&self) -> u32 {
        self.last_sequence.wrapping_add(1) & i32::MAX as u32
    }
}

/// One producer's last batches, oldest first and never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerState {
    pub(crate) id: ProducerId,
    /// When it last appended, by the broker's wall clock.
    pub(crate) last_used: Timestamp,
    pub(crate) batches: VecDeque<StoredBatch>,
}

/// What is to be done with a producer's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Store it.
    New,
    /// It was appended before, at `base_offset` unless that is forgotten. The retry may be answered once `durable_with`,
    /// an offset of the original or a later one, is durable.
    Duplicate { base_offset: Option<Offset>, durable_with: Offset },
    /// It starts behind `expected`: something in between is missing.
    Gap { expected: u32 },
    /// It starts before `expected` and ends behind it: no client cuts its batches anew.
    Overlap { expected: u32 },
    /// A later life of the producer has written.
    Fenced { current: ProducerEpoch },
}

/// The producers of one partition.
///
/// Batches enter when they are appended, before they are durable, so that the next batch in flight finds its
/// predecessor. They are forgotten only after more than [`REMEMBERED_BATCHES`] of the producer are durable behind them: so
/// the state of any earlier durable end, which is what a checkpoint wants, can be read off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producers(HashMap<ProducerId, ProducerState>);

impl Producers {
    /// Judges a batch by its sequence numbers.
    pub(crate) fn check(&self, producer: &Producer) -> Verdict {
        let Some(last) = self.0.get(&producer.id).and_then(|state| state.batches.back()) else {
            return if producer.base_sequence == 0 { Verdict::New } else { Verdict::Gap { expected: 0 } };
        };
        if producer.epoch < last.epoch {
            return Verdict::Fenced { current: last.epoch };
        }
        if producer.epoch > last.epoch {
            return if producer.base_sequence == 0 { Verdict::New } else { Verdict::Gap { expected: 0 } };
        }
        let expected = last.next_sequence();
        if producer.base_sequence == expected {
            Verdict::New
        } else if !is_before(last.last_sequence, producer.last_sequence) {
            self.duplicate(producer, last)
        } else if is_before(producer.base_sequence, expected) {
            Verdict::Overlap { expected }
        } else {
            Verdict::Gap { expected }
        }
    }

    fn duplicate(&self, producer: &Producer, last: &StoredBatch) -> Verdict {
        let original = self.0[&producer.id].batches.iter().rev().find(|stored| {
            (stored.epoch, stored.base_sequence, stored.last_sequence)
                == (producer.epoch, producer.base_sequence, producer.last_sequence)
        });
        Verdict::Duplicate {
            base_offset: original.map(|stored| stored.base_offset),
            durable_with: original.unwrap_or(last).base_offset,
        }
    }

    /// Remembers a batch that was appended (or is replayed, whatever [`check`](Self::check) says to it).
    pub(crate) fn store(&mut self, producer: &Producer, base_offset: Offset, now: Timestamp) {
        let state = self.0.entry(producer.id).or_insert_with(|| ProducerState {
            id: producer.id,
            last_used: now,
            batches: VecDeque::new(),
        });
        state.last_used = state.last_used.max(now);
        state.batches.push_back(StoredBatch::new(producer, base_offset));
    }

    /// Forgets what need not be remembered of a producer now that all below `end` is durable.
    pub(crate) fn settle(&mut self, id: ProducerId, end: Offset) {
        let Some(state) = self.0.get_mut(&id) else { return };
        let durable = state.batches.partition_point(|stored| stored.base_offset < end);
        let Some(newest) = durable.checked_sub(1) else { return };
        let epoch = state.batches[newest].epoch;
        let same_life = state.batches.iter().take(durable).rev().take_while(|stored| stored.epoch == epoch).count();
        state.batches.drain(..durable - same_life.min(REMEMBERED_BATCHES));
    }

    /// Forgets producers that have not appended since `before`, unless something of theirs is not durable yet.
    pub(crate) fn expire(&mut self, before: Timestamp, end: Offset) {
        self.0.retain(|_, state| {
            state.last_used >= before || state.batches.back().is_some_and(|stored| stored.base_offset >= end)
        });
    }

    /// The state as it was when the log ended at `end`, sorted by producer.
    pub(crate) fn before(&self, end: Offset) -> Vec<ProducerState> {
        let mut states: Vec<_> = self.0.values().filter_map(|state| state_before(state, end)).collect();
        states.sort_unstable_by_key(|state| state.id);
        states
    }

    /// The inverse of [`before`](Self::before).
    pub(crate) fn from_states(states: Vec<ProducerState>) -> Self {
        Self(states.into_iter().filter(|state| !state.batches.is_empty()).map(|state| (state.id, state)).collect())
    }

    /// The highest producer id that has written here.
    pub(crate) fn highest_id(&self) -> Option<ProducerId> {
        self.0.keys().max().copied()
    }
}

fn state_before(state: &ProducerState, end: Offset) -> Option<ProducerState> {
    let count = state.batches.partition_point(|stored| stored.base_offset < end);
    let epoch = state.batches.get(count.checked_sub(1)?)?.epoch;
    let mut batches: VecDeque<_> =
        state.batches.iter().take(count).filter(|stored| stored.epoch == epoch).copied().collect();
    batches.drain(..batches.len().saturating_sub(REMEMBERED_BATCHES));
    Some(ProducerState { id: state.id, last_used: state.last_used, batches })
}

/// Whether `a` comes before `b` on the circle of sequence numbers.
fn is_before(a: u32, b: u32) -> bool {
    let ahead = b.wrapping_sub(a) & i32::MAX as u32;
    ahead != 0 && ahead < SEQUENCE_HALF
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn producer(epoch: u16, base_sequence: u32, last_sequence: u32) -> Producer {
        Producer { id: ProducerId(7), epoch: ProducerEpoch(epoch), base_sequence, last_sequence }
    }

    fn after(batches: &[(u16, u32, u32)]) -> Producers {
        let mut producers = Producers::default();
        for (offset, &(epoch, base, last)) in batches.iter().enumerate() {
            let producer = producer(epoch, base, last);
            assert_eq!(producers.check(&producer), Verdict::New, "batch {offset}");
            producers.store(&producer, Offset(offset as u64), NOW);
        }
        producers
    }

    #[test]
    fn an_unknown_producer_begins_at_zero() {
        assert_eq!(after(&[]).check(&producer(0, 0, 4)), Verdict::New);
        assert_eq!(after(&[]).check(&producer(0, 5, 6)), Verdict::Gap { expected: 0 });
    }

    #[test]
    fn a_retry_is_a_duplicate_with_its_first_offset() {
        let producers = after(&[(0, 0, 4), (0, 5, 5), (0, 6, 9)]);
        let again = |base, last| producers.check(&producer(0, base, last));
        assert_eq!(again(5, 5), Verdict::Duplicate { base_offset: Some(Offset(1)), durable_with: Offset(1) });
        assert_eq!(again(0, 5), Verdict::Duplicate { base_offset: None, durable_with: Offset(2) });
        assert_eq!(again(10, 10), Verdict::New);
        assert_eq!(again(11, 11), Verdict::Gap { expected: 10 });
        assert_eq!(again(9, 10), Verdict::Overlap { expected: 10 });
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let producers = after(&[(0, 0, 4), (3, 0, 0)]);
        assert_eq!(producers.check(&producer(0, 5, 5)), Verdict::Fenced { current: ProducerEpoch(3) });
        assert_eq!(producers.check(&producer(4, 1, 1)), Verdict::Gap { expected: 0 });
        assert_eq!(producers.check(&producer(4, 0, 1)), Verdict::New);
    }

    #[test]
    fn zero_follows_the_largest_sequence_number() {
        let largest = i32::MAX as u32;
        let mut producers = Producers::default();
        producers.store(&producer(0, largest - 1, largest), Offset(0), NOW);
        assert_eq!(producers.check(&producer(0, 0, 3)), Verdict::New);
        assert_eq!(producers.check(&producer(0, 1, 3)), Verdict::Gap { expected: 0 });
        producers.store(&producer(0, 0, 3), Offset(2), NOW);
        assert_eq!(
            producers.check(&producer(0, largest - 1, largest)),
            Verdict::Duplicate { base_offset: Some(Offset(0)), durable_with: Offset(0) }
        );
    }

    #[test]
    fn nothing_is_forgotten_before_later_batches_are_durable() {
        let batches: Vec<_> = (0..100).map(|n| (0, n, n)).collect();
        let mut producers = after(&batches);
        producers.settle(ProducerId(7), Offset(40));
        let durable = producers.before(Offset(40));
        assert_eq!(durable[0].batches.len(), REMEMBERED_BATCHES);
        assert_eq!(durable[0].batches.back().map(|stored| stored.last_sequence), Some(39));
        assert_eq!(
            producers.check(&producer(0, 7, 7)),
            Verdict::Duplicate { base_offset: None, durable_with: Offset(99) }
        );
        assert!(matches!(producers.check(&producer(0, 8, 8)), Verdict::Duplicate { base_offset: Some(Offset(8)), .. }));
    }

    #[test]
    fn the_old_life_counts_until_the_new_one_is_durable() {
        let mut producers = after(&[(0, 0, 0), (0, 1, 1), (1, 0, 0)]);
        producers.settle(ProducerId(7), Offset(2));
        assert_eq!(producers.before(Offset(2))[0].batches.len(), 2);
        assert_eq!(producers.before(Offset(3))[0].batches.len(), 1);
        assert!(producers.before(Offset(0)).is_empty());
        producers.settle(ProducerId(7), Offset(3));
        assert!(producers.before(Offset(2)).is_empty());
    }

    #[test]
    fn a_state_read_off_and_restored_judges_alike() {
        let producers = after(&[(2, 0, 3), (2, 4, 4)]);
        let restored = Producers::from_states(producers.before(Offset(2)));
        for (base, last) in [(0, 3), (4, 4), (5, 5), (6, 7), (4, 5)] {
            assert_eq!(restored.check(&producer(2, base, last)), producers.check(&producer(2, base, last)));
        }
    }

    #[test]
    fn idle_producers_expire_unless_they_have_something_in_flight() {
        let mut producers = after(&[(0, 0, 0)]);
        producers.expire(Timestamp(1_001), Offset(0));
        assert_eq!(producers.highest_id(), Some(ProducerId(7)));
        producers.expire(Timestamp(1_001), Offset(1));
        assert_eq!(producers.highest_id(), None);
    }
}

//! Whether a history of one key is linearizable: Wing and Gong's search with Lowe's memory of what was tried
//! ("Testing for linearizability", 2017), as porcupine does it.

use std::collections::HashSet;

/// What a key holds.
pub(crate) type Value = Option<u64>;

/// One operation on one key. Times are nanoseconds of one clock; `returned` is `u64::MAX` if the outcome is unknown: then
/// the operation may take effect at any time from its call on, or never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) called: u64,
    pub(crate) returned: u64,
    pub(crate) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Get {
        found: Value,
    },
    Put {
        value: u64,
    },
    Delete {
        existed: Option<bool>,
    },
    /// Writes `new` if the key holds `expected`; whether it did, if that is known.
    Swap {
        expected: Value,
        new: u64,
        swapped: Option<bool>,
    },
}

impl Action {
    /// The value afterwards, if the operation can have had this outcome on this value.
    fn apply(self, value: Value) -> Option<Value> {
        match self {
            Action::Get { found } => (found == value).then_some(value),
            Action::Put { value } => Some(Some(value)),
            Action::Delete { existed } => existed.is_none_or(|existed| existed == value.is_some()).then_some(None),
            Action::Swap { expected, new, swapped } => {
                let swaps = expected == value;
                let after = if swaps { Some(new) } else { value };
                swapped.is_none_or(|swapped| swapped == swaps).then_some(after)
            }
        }
    }
}

/// Whether there is an order of the operations, each between its call and its return, that explains every outcome of a
/// key that begins absent.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations = history.to_vec();
    operations.sort_by_key(|operation| operation.called);
    let mut search = Search {
        done: vec![0; operations.len().div_ceil(64)],
        certain_left: operations.iter().filter(|operation| operation.returned != u64::MAX).count(),
        tried: HashSet::new(),
        operations,
    };
    search.run()
}

struct Search {
    /// In the order of their calls.
    operations: Vec<Operation>,
    /// One bit for each operation that has its place already.
    done: Vec<u64>,
    /// Operations with a known outcome that have no place yet.
    certain_left: usize,
    tried: HashSet<(Vec<u64>, Value)>,
}

/// A choice that can be taken back.
struct Choice {
    operation: usize,
    before: Value,
    /// Where the search among the others goes on.
    next: usize,
}

impl Search {
    /// Depth first, without recursion: histories are long.
    fn run(&mut self) -> bool {
        let (mut value, mut choices, mut from) = (None, Vec::<Choice>::new(), 0);
        loop {
            if self.certain_left == 0 {
                return true;
            }
            match self.candidate(from, value) {
                Some((choice, after)) => {
                    let operation = choice % self.operations.len();
                    self.mark(operation, true);
                    if self.tried.insert((self.done.clone(), after)) {
                        choices.push(Choice { operation, before: value, next: choice + 1 });
                        (value, from) = (after, 0);
                    } else {
                        self.mark(operation, false);
                        from = choice + 1;
                    }
                }
                None => {
                    let Some(choice) = choices.pop() else { return false };
                    self.mark(choice.operation, false);
                    (value, from) = (choice.before, choice.next);
                }
            }
        }
    }

    /// The next choice from `from` on of an operation that may come first among those without a place, and the value
    /// afterwards. The choices are first the operations with a known outcome, then those without: what may never have
    /// happened is tried where nothing else explains what comes, or some dozens of them would be tried in every order.
    fn candidate(&self, from: usize, value: Value) -> Option<(usize, Value)> {
        let count = self.operations.len();
        let mut unknown = None;
        // None may come first that was called after another one had returned.
        let mut earliest_return = u64::MAX;
        for (index, operation) in self.operations.iter().enumerate() {
            if self.is_done(index) {
                continue;
            }
            if operation.called > earliest_return {
                break;
            }
            earliest_return = earliest_return.min(operation.returned);
            let is_known = operation.returned != u64::MAX;
            let choice = if is_known { index } else { count + index };
            if choice < from || !is_known && unknown.is_some() {
                continue;
            }
            match operation.action.apply(value) {
                Some(after) if is_known => return Some((choice, after)),
                Some(after) => unknown = Some((choice, after)),
                None => {}
            }
        }
        unknown
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & (1 << (index % 64)) != 0
    }

    fn mark(&mut self, index: usize, done: bool) {
        if self.operations[index].returned != u64::MAX {
            self.certain_left = if done { self.certain_left - 1 } else { self.certain_left + 1 };
        }
        let bit = 1 << (index % 64);
        if done { self.done[index / 64] |= bit } else { self.done[index / 64] &= !bit }
    }
}

/// Shows, before anything is believed, that right histories pass and wrong ones do not.
pub(crate) fn check_the_checker() {
    const NEVER: u64 = u64::MAX;
    let op = |called, returned, action| Operation { called, returned, action };
    let put = |value| Action::Put { value };
    let get = |found| Action::Get { found };
    let swap = |expected, new, swapped| Action::Swap { expected, new, swapped };
    let right = [
        vec![op(0, 1, put(1)), op(2, 3, get(Some(1)))],
        // Overlapping: either order.
        vec![op(0, 9, put(1)), op(1, 8, put(2)), op(10, 11, get(Some(1)))],
        vec![op(0, 9, put(1)), op(1, 2, get(None)), op(3, 4, get(Some(1)))],
        // Unknown: late, or never.
        vec![op(0, NEVER, put(1)), op(5, 6, get(None)), op(7, 8, get(Some(1)))],
        vec![op(0, NEVER, put(1)), op(5, 6, get(None))],
        vec![op(0, 1, put(1)), op(2, 9, swap(Some(1), 2, Some(true))), op(3, 8, swap(Some(1), 3, Some(false)))],
        vec![op(0, 1, put(1)), op(2, 3, Action::Delete { existed: Some(true) }), op(4, 5, get(None))],
    ];
    let wrong = [
        // A lost write, a stale read, a read that goes back.
        vec![op(0, 1, put(1)), op(2, 3, get(None))],
        vec![op(0, 1, put(1)), op(2, 3, put(2)), op(4, 5, get(Some(1)))],
        vec![op(0, 9, put(1)), op(1, 2, get(Some(1))), op(3, 4, get(None))],
        vec![op(0, NEVER, put(1)), op(5, 6, get(Some(1))), op(7, 8, get(None))],
        // A value that nobody wrote, or that was written later.
        vec![op(0, 1, get(Some(7)))],
        vec![op(0, 1, get(Some(1))), op(2, 3, put(1))],
        // Both swap from the same value.
        vec![op(0, 1, put(1)), op(2, 9, swap(Some(1), 2, Some(true))), op(3, 8, swap(Some(1), 3, Some(true)))],
        vec![op(0, 1, put(1)), op(2, 3, Action::Delete { existed: Some(false) })],
    ];
    // Two dozen writes of unknown outcome that never happened, and a history that none of them explains.
    let lost = |last| {
        let unknown = (0..24).map(|number| op(number, NEVER, put(100 + number)));
        let known =
            (0..100).flat_map(|n| [op(100 + 4 * n, 101 + 4 * n, put(n)), op(102 + 4 * n, 103 + 4 * n, get(Some(n)))]);
        unknown.chain(known).chain([op(1000, 1001, get(Some(last)))]).collect::<Vec<_>>()
    };
    assert!(
        is_linearizable(&lost(99)) && is_linearizable(&lost(105)),
        "the checker refuses writes that came late or never"
    );
    right.iter().for_each(|history| assert!(is_linearizable(history), "the checker refuses {history:?}"));
    wrong.iter().for_each(|history| assert!(!is_linearizable(history), "the checker accepts {history:?}"));
}

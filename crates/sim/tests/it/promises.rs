//! Every run keeps what the cluster promised.

use goulette_sim::{Stats, run};

/// Seeds in the default suite.
const SEEDS: u64 = 500;

#[test]
fn no_promise_is_broken() {
    let mut total = Stats::default();
    for (index, seed) in (1..=SEEDS).enumerate() {
        let outcome = run(seed);
        if let Some(what) = outcome.violation {
            panic!("seed {seed} (number {}): {what}\nreplay it: make sim SEED={seed}", index + 1);
        }
        total.add(&outcome.stats);
    }
    println!("{SEEDS} seeds: {total:?}");
    // A dead cluster keeps every promise: something must have happened.
    assert!(total.acked > SEEDS * 50, "{total:?}");
    assert!(total.consumed > total.acked / 2 && total.fresh_reads > SEEDS, "{total:?}");
    assert!(total.elections > SEEDS && total.faults > SEEDS * 5, "{total:?}");
    assert!(total.wiped > 10 && total.restored > 10, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 42] {
        let (one, other) = (run(seed), run(seed));
        assert_eq!((one.trace, one.stats), (other.trace, other.stats), "seed {seed}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}

/// Runs that once broke a promise.
#[test]
fn seeds_that_once_found_something_stay_found() {
    for seed in [4, 13, 62, 88, 631, 1781, 2478, 3784, 4268, 6473, 7290, 31_654] {
        assert_eq!(run(seed).violation, None, "seed {seed}");
    }
}

//! `goulette-sim SEED`: one run, told in a line. `goulette-sim FIRST COUNT`: many, with a summary; exits 1 at the first
//! promise that is broken, naming its seed. `goulette-sim SEED trace`: every event.

use std::process::ExitCode;

use goulette_sim::{Plan, Stats, run, run_plan};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| args.get(index).and_then(|arg| arg.parse::<u64>().ok());
    match (number(0), number(1), args.get(1).map(String::as_str)) {
        (Some(seed), None, None) => one(seed, false),
        (Some(seed), None, Some("trace")) => one(seed, true),
        (Some(first), Some(count), _) => many(first, count),
        _ => {
            eprintln!("usage: goulette-sim SEED | SEED trace | FIRST COUNT");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64, verbose: bool) -> ExitCode {
    let outcome = run_plan(seed, Plan::of(seed), verbose);
    println!("{:?}", Plan::of(seed));
    println!("seed {seed}: trace {:016x}, {:?}", outcome.trace, outcome.stats);
    match outcome.violation {
        Some(what) => {
            println!("seed {seed}: BROKEN: {what}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(first: u64, count: u64) -> ExitCode {
    let mut total = Stats::default();
    for seed in first..first + count {
        let outcome = run(seed);
        total.add(&outcome.stats);
        if let Some(what) = outcome.violation {
            println!("seed {seed} (number {}): BROKEN: {what}", seed - first + 1);
            return ExitCode::FAILURE;
        }
    }
    let hours = total.simulated_ms as f64 / 3.6e6;
    println!("{count} seeds from {first}: no promise broken in {hours:.1} simulated hours; {total:?}");
    ExitCode::SUCCESS
}

//! What operators do to a cluster under load: it grows and shrinks, moves partitions, and is restarted process by process.
//!
//! Each topic has a producer with `acks=all` and a consumer that reads along. Nobody of them may hear of an error, and at
//! the end every record is read back once and in order. `make test-operations`; `SCENARIO` names only one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the outside uses the outside")]

#[path = "../chaos/load.rs"]
mod load;
mod loads;
mod moves;
mod restarts;
mod rig;
mod unclean;

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let only = std::env::var("SCENARIO").ok().filter(|only| !only.is_empty());
    let binary: PathBuf =
        std::env::var_os("GOULETTE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_goulette").into(), Into::into);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    if is_wanted("moves") {
        println!("moves: one broker, three, and back");
        runtime.block_on(moves::one_to_three_and_back(&binary));
    }
    if is_wanted("unclean") {
        println!("unclean: an election by an operator's order");
        runtime.block_on(unclean::an_unclean_election(&binary));
    }
    if is_wanted("restarts") {
        println!("restarts: every process, one after the other");
        runtime.block_on(restarts::every_process_restarts(&binary));
    }
    println!("passed");
    ExitCode::SUCCESS
}

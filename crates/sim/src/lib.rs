//! A whole cluster on one thread, from one seed: brokers, sentinels, a metadata store, clients, and everything that can
//! go wrong between them.
//!
//! What decides is the code that runs in earnest: `goulette-replication`'s replica and controller. What is simulated is
//! what those shells talk to: a log that keeps written and synced apart, a network, a store with unknown outcomes, clocks.
//! After each step the `oracle` compares the cluster with what it promised (I1 to I8 of `docs/proof.md`); when the faults
//! end, everything must come right within a minute. Nothing reads a clock, a file or a random source: one seed, one run.
//!
//! Start with [`run`]; then `world` (the event loop), `broker` and `sentinel` (the shells), `faults`.

mod broker;
mod client;
mod disk;
mod faults;
mod network;
mod oracle;
mod plan;
mod random;
mod sentinel;
mod store;
mod time;
mod trace;
mod world;

pub use plan::Plan;
pub use world::{Outcome, Stats, run, run_plan};

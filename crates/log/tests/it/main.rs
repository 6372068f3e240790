//! The storage engine from outside: on the machine's own disk with its threads on, and on the simulated disk, stopped at
//! every operation.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod model;
mod support;
mod sweep;

mod append;
mod crash;
mod damage;
mod direct;
mod foreign;
mod full;
mod golden;
mod inspect;
mod loss;
mod real_disk;
mod replica;
mod retention;
mod truncate;

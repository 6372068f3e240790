//! A sentinel from outside: over real sockets, with brokers made from the generated code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod broker;
mod discovery;
mod faults;
mod harness;
mod metadata;
mod restart;
mod several;
mod topics;

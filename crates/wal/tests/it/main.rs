//! The log from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod real;
mod world;

//! The log from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

mod behaviour;
mod crash;
mod damage;
mod golden;
mod real;
mod space;
mod world;

//! The broker over real sockets and a real log, with a sentinel that is a script.
//!
//! Nothing here sleeps and hopes: a test waits for an event, with a deadline, or holds the disk still with a
//! [`disk::GatedDisk`] while it looks.

#![allow(clippy::disallowed_methods, reason = "a test damages files")]
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod disk;
mod fetch;
mod harness;
mod life;
mod produce;
mod replication;
mod sentinel;
mod unary;

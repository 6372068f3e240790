//! The client against servers that fail on purpose: real sockets, generated services, faults on command.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod consuming;
mod fake;
mod producing;

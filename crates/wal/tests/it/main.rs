//! The log from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

mod real;

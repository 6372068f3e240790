//! The crate's tests from outside, in one binary.
#![allow(clippy::unwrap_used, reason = "clippy sees the helpers of an integration test as no test code")]

mod bad_input;
mod golden;
mod round_trip;

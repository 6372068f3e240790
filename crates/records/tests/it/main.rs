//! The crate's tests from outside, in one binary.

mod bad_input;
mod golden;
mod round_trip;

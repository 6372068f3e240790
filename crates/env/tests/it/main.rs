//! The world's promises, kept by every implementation.

#![allow(clippy::unwrap_used, reason = "tests")]

mod conformance;
mod crash;

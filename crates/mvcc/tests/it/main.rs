//! The store from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod crash;
mod model;
mod properties;
mod store;

//! The server and its parts from outside.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]
#![allow(clippy::disallowed_methods, reason = "a test of the outside uses the outside")]

mod raft;
mod server;

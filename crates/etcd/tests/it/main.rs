//! The server and its parts from outside.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod raft;

//! Black-box tests: the real binary, real files, real sockets, real signals.
//!
//! Each test starts its own sentinel and broker on loopback with data in a folder of its own, and stops only what it
//! started. `GOULETTE_BIN` names another binary to judge (the optimised one, say), `GOULETTE_TEST_LINES` the number of
//! lines that the long round trips send.
#![allow(clippy::disallowed_methods, reason = "a test of the outside uses the outside")]

mod admin_port;
mod bad_input;
mod bad_wire;
mod cluster;
mod commands;
mod crashes;
mod groups;
mod lines;
mod offline;
mod replication;
mod round_trip;
mod signals;

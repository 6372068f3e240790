//! Consensus without a server: members in one process that agree over loopback.

mod cluster;
mod members;
mod recorder;
mod writes;

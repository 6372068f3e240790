//! Replication as pure decisions: who leads a partition, what is committed, what a replica cuts off.
//!
//! Events and `now` go in, effects come out; there is no I/O, no async and no clock here, and nothing about wire or disk.
//! The shells are the broker (one [`Replica`] a partition that it holds) and the leader sentinel (the functions of
//! [`controller`]); `goulette-sim` drives the same code through every kind of fault. `now` is a monotonic time since any
//! fixed moment, as `env::Clock` gives it.
//!
//! The protocol, its invariants and why they hold: `docs/protocols/replication.md`. Start with [`PartitionState`], then
//! [`Replica`].

pub mod controller;
mod epochs;
mod follower;
mod leader;
mod log_view;
mod message;
mod replica;
mod state;
mod waiters;

pub use epochs::{EpochStart, Epochs};
pub use leader::{FreshRead, Leader, ProduceRefusal};
pub use log_view::LogView;
pub use message::{BatchFacts, Cut, FromFollower, FromLeader, Refused, Stream, ToFollower, ToLeader};
pub use replica::{Effect, FollowError, Replica, ReplicaOptions, Report, Role, StopReason};
pub use state::{Doubt, LeaderId, LogEnd, Member, Move, PartitionState};
pub use waiters::{Outcome, Waiters};

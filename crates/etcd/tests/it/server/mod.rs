//! Whole members in one process, asked over gRPC as any client asks them.

mod cluster;
mod keeping;
mod member;
mod old_clients;
mod recipes;
mod refusals;

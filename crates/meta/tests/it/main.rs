//! What every store of metadata must do, checked against each of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod contract;
mod etcd;
mod local;

//! The admin port: a small HTTP server by which other programs watch a process.
//!
//! `/metrics` is for Prometheus, `/livez` and `/readyz` are for whoever starts and stops processes. It knows nothing of
//! brokers and sentinels: each is a [`Subject`] that says whether it is ready and keeps a registry of metrics. It
//! refuses to change anything in the process; that is what the gRPC calls are for.
//!
//! Start with [`AdminPort`] (`server`); `answer` is one request, `facts` is for metrics that are looked up when they are
//! asked for.

mod answer;
mod error;
mod facts;
mod server;

pub use error::BindError;
pub use facts::Facts;
pub use server::{AdminPort, AdminServer};

/// The exposition format's library, so that the metrics of all processes are of one version of it.
pub use prometheus_client;
use prometheus_client::registry::Registry;

/// A process that is watched. Asked from several threads, at any moment of its life.
pub trait Subject: Send + Sync + 'static {
    /// Whether it does its work.
    ///
    /// # Errors
    /// Why it does not, as one line.
    fn ready(&self) -> Result<(), String>;

    /// Its metrics; none as long as there are none. They may be looked up on the disk: they are asked for on a thread
    /// that may wait.
    fn registry(&self) -> Option<&Registry>;
}

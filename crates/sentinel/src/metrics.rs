//! What a sentinel counts: the calls that it has answered.
//!
//! What can be looked up is not counted here: see `watched`.

use goulette_admin_http::prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use goulette_proto::status::kind_of;
use tonic::{Code, Status, codegen::http::HeaderMap};

type Labels = [(&'static str, String); 2];

/// The counters; all who count share them.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    requests: Family<Labels, Counter>,
}

impl Metrics {
    /// Has the counters shown in a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Calls answered, by method and outcome; of a stream, its beginning",
            self.requests.clone(),
        );
    }

    /// Counts a call: its path is `/<service>/<method>`, and the head of the answer tells how it went.
    pub(crate) fn observe_request(&self, path: &str, head: &HeaderMap) {
        let status = Status::from_header_map(head).unwrap_or_else(|| Status::new(Code::Ok, ""));
        let method = match status.code() {
            // Whatever anybody asks for: it must not make a label of its own.
            Code::Unimplemented => "unknown",
            _ => path.rsplit('/').next().unwrap_or_default(),
        };
        let outcome = match status.code() {
            Code::Ok => "ok",
            _ => kind_of(&status).name(),
        };
        self.requests.get_or_create(&[("method", method.to_owned()), ("outcome", outcome.to_owned())]).inc();
    }
}

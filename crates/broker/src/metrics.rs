//! What a broker counts while it works, per batch or per frame, never per record and never per partition.
//!
//! What can be looked up is not counted here: see `watched`.

use std::{sync::Arc, time::Duration};

use goulette_admin_http::prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use goulette_types::ErrorKind;

/// Upper bounds of the histogram of appends: from a fast disk's sync to what a client takes for a failure.
const APPEND_SECONDS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.25, 1.0, 5.0, 30.0];

type ByKind = [(&'static str, &'static str); 1];

/// The counters; all who count share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    shared: Arc<Counters>,
}

struct Counters {
    appended_batches: Counter,
    appended_bytes: Counter,
    appended_records: Counter,
    duplicate_batches: Counter,
    append_seconds: Histogram,
    refused_appends: Family<ByKind, Counter>,
    fetched_batches: Counter,
    fetched_bytes: Counter,
    produce_streams: Gauge,
    fetch_streams: Gauge,
}

/// A stream, counted as open until this is dropped.
pub(crate) struct OpenStream(Gauge);

impl Metrics {
    pub(crate) fn new() -> Self {
        let refused_appends: Family<ByKind, Counter> = Family::default();
        // From 0 on: a rate needs to have seen the value before the first refusal.
        for kind in ErrorKind::ALL {
            drop(refused_appends.get_or_create(&by_kind(kind)));
        }
        let shared = Counters {
            appended_batches: Counter::default(),
            appended_bytes: Counter::default(),
            appended_records: Counter::default(),
            duplicate_batches: Counter::default(),
            append_seconds: Histogram::new(APPEND_SECONDS),
            refused_appends,
            fetched_batches: Counter::default(),
            fetched_bytes: Counter::default(),
            produce_streams: Gauge::default(),
            fetch_streams: Gauge::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has the counters shown in a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let counters = &*self.shared;
        let counted = [
            ("appended_batches", "Batches stored", &counters.appended_batches),
            ("appended_bytes", "Bytes of the batches stored, as they were sent", &counters.appended_bytes),
            ("appended_records", "Records in the batches stored", &counters.appended_records),
            (
                "duplicate_batches",
                "Batches that were stored before, sent again and not stored twice",
                &counters.duplicate_batches,
            ),
            ("fetched_batches", "Batches pushed on fetch streams", &counters.fetched_batches),
            ("fetched_bytes", "Bytes of the batches pushed on fetch streams", &counters.fetched_bytes),
        ];
        for (name, help, counter) in counted {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "append_seconds",
            "From the arrival of a batch until it was stored",
            counters.append_seconds.clone(),
        );
        registry.register(
            "refused_appends",
            "Batches of produce streams and Publish calls that were refused, by the kind of the refusal",
            counters.refused_appends.clone(),
        );
        registry.register("produce_streams", "Produce streams that are open", counters.produce_streams.clone());
        registry.register("fetch_streams", "Fetch streams that are open", counters.fetch_streams.clone());
    }

    pub(crate) fn observe_append(&self, bytes: usize, records: u32, elapsed: Duration) {
        let counters = &*self.shared;
        counters.appended_batches.inc();
        counters.appended_bytes.inc_by(bytes as u64);
        counters.appended_records.inc_by(records.into());
        counters.append_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn observe_duplicate(&self) {
        self.shared.duplicate_batches.inc();
    }

    pub(crate) fn observe_refusal(&self, kind: ErrorKind) {
        self.shared.refused_appends.get_or_create(&by_kind(kind)).inc();
    }

    pub(crate) fn observe_fetch(&self, batches: usize, bytes: usize) {
        self.shared.fetched_batches.inc_by(batches as u64);
        self.shared.fetched_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn open_produce(&self) -> OpenStream {
        OpenStream::new(&self.shared.produce_streams)
    }

    pub(crate) fn open_fetch(&self) -> OpenStream {
        OpenStream::new(&self.shared.fetch_streams)
    }
}

fn by_kind(kind: ErrorKind) -> ByKind {
    [("kind", kind.name())]
}

impl OpenStream {
    fn new(open: &Gauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

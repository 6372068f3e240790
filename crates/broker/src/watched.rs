//! The broker as its admin port shows it.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use goulette_admin_http::{
    AdminPort, AdminServer, BindError, Facts, Subject,
    prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::info::Info, registry::Registry},
};

use crate::{BrokerOptions, lifecycle::Phase, node::Node};

/// A broker that is watched from before its data is recovered. It does not keep the node alive.
#[derive(Default)]
pub(crate) struct Watched {
    opened: OnceLock<Opened>,
}

struct Opened {
    node: Weak<Node>,
    registry: Registry,
}

impl Watched {
    /// Opens the admin port, if the options want one, and answers there that the broker is starting.
    pub(crate) async fn open(options: &BrokerOptions) -> Result<(Arc<Self>, Option<AdminServer>), BindError> {
        let watched = Arc::new(Self::default());
        let server = match options.admin {
            Some(address) => Some(AdminPort::open(address).await?.serve(Arc::clone(&watched) as Arc<dyn Subject>)),
            None => None,
        };
        Ok((watched, server))
    }

    /// Shows the node from now on.
    pub(crate) fn show(&self, node: &Arc<Node>) {
        let mut registry = Registry::with_prefix("goulette_broker");
        let build = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("id", node.options().id.to_string())];
        registry.register("build", "Of what this broker is, and its name in the cluster", Info::new(build));
        node.metrics.register(&mut registry);
        let lookup = Lookup { node: Arc::downgrade(node), started: node.env.clock.now() };
        registry.register_collector(Box::new(lookup));
        let shown = self.opened.set(Opened { node: Arc::downgrade(node), registry });
        assert!(shown.is_ok(), "a broker has one node");
    }
}

impl Subject for Watched {
    fn ready(&self) -> Result<(), String> {
        let Some(opened) = self.opened.get() else {
            return Err("starting: opens the data and the port".to_owned());
        };
        match opened.node.upgrade().map(|node| node.lifecycle.phase()) {
            Some(Phase::Serving) => Ok(()),
            Some(Phase::Starting) => {
                Err("starting: waits for a sentinel to register at, or for what it assigned".to_owned())
            }
            Some(Phase::Failed(reason)) => Err(format!("failed: {reason}")),
            Some(Phase::Stopping) | None => Err("stopping".to_owned()),
        }
    }

    fn registry(&self) -> Option<&Registry> {
        self.opened.get().map(|opened| &opened.registry)
    }
}

/// Looks up in the node what need not be counted.
struct Lookup {
    node: Weak<Node>,
    /// The clock's reading when the data was open.
    started: Duration,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Lookup")
    }
}

impl Collector for Lookup {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(node) = self.node.upgrade() else { return Ok(()) };
        let mut facts = Facts::new(encoder);
        let uptime = node.env.clock.now().saturating_sub(self.started);
        let ready = node.lifecycle.phase() == Phase::Serving;
        facts.gauge("uptime_seconds", "Since the data was opened", uptime.as_secs_f64())?;
        facts.gauge("ready", "1 if the broker serves, else 0", u64::from(ready))?;

        let held = node.registry.all();
        let led = held.iter().filter(|partition| partition.led().is_ok()).count();
        facts.gauge("partitions_held", "Partitions that have data here", held.len())?;
        facts.gauge("partitions_led", "Partitions that are led here", led)?;
        facts.gauge("in_flight_bytes", "Bytes of batches between the socket and the disk", node.budget.used())?;

        let log = node.log.stats();
        facts.gauge("tail_cache_bytes", "Batches kept in memory for consumers that keep up", log.tail_cache_bytes)?;
        facts.gauge(
            "unflushed_bytes",
            "Batches that are in the WAL and not in their fragment yet",
            log.unflushed_bytes,
        )?;
        facts.gauge(
            "wal_replay_bytes",
            "What a recovery would read now: how far the checkpoint lags",
            log.replay_bytes,
        )?;

        let wal = log.wal;
        facts.counter("wal_groups", "Groups written, each with one sync", wal.groups)?;
        facts.counter("wal_entries", "Entries written in them", wal.entries)?;
        facts.counter("wal_bytes", "Bytes of these entries", wal.bytes)?;
        facts.counter("wal_syncs", "Syncs of the WAL", wal.syncs)?;
        facts.counter("wal_sync_seconds", "Time spent in them", wal.sync_time_total.as_secs_f64())?;
        facts.gauge("wal_queue_bytes", "Entries that wait for the disk", wal.queue_bytes)?;
        let oldest = wal.oldest_unsynced.unwrap_or_default();
        facts.gauge("wal_oldest_unsynced_seconds", "How long the oldest of them has waited", oldest.as_secs_f64())?;
        facts.gauge("wal_full", "1 if there is no space for the next segment, else 0", u64::from(wal.full))?;
        facts.gauge(
            "quarantined_ranges",
            "Ranges of fragments that are damaged, and read around",
            log.quarantined_ranges,
        )?;
        let scrub = log.scrub;
        facts.counter("scrubbed_bytes", "Bytes of old fragments read to see whether they are sound", scrub.bytes)?;
        facts.counter("scrub_passes", "How often all of them have been read", scrub.passes)?;
        facts.counter("scrub_indexes_rebuilt", "Index files that were damaged and made anew", scrub.indexes_rebuilt)?;
        let space = log.space;
        facts.gauge(
            "disk_full",
            "1 while batches are refused because the disk is full, else 0",
            u64::from(space.refusing),
        )?;
        facts.gauge("disk_free_bytes_min", "Batches are refused while less is free", space.free_bytes_min)?;
        facts.gauge("disk_ballast_bytes", "Held back for checkpoint and WAL; 0 while given up", space.ballast_bytes)?;
        match node.env.disk.free_bytes(&node.options().data_dir) {
            Ok(free) => facts.gauge("disk_free_bytes", "Free space of the file system that holds the data", free),
            // Absent, and not 0, which would ring an alarm.
            Err(_) => Ok(()),
        }
    }
}

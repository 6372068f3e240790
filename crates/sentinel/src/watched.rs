//! The sentinel as its admin port shows it.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use goulette_admin_http::{
    AdminPort, AdminServer, BindError, Facts, Subject,
    prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::info::Info, registry::Registry},
};
use goulette_env::{Env, OpenMode};
use goulette_meta::keys::BrokerState;

use crate::{SentinelOptions, Store, metrics::Metrics, service::Context};

/// A sentinel that is watched from before its metadata is loaded. It does not keep the sentinel's parts alive.
#[derive(Default)]
pub(crate) struct Watched {
    opened: OnceLock<Opened>,
}

struct Opened {
    context: Weak<Context>,
    registry: Registry,
}

impl Watched {
    /// Opens the admin port, if the options want one, and answers there that the sentinel is starting.
    pub(crate) async fn open(options: &SentinelOptions) -> Result<(Arc<Self>, Option<AdminServer>), BindError> {
        let watched = Arc::new(Self::default());
        let server = match options.admin {
            Some(address) => Some(AdminPort::open(address).await?.serve(Arc::clone(&watched) as Arc<dyn Subject>)),
            None => None,
        };
        Ok((watched, server))
    }

    /// Shows the sentinel from now on.
    pub(crate) fn show(&self, context: &Arc<Context>, metrics: &Metrics, env: &Env) {
        let mut registry = Registry::with_prefix("goulette_sentinel");
        let build = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("id", context.options.id.to_string())];
        registry.register("build", "Of what this sentinel is, and its name in the cluster", Info::new(build));
        metrics.register(&mut registry);
        let lookup = Lookup { context: Arc::downgrade(context), env: env.clone(), started: env.clock.now() };
        registry.register_collector(Box::new(lookup));
        let shown = self.opened.set(Opened { context: Arc::downgrade(context), registry });
        assert!(shown.is_ok(), "a sentinel starts once");
    }
}

impl Subject for Watched {
    fn ready(&self) -> Result<(), String> {
        let Some(opened) = self.opened.get() else {
            return Err("starting: loads the metadata".to_owned());
        };
        match opened.context.upgrade() {
            Some(context) if !*context.stopping.borrow() => Ok(()),
            _ => Err("stopping".to_owned()),
        }
    }

    fn registry(&self) -> Option<&Registry> {
        self.opened.get().map(|opened| &opened.registry)
    }
}

/// Looks up in the catalog what need not be counted.
struct Lookup {
    context: Weak<Context>,
    env: Env,
    /// The clock's reading when the metadata was loaded.
    started: Duration,
}

/// The size of the store's file; none if it is elsewhere, or the disk does not say.
pub(crate) fn store_bytes(env: &Env, options: &SentinelOptions) -> Option<u64> {
    let Store::Local = options.store else { return None };
    let path = options.data_dir.join(goulette_mvcc::FILE_NAME);
    env.disk.open(&path, OpenMode::Read).and_then(|file| file.len()).ok()
}

impl fmt::Debug for Lookup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Lookup")
    }
}

impl Collector for Lookup {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(context) = self.context.upgrade() else { return Ok(()) };
        let mut facts = Facts::new(encoder);
        let uptime = self.env.clock.now().saturating_sub(self.started);
        facts.gauge("uptime_seconds", "Since the metadata was loaded", uptime.as_secs_f64())?;

        let catalog = context.state.catalog();
        let (mut topics, mut partitions, mut offline) = (0_usize, 0_usize, 0_usize);
        for (_, topic) in catalog.topics() {
            topics += 1;
            for (_, partition) in catalog.partitions(topic.id) {
                partitions += 1;
                offline += usize::from(catalog.leader(partition).is_err());
            }
        }
        let states = [("live", BrokerState::Live), ("down", BrokerState::Down), ("left", BrokerState::Left)];
        let brokers = states.map(|(name, state)| {
            ([("state", name)], catalog.brokers().filter(|(_, broker)| broker.state == state).count())
        });
        let suspect = catalog.brokers().filter(|(id, _)| context.state.health(id).suspect).count();
        let sentinels = catalog.sentinels().count().max(1);
        let revision = catalog.revision().0;
        drop(catalog);

        facts.gauge("leads", "Whether this sentinel leads: 1 or 0", u64::from(context.state.leads()))?;
        let stale = context.stale().as_secs_f64();
        facts.gauge("store_silent_seconds", "Since the metadata store answered last, while it does not", stale)?;
        facts.gauge("topics", "Topics that exist", topics)?;
        facts.gauge("partitions", "Partitions of these topics", partitions)?;
        facts.gauge("partitions_offline", "Partitions that nobody leads", offline)?;
        facts.gauges("brokers", "Brokers known, by state", brokers)?;
        facts.gauge("brokers_suspect", "Live brokers that are silent; known to the sentinel that leads", suspect)?;
        facts.gauge("sentinels", "Sentinels that run", sentinels)?;
        facts.gauge("metadata_revision", "Newest revision of the metadata", revision)?;
        match store_bytes(&self.env, &context.options) {
            Some(bytes) => facts.gauge("store_bytes", "Size of the metadata's file", bytes),
            None => Ok(()),
        }
    }
}

//! `goulette sentinel`: one sentinel, until it is told to stop; with it, unless told otherwise, the etcd that holds its
//! metadata.

mod embedded;
mod membership;
mod place;
mod upkeep;

use goulette_env::Env;
use goulette_logging::{Chain, info};
use goulette_sentinel::{Sentinel, SentinelOptions, StartError, Store};
use goulette_types::ErrorKind;

use self::{embedded::EmbeddedEtcd, place::Place};
use super::service;
use crate::{
    cli::{AdminAddress, SentinelFlags, VERSION},
    exit::Failure,
    notify,
    signals::Stop,
};

pub(crate) async fn run(mut flags: SentinelFlags) -> Result<(), Failure> {
    if let Some(command) = flags.membership.take() {
        return membership::run(command).await;
    }
    let place = Place::of(&flags)?;
    service::run(&flags.logging, &log_name(&flags), async |stop| serve(&flags, place, stop).await).await
}

fn log_name(flags: &SentinelFlags) -> String {
    format!("sentinel_{}.log", flags.id)
}

/// The etcd first and last: the sentinel is ready only after it, and gives its leadership up while it still answers.
async fn serve(flags: &SentinelFlags, place: Place, mut stop: Stop) -> Result<(), Failure> {
    info!("goulette {VERSION}: sentinel {} starts on {}", flags.id, flags.data_dir().display());
    service::starts(&format!("sentinel {}", flags.id), &flags.logging, &log_name(flags));
    let (store, etcd) = match place {
        Place::Folder => (Store::Local, None),
        Place::External(options) => (Store::Etcd(options), None),
        Place::Embedded(config) => {
            let started = tokio::select! {
                started = EmbeddedEtcd::start(*config, &flags.logging) => started?,
                () = stop.wished() => {
                    info!("sentinel {} stopped before it served", flags.id);
                    return Ok(());
                }
            };
            (Store::Etcd(started.options(flags.store.etcd_prefix.as_str().to_owned()).await), Some(started))
        }
    };
    let ended = async {
        match &etcd {
            Some(etcd) => etcd.ended().await,
            None => std::future::pending().await,
        }
    };
    let result = serve_with(flags, store, stop, ended).await;
    if let Some(etcd) = etcd {
        etcd.stop().await;
    }
    result
}

async fn serve_with(
    flags: &SentinelFlags,
    store: Store,
    mut stop: Stop,
    etcd_ended: impl Future<Output = String>,
) -> Result<(), Failure> {
    let options = options(flags, store)?;
    let mut etcd_ended = std::pin::pin!(etcd_ended);
    let sentinel = tokio::select! {
        started = Sentinel::start(options, Env::real()) => started.map_err(|error| refused(&error))?,
        () = stop.wished() => {
            info!("sentinel {} stopped before it served", flags.id);
            return Ok(());
        }
        why = &mut etcd_ended => return Err(embedded::ended(&why)),
    };
    service::serves(&format!("sentinel {} listens on {}", flags.id, sentinel.address()), &flags.logging);
    let failure = tokio::select! {
        () = stop.wished() => None,
        failure = sentinel.failed() => {
            Some(Failure::failed(format_args!("sentinel {} stopped: {failure}", flags.id)))
        }
        why = &mut etcd_ended => Some(embedded::ended(&why)),
    };
    notify::stopping();
    sentinel.stop().await;
    failure.map_or(Ok(()), Err)
}

fn options(flags: &SentinelFlags, store: Store) -> Result<SentinelOptions, Failure> {
    let mut options = SentinelOptions::new(flags.id.clone(), flags.address.socket, flags.data_dir());
    options.advertise = Some(service::advertised(&flags.address, flags.advertise.as_ref()));
    options.store = store;
    options.cluster_id = flags.cluster_id;
    options.auto_create_topics = flags.auto_create_topics;
    options.default_partitions = flags.default_partitions;
    options.default_replication_factor = flags.default_replication_factor;
    options.admin = AdminAddress::or_beside(flags.admin_address.as_ref(), &flags.address).map_err(Failure::usage)?;
    Ok(options)
}

fn refused(error: &StartError) -> Failure {
    match error.kind() {
        ErrorKind::Invalid => Failure::usage(Chain(error)),
        _ => Failure::failed(Chain(error)),
    }
}

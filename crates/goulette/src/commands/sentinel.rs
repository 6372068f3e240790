//! `goulette sentinel`: one sentinel, until it is told to stop.

use goulette_env::Env;
use goulette_logging::{Chain, info};
use goulette_sentinel::{Sentinel, SentinelOptions, StartError};
use goulette_types::ErrorKind;

use super::service;
use crate::{
    cli::{AdminAddress, SentinelFlags, VERSION},
    exit::Failure,
    signals::Stop,
};

pub(crate) async fn run(flags: SentinelFlags) -> Result<(), Failure> {
    refuse_etcd(&flags)?;
    service::run(&flags.logging, &log_name(&flags), async |stop| serve(&flags, stop).await).await
}

fn log_name(flags: &SentinelFlags) -> String {
    format!("sentinel_{}.log", flags.id)
}

/// The modes with etcd are not built yet, and to go on without would be another promise than the one asked for.
fn refuse_etcd(flags: &SentinelFlags) -> Result<(), Failure> {
    let external = flags.etcd_endpoints.iter().any(|endpoint| !endpoint.is_empty());
    let missing = match (external, flags.enable_embedded_etcd) {
        (true, _) => "external etcd servers (-etcd-endpoints) come in a later version: leave them out and",
        (false, true) => "the embedded etcd comes in a later version:",
        (false, false) => return Ok(()),
    };
    Err(Failure::failed(format_args!(
        "{missing} start with -enable-embedded-etcd=false, which keeps the metadata in the sentinel's own folder"
    )))
}

async fn serve(flags: &SentinelFlags, mut stop: Stop) -> Result<(), Failure> {
    info!("goulette {VERSION}: sentinel {} starts on {}", flags.id, flags.data_dir().display());
    let options = options(flags)?;
    let sentinel = tokio::select! {
        started = Sentinel::start(options, Env::real()) => started.map_err(|error| refused(&error))?,
        () = stop.wished() => {
            info!("sentinel {} stopped before it served", flags.id);
            return Ok(());
        }
    };
    service::announce(
        &format!("sentinel {} listens on {}", flags.id, sentinel.address()),
        &flags.logging,
        &log_name(flags),
    );
    let failure = tokio::select! {
        () = stop.wished() => None,
        failure = sentinel.failed() => Some(failure),
    };
    sentinel.stop().await;
    match failure {
        None => Ok(()),
        Some(failure) => Err(Failure::failed(format_args!("sentinel {} stopped: {failure}", flags.id))),
    }
}

fn options(flags: &SentinelFlags) -> Result<SentinelOptions, Failure> {
    let mut options = SentinelOptions::new(flags.id.clone(), flags.address.socket, flags.data_dir());
    options.advertise = Some(service::advertised(&flags.address, flags.advertise.as_ref()));
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

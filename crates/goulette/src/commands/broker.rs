//! `goulette broker`: one broker, until it is told to stop.

use goulette_broker::{Broker, BrokerOptions, StartError};
use goulette_env::Env;
use goulette_logging::{Chain, info};
use goulette_types::ErrorKind;
use goulette_wal::SyncPolicy;
use tokio::time::timeout;

use super::{
    cluster,
    service::{self, STOP_DEADLINE},
};
use crate::{
    cli::{AdminAddress, BrokerFlags, SyncChoice, VERSION},
    exit::Failure,
    notify, open_files,
    signals::Stop,
};

pub(crate) async fn run(mut flags: BrokerFlags) -> Result<(), Failure> {
    if let Some(command) = flags.command.take() {
        return cluster::broker(command).await;
    }
    service::run(&flags.logging, &log_name(&flags), async |stop| serve(&flags, stop).await).await
}

fn log_name(flags: &BrokerFlags) -> String {
    format!("broker_{}.log", flags.id)
}

async fn serve(flags: &BrokerFlags, mut stop: Stop) -> Result<(), Failure> {
    info!("goulette {VERSION}: broker {} starts on {}", flags.id, flags.data_dir().display());
    let me = format!("broker {}", flags.id);
    service::starts(&me, &flags.logging, &log_name(flags));
    let options = options(flags)?;
    let broker = tokio::select! {
        started = Broker::start(options, Env::real()) => started.map_err(|error| refused(&error))?,
        () = stop.wished() => {
            info!("broker {} stopped before it served", flags.id);
            return Ok(());
        }
    };
    service::serves(&format!("{me} listens on {}", broker.address()), &flags.logging);
    let reason = tokio::select! {
        () = stop.wished() => None,
        reason = broker.stopped() => Some(reason),
    };
    notify::stopping();
    let stopped = timeout(STOP_DEADLINE, broker.stop()).await;
    match (reason, stopped) {
        (Some(reason), _) => Err(Failure::failed(format_args!("broker {} stopped: {reason}", flags.id))),
        (None, Ok(Ok(()))) => {
            info!("broker {} stopped", flags.id);
            Ok(())
        }
        (None, Ok(Err(error))) => Err(Failure::failed(Chain(&error))),
        (None, Err(_)) => {
            let seconds = STOP_DEADLINE.as_secs();
            Err(Failure::failed(format_args!("the log did not close within {seconds} s: the next start recovers it")))
        }
    }
}

fn options(flags: &BrokerFlags) -> Result<BrokerOptions, Failure> {
    let sentinels = flags.sentinel.iter().map(ToString::to_string).collect();
    let mut options = BrokerOptions::new(flags.id.clone(), flags.address.socket, flags.data_dir(), sentinels);
    options.advertise = service::advertised(&flags.address, flags.advertise.as_ref());
    options.rack = flags.rack.as_ref().map(ToString::to_string);
    options.weight = flags.weight;
    options.limits.record_bytes_max = flags.record_bytes_max;
    options.limits.batch_bytes_max = flags.batch_bytes_max;
    options.log.space.free_bytes_min = flags.disk_free_bytes_min;
    options.log.scrub.bytes_per_second = flags.scrub_bytes_per_second;
    options.catch_up_bytes_per_second = flags.catch_up_bytes_per_second;
    options.log.fragment_handles_max = open_files::fragment_handles(options.log.fragment_handles_max);
    options.log.wal.sync = match flags.sync {
        SyncChoice::Always => SyncPolicy::Always,
        SyncChoice::Interval(interval) => SyncPolicy::Interval(interval),
        SyncChoice::Never => SyncPolicy::Never,
    };
    options.admin = AdminAddress::or_beside(flags.admin_address.as_ref(), &flags.address).map_err(Failure::usage)?;
    Ok(options)
}

fn refused(error: &StartError) -> Failure {
    match error.kind() {
        ErrorKind::Invalid => Failure::usage(Chain(error)),
        _ => Failure::failed(Chain(error)),
    }
}

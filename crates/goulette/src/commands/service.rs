//! What broker and sentinel have in common as processes: a log file, signals, and an orderly end.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use goulette_logging::{close, error, warn};

use crate::{
    cli::{HostPort, ListenAddress, LoggingFlags},
    exit::Failure,
    notify,
    signals::{self, Stop},
};

/// How long an orderly end may take.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs `serve` with its log in `log_name`, until it returns.
pub(super) async fn run(
    logging: &LoggingFlags,
    log_name: &str,
    serve: impl AsyncFnOnce(Stop) -> Result<(), Failure>,
) -> Result<(), Failure> {
    logging.init(log_name)?;
    log_panics();
    let stop = signals::stop()?;
    signals::answer_hangup(logging.log_level.clone())?;
    let result = serve(stop).await;
    if let Err(failure) = &result {
        error!("{failure}");
    }
    close();
    result
}

/// Tells whoever sits at the terminal that it starts, and where the rest is told.
pub(super) fn starts(what: &str, logging: &LoggingFlags, log_name: &str) {
    if let Some(log) = logging.path(log_name).filter(|_| io::stderr().is_terminal()) {
        eprintln!("{what} starts (log: {}); Ctrl-C stops it", log.display());
    }
}

/// Tells the service manager that it serves, and whoever sits at the terminal.
pub(super) fn serves(what: &str, logging: &LoggingFlags) {
    notify::ready(what);
    tell(what, logging);
}

/// Tells the service manager what it waits for, and whoever sits at the terminal.
pub(super) fn waits(what: &str, logging: &LoggingFlags) {
    notify::status(what);
    tell(what, logging);
}

/// To the terminal, unless the log goes there.
fn tell(what: &str, logging: &LoggingFlags) {
    if logging.path("").is_some() && io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

/// The address that others dial; warns if the one that is listened on is open to the network.
pub(super) fn advertised(address: &ListenAddress, advertise: Option<&HostPort>) -> String {
    let advertised = advertise.map_or_else(|| address.dialable(), ToString::to_string);
    if address.is_public() {
        let warning = format!(
            "listening on {address}, advertised as {advertised}, without TLS: whoever reaches that port can read and \
             write everything, so keep it within a trusted network"
        );
        warn!("{warning}");
        eprintln!("warning: {warning}");
    }
    advertised
}

/// A panic is a defect, and the log is where its traces are looked for.
fn log_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        error!("{panic}");
        print(panic);
    }));
}

//! `goulette etcd`: one etcd member, until it is told to stop.

use std::{env, str::FromStr};

use goulette_env::Env;
use goulette_etcd::{Config, EtcdServer, config};
use goulette_logging::{Chain, Format, Level, Options, close, error, info, init_with};

use super::etcd_tool;
use crate::{cli::EtcdFlags, exit::Failure, signals};

pub(crate) async fn run(flags: EtcdFlags) -> Result<(), Failure> {
    match flags.args.first().map(String::as_str) {
        Some("--version") => {
            print!("{}", version());
            return Ok(());
        }
        Some("--help" | "-h") => {
            print!("{}", config::help());
            return Ok(());
        }
        _ if etcd_tool::is_tool(&flags.args) => return etcd_tool::run(&flags.args).await,
        _ => {}
    }
    let config = Config::parse(&flags.args, |name| env::var(name).ok(), read_file).map_err(Failure::usage)?;
    let level = match config.log_level.as_str() {
        "dpanic" | "panic" | "fatal" => Level::Fatal,
        level => Level::from_str(level).map_err(Failure::usage)?,
    };
    // etcd's own lines are JSON on standard error; whoever waits for one of them looks for its text.
    init_with(Options { level, format: Format::Json, ..Options::default() })
        .map_err(|error| Failure::failed(Chain(&error)))?;
    let result = serve(config).await;
    if let Err(failure) = &result {
        error!("{failure}");
    }
    close();
    result
}

async fn serve(config: Config) -> Result<(), Failure> {
    let mut stop = signals::stop()?;
    info!("etcd {} in goulette starts: member {:?}, {}", config::VERSION, config.name, config.data_dir.display());
    let started = EtcdServer::start(config, Env::real()).await;
    let server = started.map_err(|error| Failure::failed(Chain(&error)))?;
    let why = tokio::select! {
        () = stop.wished() => None,
        why = server.ended() => Some(why),
        is_ready = server.ready() => {
            if is_ready {
                info!("ready to serve client requests");
            }
            tokio::select! {
                () = stop.wished() => None,
                why = server.ended() => Some(why),
            }
        }
    };
    server.stop().await;
    match why {
        None => Ok(()),
        Some(why) => Err(Failure::failed(why)),
    }
}

/// In the form that etcd's own test frameworks read.
fn version() -> String {
    format!(
        "etcd Version: {}\nGit SHA: {}\nGo Version: none (goulette {})\nGo OS/Arch: {}/{}\n",
        config::VERSION,
        env!("GOULETTE_COMMIT"),
        env!("CARGO_PKG_VERSION"),
        env::consts::OS,
        env::consts::ARCH,
    )
}

#[allow(clippy::disallowed_methods, reason = "a configuration file is read once, at the start")]
fn read_file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

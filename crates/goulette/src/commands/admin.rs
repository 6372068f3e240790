//! `goulette health`, `log-level` and `info`: questions to one running process.

use std::fmt::Write;

use goulette_client::{Admin, Client, ClientOptions};
use serde_json::json;

use crate::{
    cli::{AddressFlags, HostPort, LogLevelFlags},
    exit::Failure,
    output::{Output, print, print_json},
};

/// The calls to the process at `address`, which need no sentinel.
fn admin_of(address: &HostPort) -> Result<Admin, Failure> {
    let options = ClientOptions { sentinels: vec![address.to_string()], ..ClientOptions::default() };
    Ok(Client::new(options)?.admin())
}

pub(crate) async fn health(flags: AddressFlags) -> Result<(), Failure> {
    let address = &flags.address;
    let serving = admin_of(address)?.is_healthy(address.as_str()).await?;
    let state = if serving { "serving" } else { "not serving" };
    match flags.output {
        Output::Text if serving => print(&format!("{address} is serving\n"))?,
        Output::Text => {}
        Output::Json => print_json(&json!({ "address": address.as_str(), "state": state }))?,
    }
    if serving { Ok(()) } else { Err(Failure::failed(format_args!("{address} is not serving: it starts or stops"))) }
}

pub(crate) async fn log_level(flags: LogLevelFlags) -> Result<(), Failure> {
    let (admin, address) = (admin_of(&flags.address)?, flags.address.as_str());
    match flags.level {
        None => print(&format!("{}\n", admin.info(address).await?.log_level)),
        Some(level) => {
            let previous = admin.set_log_level(address, &level.to_string()).await?;
            print(&format!("{address} logs from {level} on (before: {previous})\n"))
        }
    }
}

pub(crate) async fn info(flags: AddressFlags) -> Result<(), Failure> {
    let info = admin_of(&flags.address)?.info(flags.address.as_str()).await?;
    let started = jiff::Timestamp::from_millisecond(i64::try_from(info.started_at_ms).unwrap_or(0)).unwrap_or_default();
    let mut details: Vec<_> = info.details.iter().collect();
    details.sort();
    if flags.output == Output::Json {
        return print_json(&json!({
            "role": info.role,
            "id": info.id,
            "version": info.version,
            "cluster_id": info.cluster_id,
            "state": info.state,
            "log_level": info.log_level,
            "started_at": started.to_string(),
            "details": info.details,
        }));
    }
    let mut lines = vec![
        ("role", info.role.clone()),
        ("id", info.id.clone()),
        ("version", info.version.clone()),
        ("cluster", info.cluster_id.clone()),
        ("state", info.state.clone()),
        ("log level", info.log_level.clone()),
        ("started", format!("{started:.0}")),
    ];
    lines.extend(details.into_iter().map(|(key, value)| (key.as_str(), value.clone())));
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let text = lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:width$}  {value}");
        text
    });
    print(&text)
}

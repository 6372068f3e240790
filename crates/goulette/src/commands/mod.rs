//! What each subcommand does.

mod admin;
mod bench;
mod broker;
mod client;
mod cluster;
mod config;
mod etcd;
mod etcd_tool;
mod log;
mod sentinel;
mod service;
mod topic;

use goulette_client::{Client, ClientOptions};

use crate::{
    cli::{Command, HostPort},
    exit::Failure,
};

/// Runs a command to its end.
pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Broker(flags) => broker::run(flags).await,
        Command::Sentinel(flags) => sentinel::run(*flags).await,
        Command::Etcd(flags) => etcd::run(flags).await,
        Command::Client(flags) => client::run(flags).await,
        Command::Topic(command) => topic::run(command).await,
        Command::Cluster(command) => cluster::run(command).await,
        Command::Partition(command) => cluster::partition(command).await,
        Command::Election(command) => cluster::election(command).await,
        Command::Oplog(flags) => cluster::oplog(flags).await,
        Command::Config(command) => config::run(command),
        Command::Log(command) => log::run(command),
        Command::Bench(command) => bench::run(command).await,
        Command::Health(flags) => admin::health(flags).await,
        Command::LogLevel(flags) => admin::log_level(flags).await,
        Command::Info(flags) => admin::info(flags).await,
    }
}

/// A client of the cluster that these sentinels belong to; one of them has answered.
async fn connect(sentinels: &[HostPort]) -> Result<Client, Failure> {
    connect_with(sentinels, ClientOptions::default()).await
}

async fn connect_with(sentinels: &[HostPort], options: ClientOptions) -> Result<Client, Failure> {
    let sentinels = sentinels.iter().map(ToString::to_string).collect();
    Ok(Client::connect(ClientOptions { sentinels, ..options }).await?)
}

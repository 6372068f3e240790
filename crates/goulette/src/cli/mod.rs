//! The command line: one file per subcommand's flags. Their texts are documentation: each flag tells default and unit.

mod admin;
mod bench;
mod broker;
mod client;
mod cluster;
mod config;
mod etcd;
mod log;
mod logging;
mod membership;
mod moves;
mod sentinel;
mod store;
mod topic;
mod values;

use clap::{Parser, Subcommand};

pub(crate) use admin::{AddressFlags, LogLevelFlags};
pub(crate) use bench::{
    BenchCommand, ConsumeFlags, DiskFlags, FailoverFlags, ProduceFlags, StorageFlags, StorageLoads,
};
pub(crate) use broker::BrokerFlags;
pub(crate) use client::{ClientFlags, Mode, Place, PrintField};
pub(crate) use cluster::{AdoptFlags, ClusterCommand, ExportFlags, ImportFlags, OplogFlags, StatusFlags};
pub(crate) use config::{ConfigCommand, ConfigFlag, ShowFlags};
pub(crate) use etcd::{
    ConnectFlags, DelFlags, EtcdFlags, EtcdTool, GetFlags, MemberTool, PutFlags, RestoreFlags, SnapshotTool,
    ToolCommand,
};
pub(crate) use log::{DirFlags, DumpFlags, LogCommand};
pub(crate) use logging::{LevelSetting, LoggingFlags};
pub(crate) use membership::{JoinFlags, LeaveFlags, MembersFlags, MembershipCommand};
pub(crate) use moves::{
    BrokerCommand, DrainFlags, ElectionCommand, MovesFlags, OrderFlags, PartitionCommand, RebalanceFlags,
};
pub(crate) use sentinel::SentinelFlags;
pub(crate) use store::{ClusterState, Host, Member as ClusterMember, StoreFlags};
pub(crate) use topic::{AlterFlags, CreateFlags, DeleteFlags, DescribeFlags, ListFlags, TopicCommand};
pub(crate) use values::{AdminAddress, HostPort, KeyValue, ListenAddress, RackName, SyncChoice};

/// Version, commit and target, as `--version` and `info` tell them.
pub(crate) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("GOULETTE_COMMIT"), ", ", env!("GOULETTE_TARGET"), ")");

/// Goulette: a distributed message queue. An acknowledged message is on the disk.
#[derive(Debug, Parser)]
#[command(name = "goulette", version = VERSION, propagate_version = true, disable_help_subcommand = true)]
#[command(max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Flags may be written -flag VALUE, -flag=VALUE, --flag VALUE or --flag=VALUE; switches also -flag=false.
Called by the name broker, sentinel, client or etcd (as a link), the binary acts as that command.
Exit codes: 0 success, 1 failure, 2 usage, 3 unreachable.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker: it stores messages and serves them
    ///
    /// It keeps its data in one folder: a write-ahead log, and files for each partition. It serves as soon as it has
    /// read that folder and a sentinel knows it. SIGTERM and SIGINT stop it within 10 seconds, losing nothing; SIGHUP
    /// reopens the log file and reads the log level again.
    Broker(BrokerFlags),
    /// Run a sentinel: it knows the topics and which broker leads what
    ///
    /// The metadata is in an etcd that runs inside of the sentinel (the default; several sentinels form one cluster by
    /// -etcd-initial-cluster), in an etcd of yours (-enable-embedded-etcd=false -etcd-endpoints ..), or, without either,
    /// in the folder of exactly one sentinel (-enable-embedded-etcd=false). SIGTERM and SIGINT stop it within 10 seconds;
    /// SIGHUP reopens the log file and reads the log level again.
    Sentinel(Box<SentinelFlags>),
    /// Run an etcd v3 server, with etcd's own flags
    ///
    /// It takes the flags and ETCD_ variables of etcd 3.6, or a file in its format (--config-file), and serves the same
    /// interface. A flag that it does not know is refused by name.
    Etcd(EtcdFlags),
    /// Send messages, or print them
    ///
    /// A producer sends one message, or each line of a file or of standard input (a line is the bytes between two line
    /// feeds; bytes after the last one are a message too), and succeeds only if every one was acknowledged. A consumer
    /// prints each value and a line feed until Ctrl-C, or until -count or -until-end is met.
    Client(ClientFlags),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Look at the cluster as a whole, and move its metadata
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Move single partitions, and see what moves
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// Give partitions another leader
    #[command(subcommand)]
    Election(ElectionCommand),
    /// Show the operation log: every change of brokers, topics and partitions, with its id and time
    Oplog(OplogFlags),
    /// Check a settings file, or show the settings that a role would run with
    ///
    /// Flags beat variables, which beat the file that -config names, which beats the defaults. The variable of -log-level is
    /// GOULETTE_LOG_LEVEL for all roles and GOULETTE_BROKER_LOG_LEVEL for brokers alone.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the data folder of a broker that does not run
    ///
    /// Nothing in the folder is changed; a folder that a broker uses is refused.
    #[command(subcommand)]
    Log(LogCommand),
    /// Measure producing, consuming, and the disk beneath
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Ask a broker or sentinel whether it serves: exit code 0 yes, 1 not now, 3 unreachable
    Health(AddressFlags),
    /// Show or change the log level of a running broker or sentinel
    LogLevel(LogLevelFlags),
    /// Show what a running broker or sentinel says of itself
    Info(AddressFlags),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_and_command_is_explained() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            for subcommand in command.get_subcommands() {
                assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
                check(subcommand);
            }
        }
        check(&Cli::command());
    }
}

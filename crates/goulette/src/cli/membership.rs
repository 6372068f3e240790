//! Flags of `goulette sentinel join` and `leave`.

use clap::{Args, Subcommand};
use goulette_types::SentinelId;

use super::HostPort;
use crate::output::Output;

/// Changes of the sentinels whose embedded etcds form one cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum MembershipCommand {
    /// Announce a further sentinel to the embedded etcd of a running cluster, and tell the flags to start it with
    ///
    /// It counts for majorities once it has caught up, which it sees to itself after its start.
    Join(JoinFlags),
    /// Take a sentinel out of the embedded etcd's cluster for good: its process ends, and its folder is not used again
    Leave(LeaveFlags),
}

#[derive(Args, Debug)]
pub(crate) struct JoinFlags {
    /// Id of the sentinel that is to join
    #[arg(long)]
    pub(crate) id: SentinelId,

    /// Where the others will reach its etcd: http://host:peer-port
    #[arg(long, value_name = "URL")]
    pub(crate) peer_url: String,

    #[command(flatten)]
    pub(crate) cluster: MembersFlags,
}

#[derive(Args, Debug)]
pub(crate) struct LeaveFlags {
    #[command(flatten)]
    pub(crate) who: Leaver,

    #[command(flatten)]
    pub(crate) cluster: MembersFlags,
}

/// Whose membership ends.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Leaver {
    /// Id of the sentinel that is to leave
    #[arg(long)]
    pub(crate) id: Option<SentinelId>,

    /// Of one that joined and never started, which has no id yet: the URL it was to be reached at
    #[arg(long, value_name = "URL")]
    pub(crate) peer_url: Option<String>,
}

/// Where the cluster is.
#[derive(Args, Debug)]
pub(crate) struct MembersFlags {
    /// Client ports of running sentinels' etcds, comma-separated
    #[arg(long, value_name = "HOST:PORT,..", default_value = "127.0.0.1:2379", value_delimiter = ',')]
    pub(crate) etcd_endpoints: Vec<HostPort>,

    /// How to print: for people, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

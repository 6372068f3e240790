//! Flags of the commands that move partitions: `cluster rebalance`, `broker drain|remove|replace`, `partition`, `election`.

use clap::{Args, Subcommand};
use goulette_types::{BrokerId, TopicName};

use super::topic::ClusterFlags;

/// What can be asked of a broker's partitions.
#[derive(Debug, Subcommand)]
pub(crate) enum BrokerCommand {
    /// Move everything away from a broker, which goes on running
    Drain(DrainFlags),
    /// Move everything away from a broker, then forget it
    Remove(DrainFlags),
    /// Let another broker take the place of one, partition by partition
    Replace(ReplaceFlags),
}

#[derive(Args, Debug)]
pub(crate) struct DrainFlags {
    /// The broker
    pub(crate) id: BrokerId,

    /// Take the order back: what has moved stays, nothing more moves
    #[arg(long)]
    pub(crate) cancel: bool,

    #[command(flatten)]
    pub(crate) order: OrderFlags,
}

#[derive(Args, Debug)]
pub(crate) struct ReplaceFlags {
    /// The broker that goes
    pub(crate) id: BrokerId,

    /// The broker that comes
    pub(crate) replacement: BrokerId,

    #[command(flatten)]
    pub(crate) order: OrderFlags,
}

#[derive(Args, Debug)]
pub(crate) struct RebalanceFlags {
    /// Only tell what would move
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Take back everything that is ordered and not done yet
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) cancel: bool,

    #[command(flatten)]
    pub(crate) order: OrderFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// Give a partition other replicas, the preferred leader first
    Reassign(ReassignFlags),
    /// Show what is ordered and not done yet
    Moves(MovesFlags),
}

#[derive(Args, Debug)]
pub(crate) struct ReassignFlags {
    /// Topic
    pub(crate) topic: TopicName,

    /// Number of the partition
    pub(crate) partition: u32,

    /// Brokers, comma-separated; - takes an order back
    #[arg(value_name = "BROKER,..")]
    pub(crate) replicas: String,

    #[command(flatten)]
    pub(crate) order: OrderFlags,
}

#[derive(Args, Debug)]
pub(crate) struct MovesFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ElectionCommand {
    /// Let the preferred leaders lead, where they are in sync
    Preferred(PreferredFlags),
    /// Let a replica lead that may lack acknowledged records: these are then lost. It is recorded
    Unclean(UncleanFlags),
}

#[derive(Args, Debug)]
pub(crate) struct PreferredFlags {
    /// Topic
    pub(crate) topic: TopicName,

    /// Number of the partition [default: all of the topic]
    pub(crate) partition: Option<u32>,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

#[derive(Args, Debug)]
pub(crate) struct UncleanFlags {
    /// Topic
    pub(crate) topic: TopicName,

    /// Number of the partition
    pub(crate) partition: u32,

    /// The replica that is to lead
    pub(crate) broker: BrokerId,

    /// Yes, acknowledged records may be lost
    #[arg(long, required = true)]
    pub(crate) accept_loss: bool,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

/// How to follow an order.
#[derive(Args, Debug)]
pub(crate) struct OrderFlags {
    /// Return at once; the moves go on (goulette partition moves shows them)
    #[arg(long)]
    pub(crate) no_wait: bool,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

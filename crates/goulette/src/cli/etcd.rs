//! Flags of `goulette etcd`: etcd's own, read by the crate that knows them, and those of its small client commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::output::Output;

#[derive(Args, Debug)]
#[command(disable_version_flag = true, disable_help_flag = true)]
pub(crate) struct EtcdFlags {
    /// etcd's flags, such as --name, --data-dir, --listen-client-urls; --help lists them
    ///
    /// Or a command for machines without etcdctl: status, get, put, del, member list, snapshot save, snapshot status,
    /// restore; each has a --help of its own.
    #[arg(value_name = "FLAGS", allow_hyphen_values = true, trailing_var_arg = true, num_args = 0..)]
    pub(crate) args: Vec<String>,
}

/// A command in place of a server.
#[derive(Debug, Parser)]
#[command(name = "goulette etcd")]
pub(crate) struct EtcdTool {
    #[command(subcommand)]
    pub(crate) command: ToolCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Tell who leads, and how far each endpoint is
    Status(ConnectFlags),
    /// Print keys and values, one a line
    Get(GetFlags),
    /// Write a key
    Put(PutFlags),
    /// Delete a key, or all with a prefix; prints how many there were
    Del(DelFlags),
    /// Look at the members
    #[command(subcommand)]
    Member(MemberTool),
    /// Save the whole state to a file, or look into such a file
    #[command(subcommand)]
    Snapshot(SnapshotTool),
    /// Make the data folder of a new cluster's member from a snapshot, ours or a real etcd's
    ///
    /// Every member of the new cluster is restored from the same file, with the same --initial-cluster and its own
    /// --name and --initial-advertise-peer-urls, and is then started with these flags.
    Restore(RestoreFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberTool {
    /// List the members: id, state, name, peer URLs, client URLs, whether it is a learner
    List(ConnectFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotTool {
    /// Save a snapshot, in etcd's format, with its checksum checked
    Save {
        /// The file to make
        file: PathBuf,
        #[command(flatten)]
        connect: ConnectFlags,
    },
    /// Check a snapshot's structure, and tell what it holds
    Status {
        /// The file
        file: PathBuf,
        /// How to print: for people, or JSON for programs
        #[arg(long, default_value = "text")]
        output: Output,
    },
}

/// Where the servers are, and who asks.
#[derive(Args, Debug)]
pub(crate) struct ConnectFlags {
    /// Client URLs of the members
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub(crate) endpoints: Vec<String>,

    /// Name and password, as name:password
    #[arg(long)]
    pub(crate) user: Option<String>,

    /// How to print: for people, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct GetFlags {
    /// The key
    pub(crate) key: String,

    /// All keys that begin with KEY
    #[arg(long)]
    pub(crate) prefix: bool,

    /// At this revision; 0 is the current one
    #[arg(long, default_value_t = 0)]
    pub(crate) rev: i64,

    /// At most so many keys; 0 is no bound
    #[arg(long, default_value_t = 0)]
    pub(crate) limit: i64,

    #[command(flatten)]
    pub(crate) connect: ConnectFlags,
}

#[derive(Args, Debug)]
pub(crate) struct PutFlags {
    /// The key
    pub(crate) key: String,

    /// The value
    pub(crate) value: String,

    /// The lease that the key ends with; 0 is none
    #[arg(long, default_value_t = 0)]
    pub(crate) lease: i64,

    #[command(flatten)]
    pub(crate) connect: ConnectFlags,
}

#[derive(Args, Debug)]
pub(crate) struct DelFlags {
    /// The key
    pub(crate) key: String,

    /// All keys that begin with KEY
    #[arg(long)]
    pub(crate) prefix: bool,

    #[command(flatten)]
    pub(crate) connect: ConnectFlags,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreFlags {
    /// The snapshot
    pub(crate) snapshot: PathBuf,

    /// The folder to make; NAME.etcd by default
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,

    /// The member's name
    #[arg(long, default_value = "default")]
    pub(crate) name: String,

    /// Name and peer URL of each first member; this member alone by default
    #[arg(long, value_name = "NAME=URL,...")]
    pub(crate) initial_cluster: Option<String>,

    /// What keeps clusters with the same URLs apart
    #[arg(long, default_value = "etcd-cluster")]
    pub(crate) initial_cluster_token: String,

    /// This member's peer URLs
    #[arg(long, default_value = "http://localhost:2380")]
    pub(crate) initial_advertise_peer_urls: String,

    /// Take a file without a checksum, such as one copied from an etcd's data folder
    #[arg(long)]
    pub(crate) skip_hash_check: bool,

    /// Let revisions go on this much higher, so that no client sees one twice; with --mark-compacted
    #[arg(long, value_name = "REVISIONS")]
    pub(crate) bump_revision: Option<u64>,

    /// Mark everything up to the raised revision as compacted; with --bump-revision
    #[arg(long)]
    pub(crate) mark_compacted: bool,

    /// How to print: for people, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

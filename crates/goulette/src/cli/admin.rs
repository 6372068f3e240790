//! Flags of the commands that ask one running process.

use clap::Args;
use goulette_logging::Level;

use super::HostPort;
use crate::output::Output;

#[derive(Args, Debug)]
pub(crate) struct AddressFlags {
    /// The broker or sentinel, host:port
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: HostPort,

    /// How to print: for people, or JSON for programs
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct LogLevelFlags {
    /// The broker or sentinel, host:port
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: HostPort,

    /// The new level: debug, info, warn, error or fatal [default: show the one in force]
    #[arg(value_name = "LEVEL")]
    pub(crate) level: Option<Level>,
}

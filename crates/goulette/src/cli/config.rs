//! Flags of `goulette config`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a settings file: sections, keys and values; exit code 2 names the first mistake
    Check(CheckFlags),
    /// Show every setting of a role with its value and where it comes from
    ///
    /// The role's own flags may follow, -config FILE among them: what is shown is what the role would run with.
    Show(ShowFlags),
}

#[derive(Args, Debug)]
pub(crate) struct CheckFlags {
    /// The settings file, as goulette.example.toml
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ShowFlags {
    /// How to print: a table, or JSON for programs; stands before the role
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,

    /// broker, sentinel or client, and its flags
    #[arg(value_name = "ROLE [FLAGS]", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) role: Vec<OsString>,
}

/// The file of settings, the same for all roles.
#[derive(Args, Debug)]
pub(crate) struct ConfigFlag {
    /// File of settings, TOML, as goulette.example.toml: flags and GOULETTE_* variables beat it [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

//! `goulette config`: what a settings file says, and what a role would run with.

use std::{env, ffi::OsString};

use clap::CommandFactory;
use serde::Serialize;

use crate::{
    argv,
    cli::{Cli, ConfigCommand, ShowFlags},
    exit::Failure,
    output::{Output, Table, print, print_json},
    settings::{ROLES, Settings},
};

pub(crate) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(flags) => {
            Settings::check_file(&flags.file, &grammar()).map_err(Failure::usage)?;
            print(&format!("{} is good\n", flags.file.display()))
        }
        ConfigCommand::Show(flags) => show(&flags),
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    value: String,
    source: String,
}

fn show(flags: &ShowFlags) -> Result<(), Failure> {
    let grammar = grammar();
    let line = std::iter::once(OsString::from("goulette")).chain(flags.role.iter().cloned());
    let argv = argv::normalise(line, &grammar);
    let gathered = Settings::gather(&argv, &grammar, &|name| env::var_os(name)).map_err(Failure::usage)?;
    let Some((role, settings)) = gathered else {
        return Err(Failure::usage(format_args!("name a role that has settings: {}", ROLES.join(", "))));
    };
    // What it is to do need not be said to learn how it would do it.
    let command = settings
        .as_defaults(Cli::command(), &role)
        .mut_subcommand(&role, |role| role.mut_args(|arg| arg.required(false)));
    let matches = command.try_get_matches_from(argv).map_err(Failure::usage)?;
    let (Some((_, matches)), Some(role)) = (matches.subcommand(), grammar.find_subcommand(&role)) else {
        return Err(Failure::usage("name a role"));
    };
    let shown: Vec<_> = settings
        .explain(role, matches)
        .into_iter()
        .map(|(key, value, source)| Shown { key, value, source: source.to_string() })
        .collect();
    match flags.output {
        Output::Json => print_json(&shown),
        Output::Text => {
            let mut table = Table::new(&["key", "value", "source"]);
            for Shown { key, value, source } in shown {
                table.row([key, value, source]);
            }
            print(&table.to_string())
        }
    }
}

fn grammar() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

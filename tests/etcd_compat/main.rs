//! Is our etcd one? The same random steps go to a real etcd and to ours, and the answers must be the same: results,
//! revisions, errors with their texts, what watchers are told, hashes of the whole history.
//!
//! Wants a real etcd (`scripts/etcd-reference.sh` fetches one), so it is not among `cargo test`: `make test-etcd-compat`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a program that tests from outside")]

mod generate;
mod matrix;
mod op;
mod pair;
mod random;
mod run;
mod server;
mod shrink;
mod side;
mod stories;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use goulette_proto::etcd as pb;

use crate::{run::Runs, server::Launch};

const USAGE: &str = "etcd_compat: differential SEEDS STEPS [FIRST SEED]
             etcdctl PROGRAM...
  COMPAT_REFERENCE   a real etcd
  COMPAT_CANDIDATE   the command that stands in its place, for example `bin/goulette etcd`
  COMPAT_DIR         where the servers keep their data (default: the temporary directory)
  COMPAT_JOBS        how many runs go on at once (default 8: a run mostly waits for its servers)
  SHRINK_SECONDS     how long a failing run is made shorter (default 120)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["differential", seeds, steps] => differential(seeds, steps, "0"),
        ["differential", seeds, steps, first] => differential(seeds, steps, first),
        ["etcdctl", programs @ ..] => etcdctl(programs),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all runs were equal.
fn differential(seeds: &str, steps: &str, first: &str) -> Result<bool> {
    let (reference, candidate, dir) = surroundings()?;
    let number = |variable: &str, default: u64| match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is no number")),
        Err(_) => Ok(default),
    };
    let runs = Runs {
        reference,
        candidate,
        dir,
        steps: steps.parse()?,
        patience: Duration::from_secs(number("SHRINK_SECONDS", 120)?),
    };
    run::differential(&runs, first.parse()?, seeds.parse()?, number("COMPAT_JOBS", 8)?)
}

/// Returns whether each etcdctl printed the same for both servers.
fn etcdctl(programs: &[&str]) -> Result<bool> {
    let (reference, candidate, dir) = surroundings()?;
    let mut equal = true;
    for program in programs {
        let show = std::env::var_os("COMPAT_SHOW").is_some();
        let (lines, different) = matrix::run(Path::new(program), (&reference, &candidate), &dir, show)?;
        println!("{program}: {lines} commands, {different} answered differently");
        equal &= different == 0;
    }
    Ok(equal)
}

fn surroundings() -> Result<(Launch, Launch, PathBuf)> {
    let dir = std::env::var_os("COMPAT_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    Ok((launch("reference", "COMPAT_REFERENCE")?, launch("candidate", "COMPAT_CANDIDATE")?, dir))
}

fn launch(name: &'static str, variable: &str) -> Result<Launch> {
    let text = std::env::var(variable).with_context(|| format!("{variable} is not set\n{USAGE}"))?;
    let command: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if command.is_empty() {
        bail!("{variable} is empty");
    }
    Ok(Launch { name, command })
}

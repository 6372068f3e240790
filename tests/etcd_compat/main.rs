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
mod server;
mod shrink;
mod side;
mod stories;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use goulette_proto::etcd as pb;

use crate::{
    generate::Generator,
    op::Op,
    pair::{Mix, Pair},
    server::Launch,
};

const USAGE: &str = "etcd_compat: differential SEEDS STEPS [FIRST SEED]
             etcdctl PROGRAM...
  COMPAT_REFERENCE   a real etcd
  COMPAT_CANDIDATE   the command that stands in its place, for example `bin/goulette etcd`
  COMPAT_DIR         where the servers keep their data (default: the temporary directory)
  SHRINK_SECONDS   how long a failing run is made shorter (default 120)";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["differential", seeds, steps] => differential(seeds, steps, "0").await,
        ["differential", seeds, steps, first] => differential(seeds, steps, first).await,
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
async fn differential(seeds: &str, steps: &str, first: &str) -> Result<bool> {
    let (seeds, steps, first): (u64, usize, u64) = (seeds.parse()?, steps.parse()?, first.parse()?);
    let (reference, candidate, dir) = surroundings()?;
    let patience = Duration::from_secs(std::env::var("SHRINK_SECONDS").map_or(Ok(120), |text| text.parse())?);

    let (mut mix, mut failed) = (Mix::default(), Vec::new());
    for seed in first..first + seeds {
        let begin = Instant::now();
        let mut pair = Pair::start(&reference, &candidate, &dir).await?;
        let mut generator = Generator::new(seed);
        let mut taken: Vec<Op> = Vec::new();
        let mut found = None;
        while found.is_none() && taken.len() < steps {
            let op = generator.next();
            let asked = Instant::now();
            found = pair.step(&op).await;
            if asked.elapsed() > Duration::from_secs(2) {
                println!("seed {seed}, step {}: {:.1} s for {op}", taken.len(), asked.elapsed().as_secs_f64());
            }
            taken.push(op);
        }
        if found.is_none() {
            found = pair.check_watchers().await;
        }
        let obituary = pair.obituary();
        let reference_obituary = found.as_ref().and_then(|_| pair.reference_obituary());
        mix.add(std::mem::take(&mut pair.mix));
        drop(pair);
        let elapsed = begin.elapsed().as_secs_f64();
        let Some(found) = found else {
            println!("seed {seed}: {} steps equal, {elapsed:.1} s", taken.len());
            continue;
        };
        if let Some(log) = reference_obituary {
            let reason = log.lines().find(|line| line.contains("panic")).unwrap_or("no reason given");
            println!(
                "seed {seed}: the reference fell over itself at step {}, equal so far: {}",
                taken.len(),
                &reason[..reason.len().min(300)]
            );
            continue;
        }
        println!(
            "seed {seed}: DIFFERENT at step {} ({elapsed:.1} s): {}",
            taken.len(),
            taken.last().map_or(String::new(), Op::to_string)
        );
        if let Some(log) = obituary {
            println!("the candidate is gone:\n{log}");
        }
        println!("  reference: {}\n  candidate: {}", short(&found.reference), short(&found.candidate));
        failed.push(seed);
        if patience.is_zero() {
            continue;
        }
        let (left, found) = shrink::shrink(taken, found, (&reference, &candidate), &dir, patience).await?;
        println!("--- {} steps are enough:", left.len());
        for op in &left {
            println!("{}", short(&op.to_string()));
        }
        println!("--- reference: {}\n--- candidate: {}\n", short(&found.reference), short(&found.candidate));
    }
    mix.print();
    println!("{} of {seeds} seeds equal; different: {failed:?}", seeds - failed.len() as u64);
    Ok(failed.is_empty())
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

/// Long values do not help to see a difference.
fn short(text: &str) -> String {
    let mut out = String::new();
    let mut run = 0;
    let mut before = '\0';
    for char in text.chars() {
        run = if char == before { run + 1 } else { 0 };
        before = char;
        if run < 12 {
            out.push(char);
        } else if run == 12 {
            out.push('…');
        }
    }
    if out.len() > 6000 {
        let cut = (0..=6000).rev().find(|&at| out.is_char_boundary(at)).unwrap_or_default();
        out.truncate(cut);
        out.push_str(" …");
    }
    out
}

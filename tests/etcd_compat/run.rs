//! Many seeded runs, several at once: a run waits for its servers most of the time.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    generate::Generator,
    op::Op,
    pair::{Divergence, Mix, Pair},
    server::Launch,
    shrink,
};

/// What all runs have in common.
pub(crate) struct Runs {
    pub(crate) reference: Launch,
    pub(crate) candidate: Launch,
    /// Where the servers keep their data.
    pub(crate) dir: PathBuf,
    /// Steps of one run.
    pub(crate) steps: usize,
    /// How long a run that failed is made shorter; zero: not at all.
    pub(crate) patience: Duration,
}

#[derive(Default)]
struct Tally {
    mix: Mix,
    equal: u64,
    /// Equal until a real etcd fell over itself; less than a whole run.
    cut_short: Vec<u64>,
    different: Vec<u64>,
}

enum Outcome {
    Equal,
    CutShort,
    Different,
}

/// Makes the runs `first..first + seeds`, `jobs` of them at once, and returns whether all were equal.
pub(crate) fn differential(runs: &Runs, first: u64, seeds: u64, jobs: u64) -> Result<bool> {
    let begin = Instant::now();
    let (next, tally) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    let work = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return Ok(());
            }
            let (outcome, mix) = runtime.block_on(runs.run(seed)).with_context(|| format!("seed {seed}"))?;
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.mix.add(mix);
            match outcome {
                Outcome::Equal => tally.equal += 1,
                Outcome::CutShort => tally.cut_short.push(seed),
                Outcome::Different => tally.different.push(seed),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.clamp(1, seeds.max(1))).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a run panicked"))?)
    })?;
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.mix.print();
    println!(
        "{} of {seeds} seeds ({first}..{}) equal over {} steps in {:.0} s; ended early by a real etcd's own fault: {:?}; different: {:?}",
        tally.equal,
        first + seeds,
        runs.steps,
        begin.elapsed().as_secs_f64(),
        tally.cut_short,
        tally.different
    );
    Ok(tally.different.is_empty())
}

impl Runs {
    async fn run(&self, seed: u64) -> Result<(Outcome, Mix)> {
        let begin = Instant::now();
        let mut pair = Pair::start(&self.reference, &self.candidate, &self.dir).await?;
        let mut generator = Generator::new(seed);
        let mut taken: Vec<Op> = Vec::new();
        let mut found = None;
        while found.is_none() && taken.len() < self.steps {
            let op = generator.next();
            let asked = Instant::now();
            found = pair.step(&op).await;
            if asked.elapsed() > Duration::from_secs(4) {
                println!(
                    "seed {seed}, step {}: {:.1} s for {}",
                    taken.len(),
                    asked.elapsed().as_secs_f64(),
                    short(&op.to_string())
                );
            }
            taken.push(op);
        }
        if found.is_none() {
            found = pair.check_watchers().await;
        }
        let obituary = pair.obituary();
        let reference_obituary = found.as_ref().and_then(|_| pair.reference_obituary());
        let mix = std::mem::take(&mut pair.mix);
        drop(pair);
        let elapsed = begin.elapsed().as_secs_f64();
        let Some(found) = found else {
            println!("seed {seed}: {} steps equal, {elapsed:.1} s", taken.len());
            return Ok((Outcome::Equal, mix));
        };
        if let Some(log) = reference_obituary {
            let tells = |line: &&str| line.contains("panic") || line.contains("\"fatal\"");
            let reason = log.lines().find(tells).unwrap_or("no reason given");
            println!(
                "seed {seed}: the reference fell over itself at step {}, equal so far: {}",
                taken.len(),
                short(reason)
            );
            return Ok((Outcome::CutShort, mix));
        }
        let last = taken.last().map_or(String::new(), Op::to_string);
        println!("seed {seed}: DIFFERENT at step {} ({elapsed:.1} s): {}\n{}", taken.len(), short(&last), told(&found));
        if let Some(log) = obituary {
            println!("the candidate is gone:\n{log}");
        }
        if !self.patience.is_zero() {
            let launches = (&self.reference, &self.candidate);
            let (left, found) = shrink::shrink(taken, found, launches, &self.dir, self.patience).await?;
            let steps: Vec<String> = left.iter().map(|op| short(&op.to_string())).collect();
            println!("--- seed {seed}: {} steps are enough:\n{}\n{}\n", left.len(), steps.join("\n"), told(&found));
        }
        Ok((Outcome::Different, mix))
    }
}

fn told(found: &Divergence) -> String {
    format!("  reference: {}\n  candidate: {}", short(&found.reference), short(&found.candidate))
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

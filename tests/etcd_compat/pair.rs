//! Runs the same steps on both servers, and finds the first that they answer differently.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;

use crate::{
    op::{Call, Op},
    server::{Launch, Server},
    side::{STREAM_OF_FUTURE, STREAMS, Side},
};

pub(crate) struct Pair {
    reference: Side,
    candidate: Side,
    pub(crate) mix: Mix,
}

/// How often each kind of step was taken, and how often the answer was an error.
#[derive(Default)]
pub(crate) struct Mix {
    pub(crate) steps: BTreeMap<String, (u64, u64)>,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// What the two sides said where they first differed.
pub(crate) struct Divergence {
    pub(crate) reference: String,
    pub(crate) candidate: String,
}

impl Pair {
    pub(crate) async fn start(reference: &Launch, candidate: &Launch, dir: &Path) -> Result<Self> {
        let (left, right) = (Server::start(reference, dir)?, Server::start(candidate, dir)?);
        Ok(Self { reference: Side::new(left).await?, candidate: Side::new(right).await?, mix: Mix::default() })
    }

    /// Takes one step on both sides.
    pub(crate) async fn step(&mut self, op: &Op) -> Option<Divergence> {
        let current = self.reference.revision;
        let resolved = op.resolved(current);
        // What a watcher in arrears still gets to see depends on when the history behind it goes.
        if matches!(op.call, Call::Compact(_) | Call::WatchCheck | Call::WatchOpen(_) | Call::WatchCancel(..))
            && let Some(divergence) = self.check_watchers().await
        {
            return Some(divergence);
        }
        let (reference, candidate) = tokio::join!(self.reference.execute(&resolved), self.candidate.execute(&resolved));
        self.count(op, &reference);
        // Two servers that fell over together are not equal.
        let gone =
            reference.starts_with("Error: Un") && (self.reference_obituary().is_some() || self.obituary().is_some());
        if reference != candidate || gone {
            return Some(Divergence { reference, candidate });
        }
        if matches!(op.call, Call::WatchCreate(..)) {
            return self.check_watchers().await;
        }
        None
    }

    /// Compares what the watchers were told since the last time.
    pub(crate) async fn check_watchers(&mut self) -> Option<Divergence> {
        let revision = self.reference.revision;
        // A watcher that waits for the future holds progress back; its stream has none that lags.
        let settled = (0..STREAMS).filter(|&stream| stream != STREAM_OF_FUTURE).map(async |stream| {
            let (reference, candidate) = (self.reference.stream(stream), self.candidate.stream(stream));
            (stream, tokio::join!(reference.settle(revision), candidate.settle(revision)))
        });
        for (stream, (reference, candidate)) in futures_util::future::join_all(settled).await {
            if reference != candidate {
                return Some(Divergence {
                    reference: format!("progress of stream {stream} to {revision}: {reference}"),
                    candidate: format!("progress of stream {stream} to {revision}: {candidate}"),
                });
            }
        }
        for stream in 0..STREAMS {
            let (reference, candidate) = (self.reference.stream(stream), self.candidate.stream(stream));
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
            while reference.told() != candidate.told() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            let (told, other) = (reference.told(), candidate.told());
            if told != other {
                let same = |id: &i64| told.get(id) == other.get(id);
                let show = |told: &BTreeMap<i64, Vec<String>>| {
                    let lines =
                        told.iter().filter(|(id, _)| !same(id)).map(|(id, lines)| format!("watcher {id}: {lines:#?}"));
                    format!("stream {stream} at {revision}: {}", lines.collect::<Vec<_>>().join("\n"))
                };
                return Some(Divergence { reference: show(&told), candidate: show(&other) });
            }
            reference.forget();
            candidate.forget();
        }
        None
    }

    /// What the candidate printed, if it is gone.
    pub(crate) fn obituary(&mut self) -> Option<String> {
        (!self.candidate.server.is_running()).then(|| self.candidate.server.log())
    }

    /// Real etcds have bugs too, and can be brought down.
    pub(crate) fn reference_obituary(&mut self) -> Option<String> {
        (!self.reference.server.is_running()).then(|| self.reference.server.log())
    }

    fn count(&mut self, op: &Op, answer: &str) {
        let (steps, errors) = self.mix.steps.entry(op.name()).or_default();
        *steps += 1;
        if answer.starts_with("Error") {
            *errors += 1;
            *self.mix.errors.entry(answer.to_owned()).or_default() += 1;
        }
    }
}

impl Mix {
    pub(crate) fn add(&mut self, other: Mix) {
        for (name, (steps, errors)) in other.steps {
            let sum = self.steps.entry(name).or_default();
            *sum = (sum.0 + steps, sum.1 + errors);
        }
        for (text, count) in other.errors {
            *self.errors.entry(text).or_default() += count;
        }
    }

    pub(crate) fn print(&self) {
        let (all, wrong) = self.steps.values().fold((0, 0), |sum, (steps, errors)| (sum.0 + steps, sum.1 + errors));
        println!("{all} steps, {:.1} % of them answered by an error", 100.0 * wrong as f64 / all.max(1) as f64);
        for (name, (steps, errors)) in &self.steps {
            println!("  {name:<22} {steps:>8}  errors {errors:>7}");
        }
        for (text, count) in &self.errors {
            println!("  {count:>7} × {text}");
        }
    }
}

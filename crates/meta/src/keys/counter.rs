//! `/goulette/increment/<name>`: numbers that only rise.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub(super) const FOLDER: &str = "increment";

/// A counter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Numbers the operation log.
    Operation,
    /// Numbers idempotent producers.
    Producer,
}

impl Counter {
    fn name(self) -> &'static str {
        match self {
            Counter::Operation => "operation",
            Counter::Producer => "producer_id",
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Counter {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Counter::Operation, Counter::Producer]
            .into_iter()
            .find(|counter| counter.name() == name)
            .ok_or_else(|| format!("unknown counter {name:?}"))
    }
}

/// A counter's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// The number to be given next.
    pub next: u64,
}

impl Default for CounterRecord {
    /// The first number given is 1, so that 0 can stand for none.
    fn default() -> Self {
        Self { next: 1 }
    }
}

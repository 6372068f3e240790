//! How much must have happened before a produce request is answered.

use std::{fmt, str::FromStr};

/// The level of safety that a producer asks for, and that an ack reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Acks {
    /// Answered once the broker has taken the batch into memory; lost if the broker dies.
    None,
    /// Durable on the leader (as its sync policy defines it).
    Leader,
    /// Durable on every in-sync replica: *committed*. The default.
    #[default]
    All,
}

impl FromStr for Acks {
    type Err = String;

    /// Parses `none`, `leader` or `all`; Kafka's `0`, `1` and `-1` mean the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" | "0" => Ok(Acks::None),
            "leader" | "1" => Ok(Acks::Leader),
            "all" | "-1" => Ok(Acks::All),
            other => Err(format!("acks {other:?} is none of none, leader, all")),
        }
    }
}

impl fmt::Display for Acks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Acks::None => "none",
            Acks::Leader => "leader",
            Acks::All => "all",
        })
    }
}

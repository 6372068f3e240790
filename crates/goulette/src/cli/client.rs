//! Flags of `goulette client`.

use std::{ffi::OsString, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use goulette_client::Compression;
use goulette_types::{Acks, GroupName, NameError, Offset, Timestamp, TopicName};

use super::{ConfigFlag, HostPort, LoggingFlags};
use crate::output::Output;

#[derive(Args, Debug)]
pub(crate) struct ClientFlags {
    /// What to be; required
    #[arg(long)]
    pub(crate) mode: Mode,

    /// Sentinels, comma-separated
    #[arg(long, value_name = "HOST:PORT,..", default_value = "127.0.0.1:50052", value_delimiter = ',')]
    pub(crate) sentinel: Vec<HostPort>,

    /// Topic, 1 to 249 of A-Z a-z 0-9 . _ -
    #[arg(long, default_value = "test")]
    pub(crate) topic: TopicName,

    /// Sliding window: records that were sent and not yet acknowledged, or delivered and not yet printed
    #[arg(long, value_name = "RECORDS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,

    #[command(flatten)]
    pub(crate) producer: ProducerFlags,

    #[command(flatten)]
    pub(crate) consumer: ConsumerFlags,

    #[command(flatten)]
    pub(crate) config: ConfigFlag,

    #[command(flatten)]
    pub(crate) logging: LoggingFlags,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Producer")]
pub(crate) struct ProducerFlags {
    /// Send this one message [default: the lines of standard input, when it is not a terminal]
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub(crate) message: Option<OsString>,

    /// Send each line of this file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// When a message counts as acknowledged: all (every in-sync replica has it on disk), leader (the leader has it on disk), none
    #[arg(long, default_value = "all")]
    pub(crate) acks: Acks,

    /// Compression of batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,

    /// How long a message is tried to be delivered, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) delivery_timeout: u64,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Consumer")]
pub(crate) struct ConsumerFlags {
    /// Group whose position is resumed and kept; an empty one keeps none
    #[arg(long, default_value = "default")]
    pub(crate) group: GroupChoice,

    /// Where to begin: beginning, end, an offset, or an RFC 3339 time [default: the group's position, else the beginning]
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: Option<Place>,

    /// Stop after this many messages [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,

    /// Stop at the end that the topic has now [default: false]
    #[arg(long, value_name = "BOOL", default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub(crate) until_end: bool,

    /// What to print before each value, comma-separated, with a tab behind each [default: nothing]
    #[arg(long, value_name = "FIELD,..", value_delimiter = ',')]
    pub(crate) print: Vec<PrintField>,

    /// How to print: the bytes of the value, or a JSON object per message with all fields
    #[arg(long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Send messages
    Producer,
    /// Print messages
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrintField {
    /// The key
    Key,
    /// The place in the partition
    Offset,
    /// RFC 3339, UTC, milliseconds
    Timestamp,
    /// name=value, comma-separated
    Headers,
    /// The partition
    Partition,
}

/// A group, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupChoice(pub(crate) Option<GroupName>);

impl FromStr for GroupChoice {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|group| Self(Some(group))) }
    }
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Beginning,
    End,
    Offset(Offset),
    Time(Timestamp),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let offset = || text.parse().ok().filter(|&offset| offset <= Offset::MAX.0).map(|at| Self::Offset(Offset(at)));
        let time = || text.parse().ok().map(|at: jiff::Timestamp| Self::Time(Timestamp(at.as_millisecond())));
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            _ => offset().or_else(time).ok_or_else(|| {
                format!("{text:?} is none of beginning, end, an offset, and a time as in 2026-11-23T18:47:59Z")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_in_four_ways() {
        assert_eq!("beginning".parse(), Ok(Place::Beginning));
        assert_eq!("end".parse(), Ok(Place::End));
        assert_eq!("17".parse(), Ok(Place::Offset(Offset(17))));
        assert_eq!("1970-01-01T01:00:00.25+01:00".parse(), Ok(Place::Time(Timestamp(250))));
        for text in ["", "-1", "yesterday", "2026-11-23", "18446744073709551615"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}

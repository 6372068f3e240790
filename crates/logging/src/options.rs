//! What the binary decides about logging.

use std::{path::PathBuf, str::FromStr};

use crate::Level;

/// How and where to log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lowest level that is logged; [`Level::Info`] by default.
    pub level: Level,
    /// The log file; its folder is made if it is missing. None, the default: the console (stderr).
    pub path: Option<PathBuf>,
    /// What a line looks like; [`Format::Text`] by default.
    pub format: Format,
    /// A file that would grow beyond this many bytes is rotated first: `x.log` becomes `x.log.1`, that `x.log.2`, and
    /// so on. 64 MiB by default; 0: never.
    pub rotate_bytes: u64,
    /// Rotated files that are kept beside the current one; 4 by default.
    pub rotate_files: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: Level::Info, path: None, format: Format::Text, rotate_bytes: 64 << 20, rotate_files: 4 }
    }
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-23T18:47:59.123Z INFO  goulette_broker: message key=value`; the time is UTC. The default.
    #[default]
    Text,
    /// An object with `time`, `level`, `target`, `message` and, if there are any, `fields`.
    Json,
}

impl FromStr for Format {
    type Err = String;

    /// Parses `text` or `json`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(format!("log format {other:?} is neither text nor json")),
        }
    }
}

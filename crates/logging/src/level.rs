//! How bad a line is, and from where on lines are wanted.

use std::{fmt, str::FromStr};

/// The severity of a line; as a setting, the lowest severity that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For whoever looks for a defect.
    Debug,
    /// Changes of state that an operator wants to find afterwards. The default.
    #[default]
    Info,
    /// Somebody may have to act.
    Warn,
    /// Something failed.
    Error,
    /// The process ends because of it.
    Fatal,
}

impl Level {
    /// Every level, from the most talkative on.
    pub const ALL: [Level; 5] = [Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Fatal];

    /// The name in upper case, as it stands in a line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Fatal => "FATAL",
        }
    }
}

/// Why a text is not a level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log level {text:?} is none of debug, info, warn, error, fatal")]
pub struct ParseLevelError {
    text: String,
}

impl FromStr for Level {
    type Err = ParseLevelError;

    /// Parses a level's name in either case.
    fn from_str(text: &str) -> Result<Self, ParseLevelError> {
        let named = Level::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(text));
        named.ok_or_else(|| ParseLevelError { text: text.chars().take(64).collect() })
    }
}

impl fmt::Display for Level {
    /// Prints the name in lower case, as flags and RPCs take it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.name().to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_reads_back_what_it_prints() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert!("warning".parse::<Level>().is_err());
    }
}

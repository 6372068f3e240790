//! Where a process logs, from which level on, and in which form.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use goulette_logging::{Format, Level, Options};

use crate::exit::Failure;

/// The flags about logging, the same for all roles.
#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LoggingFlags {
    /// Lowest level that is logged: debug, info, warn, error or fatal; or @FILE, a file that holds one of them and is read again at SIGHUP
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LevelSetting,

    /// Folder of the log files, made if it is missing; - logs to standard error instead
    #[arg(long, value_name = "FOLDER", default_value = "logs")]
    log_dir: PathBuf,

    /// Form of a log line: text or json
    #[arg(long, value_name = "FORM", default_value = "text")]
    log_format: Format,

    /// Size at which a log file is set aside and a new one begun, in bytes; 0: never
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().rotate_bytes)]
    log_rotate_bytes: u64,

    /// Log files that are kept besides the current one
    #[arg(long, value_name = "N", default_value_t = Options::default().rotate_files, value_parser = clap::value_parser!(u32).range(0..=1000))]
    log_rotate_files: u32,
}

impl LoggingFlags {
    /// Starts logging, to `name` in the folder for logs.
    pub(crate) fn init(&self, name: &str) -> Result<(), Failure> {
        goulette_logging::init_with(Options {
            level: self.log_level.read().map_err(Failure::usage)?,
            path: self.path(name),
            format: self.log_format,
            rotate_bytes: self.log_rotate_bytes,
            rotate_files: self.log_rotate_files,
        })
        .map_err(Failure::failed)
    }

    /// The log file `name`; none if the log goes to standard error.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        (self.log_dir != Path::new("-")).then(|| self.log_dir.join(name))
    }
}

/// A level, or the file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LevelSetting {
    Fixed(Level),
    File(PathBuf),
}

impl LevelSetting {
    /// The level, as it is now.
    #[allow(clippy::disallowed_methods, reason = "a setting of this process, like its flags")]
    pub(crate) fn read(&self) -> Result<Level, String> {
        match self {
            Self::Fixed(level) => Ok(*level),
            Self::File(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| format!("cannot read the log level from {}: {error}", path.display()))?;
                text.trim().parse().map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }
}

impl FromStr for LevelSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Self::File(path.into())),
            None => text.parse().map(Self::Fixed).map_err(|error: goulette_logging::ParseLevelError| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_comes_from_the_flag_or_from_a_file() {
        assert_eq!("warn".parse(), Ok(LevelSetting::Fixed(Level::Warn)));
        assert!("loud".parse::<LevelSetting>().is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let setting: LevelSetting = format!("@{}", file.path().display()).parse().unwrap();
        assert!(setting.read().is_err(), "an empty file names no level");
        std::io::Write::write_all(&mut file.as_file(), b"debug\n").unwrap();
        assert_eq!(setting.read(), Ok(Level::Debug));
    }
}

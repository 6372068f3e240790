//! The logging system: five levels, a file or the console, rotation by size, a level that changes while running.
//!
//! Every process calls [`init`] (or [`init_with`], which takes all [`Options`]) once at its start and [`close`] at its
//! end; every crate logs through the macros [`debug!`], [`info!`], [`warn!`], [`error!`], [`error_with!`] and
//! [`fatal!`], which take a format string and, before it, fields: `info!(partition = 3, "leads {topic}")`.
//! The macros are those of `tracing`, so lines of libraries that speak `tracing` arrive here too (from WARN on).
//!
//! A line is formatted by the thread that logs it and handed to the kernel in one write under a mutex, before the
//! macro returns. So lines never interleave, and none waits in a buffer: neither a panic nor `kill -9` loses one.
//! A line below the level costs one load of an atomic.
//!
//! This crate knows nothing of queues, flags or signals: the binary decides where the log goes and when it is reopened.
//! Start with [`Options`], then the private modules `layer` (which lines), `line` (how they look) and `sink` (where to).

mod chain;
mod layer;
mod level;
mod line;
mod options;
mod sink;

use std::path::PathBuf;

pub use chain::Chain;
pub use level::{Level, ParseLevelError};
pub use options::{Format, Options};
pub use tracing::{debug, enabled, error, info, warn};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Another `tracing` subscriber serves this process already; it gets the lines.
    #[error("this process already logs through another subscriber")]
    Taken,
}

/// Starts logging at `level`, to the file `path` or, without one, to the console (stderr); the rest as in
/// [`Options::default`].
///
/// # Errors
/// See [`init_with`].
pub fn init(level: Level, path: Option<PathBuf>) -> Result<(), InitError> {
    init_with(Options { level, path, ..Options::default() })
}

/// Starts logging. Called again, it replaces level, format and destination.
///
/// A log file that cannot be opened is no error: one warning says so on stderr, and the log goes there until
/// [`reopen`] finds the file writable.
///
/// # Errors
/// [`InitError::Taken`] if the process has given itself another `tracing` subscriber.
pub fn init_with(options: Options) -> Result<(), InitError> {
    layer::install()?;
    sink::set(&options);
    layer::set_level(Some(options.level));
    Ok(())
}

/// Changes the level of the running process; returns the one before. No effect before [`init`] or after [`close`].
pub fn set_level(level: Level) -> Option<Level> {
    let previous = layer::level();
    if previous.is_some() {
        layer::set_level(Some(level));
    }
    previous
}

/// The level in force; none before [`init`] and after [`close`].
pub fn level() -> Option<Level> {
    layer::level()
}

/// Opens the log file anew by its name, after something outside (logrotate) has renamed it.
///
/// If that fails, one warning goes to stderr and the old file stays in use.
pub fn reopen() {
    sink::with(|sink| sink.reopen());
}

/// Ends logging: every line logged before is in the file, and the file is synced. Later lines go nowhere.
pub fn close() {
    layer::set_level(None);
    sink::with(|sink| sink.close());
}

/// Gives a last word somewhere to go if logging has not begun or has ended: the beginning of [`fatal!`].
#[doc(hidden)]
pub fn ensure_begun() {
    if level().is_none() {
        // Only another subscriber can be in the way, and then that one gets the line.
        let _ = init(Level::Fatal, None);
    }
}

/// Syncs the log and exits with code 1: the end of [`fatal!`].
#[doc(hidden)]
pub fn exit_fatally() -> ! {
    // The lock is held until the process is gone, so that no other thread's line is cut in half.
    sink::with(|sink| {
        sink.sync();
        std::process::exit(1)
    })
}

/// Logs at FATAL, syncs the log, and exits the process with code 1. Outside of [`init`] and [`close`] the line goes to
/// the console.
///
/// For a process that must not go on; a library returns an error instead.
#[macro_export]
macro_rules! fatal {
    ($($arg:tt)+) => {{
        $crate::ensure_begun();
        $crate::error!(fatal = true, $($arg)+);
        $crate::exit_fatally()
    }};
}

/// Logs a message at ERROR with the error that caused it and all the causes behind that one.
///
/// `error_with!(&err, "could not open {path}")` prints `could not open x error="cannot lock: held by pid 7"`.
#[macro_export]
macro_rules! error_with {
    ($error:expr, $($arg:tt)+) => {
        $crate::error!(error = %$crate::Chain($error), $($arg)+)
    };
}

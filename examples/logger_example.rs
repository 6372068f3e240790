//! Every feature of the logging system, one after the other. Run it from the root: `cargo run --example logger_example`.
//!
//! It logs to the console first, then to `logs/example.log` (rotated at 4 KiB, so that a few hundred lines show it),
//! and ends through `fatal!`: exit code 1 is what it is meant to return.

use std::{error::Error, path::PathBuf, thread};

use goulette_logging::{
    Format, Level, Options, close, debug, error, error_with, fatal, info, init, init_with, set_level, warn,
};

#[derive(Debug, thiserror::Error)]
#[error("cannot open the ledger")]
struct LedgerError {
    source: std::io::Error,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("--- the console, from DEBUG on");
    init(Level::Debug, None)?;
    debug!("for whoever looks for a defect");
    info!("{} has logged in", "Zhang San");
    warn!(free_bytes = 4096, path = "/var/lib/my data", "the disk is nearly full");
    error!("processing failed: {}", std::io::Error::other("out of paper"));

    println!("--- an error with all its causes");
    let error = LedgerError { source: std::io::ErrorKind::PermissionDenied.into() };
    error_with!(&error, attempt = 3, "the day cannot be closed");

    println!("--- the level, changed while running: only WARN and above");
    let previous = set_level("warn".parse()?);
    info!("nobody sees this");
    warn!(?previous, "everybody sees this");

    println!("--- JSON, for programs");
    init_with(Options { format: Format::Json, ..Options::default() })?;
    info!(partition = 3, leader = "broker1", "leads");

    let path = PathBuf::from("logs/example.log");
    println!("--- {}: 4 threads x 50 lines, rotated at 4 KiB, 3 old files kept", path.display());
    init_with(Options { path: Some(path.clone()), rotate_bytes: 4096, rotate_files: 3, ..Options::default() })?;
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || (0..50).for_each(|line| info!(worker, line, "no line is torn by another")));
        }
    });
    close();
    println!("closed: every line is in the files, and later ones go nowhere");
    info!("nobody sees this either");

    println!("--- fatal: one more line in {}, and exit code 1", path.display());
    init(Level::Info, Some(path))?;
    fatal!(reason = "the example is over", "cannot go on");
}

//! What the child processes do; each runs alone, in a folder of its own.

use std::{fs, io, path::PathBuf, process, thread};

use goulette_logging::{
    Format, Level, Options, close, debug, error, error_with, fatal, info, init, init_with, level, reopen, set_level,
    warn,
};

pub(crate) const THREADS: usize = 16;
pub(crate) const LINES: usize = 20_000;
pub(crate) const ROTATE_BYTES: u64 = 1 << 20;

fn rotating(path: &str, rotate_bytes: u64, rotate_files: u32) -> Options {
    Options { path: Some(PathBuf::from(path)), rotate_bytes, rotate_files, ..Options::default() }
}

#[test]
#[ignore = "a child process"]
fn many_threads_log_across_rotations() {
    init_with(rotating("logs/x.log", ROTATE_BYTES, 1000)).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in 0..LINES {
                    info!(thread, number, "a line of {} length", "some");
                }
            });
        }
    });
    close();
    info!("a line after the end");
}

#[test]
#[ignore = "a child process"]
fn one_thread_rotates_often() {
    init_with(rotating("x.log", 2000, 2)).unwrap();
    (0..1000).for_each(|number| info!(number, "x"));
    close();
}

#[test]
#[ignore = "a child process"]
fn one_of_many_processes() {
    init_with(rotating("x.log", 5_000, 1000)).unwrap();
    (0..5_000).for_each(|number| info!(number, "x"));
    close();
}

#[test]
#[ignore = "a child process"]
fn dies() {
    init(Level::Info, Some("x.log".into())).unwrap();
    info!("alive");
    set_level(Level::Fatal);
    error!("below FATAL");
    fatal!(tray = 2, "cannot go on: {}", "no paper");
}

#[test]
#[ignore = "a child process"]
fn dies_unheard() {
    fatal!("last words");
}

#[test]
#[ignore = "a child process"]
fn aborts_after_logging() {
    init(Level::Info, Some("x.log".into())).unwrap();
    (0..100).for_each(|number| info!(number, "x"));
    process::abort();
}

#[test]
#[ignore = "a child process"]
fn changes_its_level() {
    assert_eq!(set_level(Level::Debug), None, "not begun");
    init(Level::Info, None).unwrap();
    let talk = |message: &str| {
        debug!("{message}");
    };
    talk("unseen");
    info!("seen1");
    assert_eq!(set_level(Level::Debug), Some(Level::Info));
    talk("seen2");
    assert_eq!(set_level(Level::Error), Some(Level::Debug));
    talk("unseen");
    warn!("unseen");
    error!("seen3");
    init(Level::Debug, None).unwrap();
    tracing::debug!(target: "h2::codec", "unseen");
    tracing::warn!(target: "h2::codec", "seen4");
    close();
    assert_eq!(level(), None);
    error!("unseen");
}

#[test]
#[ignore = "a child process"]
fn logs_into_a_folder_that_cannot_be() {
    fs::write("blocked", "a file where the folder should be").unwrap();
    init(Level::Info, Some("blocked/x.log".into())).unwrap();
    info!("one");
    info!("two");
    reopen();
    info!("three");
    fs::remove_file("blocked").unwrap();
    reopen();
    info!("four");
    close();
}

#[test]
#[ignore = "a child process"]
fn logs_onto_a_full_disk() {
    init(Level::Info, Some("/dev/full".into())).unwrap();
    info!("one");
    info!("two");
    close();
}

#[test]
#[ignore = "a child process"]
fn is_rotated_from_outside() {
    init(Level::Info, Some("x.log".into())).unwrap();
    info!("before");
    fs::rename("x.log", "x.log.old").unwrap();
    reopen();
    info!("after");
    close();
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] io::Error);

#[test]
#[ignore = "a child process"]
fn logs_odd_values() {
    init(Level::Info, None).unwrap();
    let error = Outer(io::Error::other("inner"));
    warn!(plain = "x", spaced = %"a b", debug = ?"q", empty = "", number = -3, error = %goulette_logging::Chain(&error), "two\nlines");
    error_with!(&error, "the macro's form");
}

#[test]
#[ignore = "a child process"]
fn logs_json() {
    init_with(Options { format: Format::Json, ..Options::default() }).unwrap();
    info!(level = 3, ok = true, topic = "a b", "two\nlines");
}

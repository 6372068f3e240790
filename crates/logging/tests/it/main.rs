//! The logger is one per process, so each fact is shown by a child process: this test binary, run again with the name
//! of one ignored test, which does the logging; the test proper looks at what is left behind.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests, on the real disk")]

mod children;

use std::{
    collections::HashSet,
    env, fs,
    path::Path,
    process::{Command, Output},
};

use children::{LINES, THREADS};

/// Runs the child `name` in `folder`.
fn run(name: &str, folder: &Path) -> Output {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "--nocapture", &format!("children::{name}")]);
    child.current_dir(folder).output().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the child logged to its stderr.
fn logged(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    stderr.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn every_line_of_many_threads_is_whole_and_there_once_across_rotations() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("many_threads_log_across_rotations", folder.path());
    assert!(output.status.success(), "{output:?}");

    let mut files = 0;
    let mut seen = HashSet::new();
    for entry in fs::read_dir(folder.path().join("logs")).unwrap() {
        let path = entry.unwrap().path();
        assert!(fs::metadata(&path).unwrap().len() <= children::ROTATE_BYTES, "{path:?} is within the limit");
        files += 1;
        for line in read(&path).lines() {
            let (head, tail) = line.split_once(" INFO  it::children: a line of some length ").expect(line);
            assert!(head.ends_with('Z') && head.len() == 24, "{line}");
            let (thread, number) = tail.strip_prefix("thread=").and_then(|t| t.split_once(" number=")).expect(line);
            assert!(seen.insert((thread.parse::<usize>().unwrap(), number.parse::<usize>().unwrap())), "{line}");
        }
    }
    assert!(files > 10, "it rotated");
    assert_eq!(seen.len(), THREADS * LINES);
}

#[test]
fn old_files_beyond_the_wanted_number_go() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run("one_thread_rotates_often", folder.path()).status.success());
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["x.log", "x.log.1", "x.log.2"]);
    // Numbers go from the newest to the oldest, without a gap between the files.
    let all = ["x.log.2", "x.log.1", "x.log"].map(|name| read(folder.path().join(name))).concat();
    let numbers: Vec<u32> = all.lines().map(|line| line.rsplit_once('=').unwrap().1.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&999));
}

#[test]
fn processes_share_a_file_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(run("one_of_many_processes", folder.path()).status.success()));
        }
    });
    let lines: usize =
        fs::read_dir(folder.path()).unwrap().map(|entry| read(entry.unwrap().path()).lines().count()).sum();
    assert_eq!(lines, 4 * 5_000);
}

#[test]
fn fatal_exits_with_1_and_its_line_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("dies", folder.path());
    assert_eq!(output.status.code(), Some(1));
    let text = read(folder.path().join("x.log"));
    assert!(text.ends_with(" FATAL it::children: cannot go on: no paper tray=2\n"), "{text}");
    assert_eq!(text.lines().count(), 2, "an ERROR is below FATAL: {text}");
}

#[test]
fn fatal_without_logging_speaks_to_the_console() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("dies_unheard", folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(logged(&output).last().unwrap().ends_with("FATAL it::children: last words"), "{output:?}");
}

#[test]
fn a_panic_loses_no_line() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!run("aborts_after_logging", folder.path()).status.success());
    assert_eq!(read(folder.path().join("x.log")).lines().count(), 100);
}

#[test]
fn the_level_changes_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("changes_its_level", folder.path());
    assert!(output.status.success(), "{output:?}");
    let messages: Vec<_> = logged(&output).iter().map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(messages, ["seen1", "seen2", "seen3", "seen4"]);
}

#[test]
fn an_unwritable_folder_costs_one_warning_and_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("logs_into_a_folder_that_cannot_be", folder.path());
    assert!(output.status.success(), "{output:?}");
    let lines = logged(&output);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("warning: the log file blocked/x.log cannot be opened, the log goes to stderr: "));
    assert!(lines[1].ends_with(" one") && lines[2].ends_with(" two") && lines[3].ends_with(" three"));
    assert!(read(folder.path().join("blocked/x.log")).ends_with(" four\n"), "a reopening finds the mended folder");
}

#[test]
fn a_full_disk_costs_one_warning_and_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("logs_onto_a_full_disk", folder.path());
    assert!(output.status.success(), "{output:?}");
    let lines = logged(&output);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("warning: the log file /dev/full cannot be written, the log goes to stderr: "));
}

#[test]
fn reopening_follows_a_file_that_was_renamed() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run("is_rotated_from_outside", folder.path()).status.success());
    assert!(read(folder.path().join("x.log.old")).ends_with(" before\n"));
    assert!(read(folder.path().join("x.log")).ends_with(" after\n"));
}

#[test]
fn text_lines_quote_what_would_mislead() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("logs_odd_values", folder.path());
    let line = &logged(&output)[0];
    let (_, rest) = line.split_once(' ').unwrap();
    assert_eq!(
        rest,
        r#"WARN  it::children: two\nlines plain=x spaced="a b" debug="q" empty="" number=-3 error="outer: inner""#
    );
}

#[test]
fn json_lines_keep_types_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("logs_json", folder.path());
    let line: serde_json::Value = serde_json::from_str(&logged(&output)[0]).unwrap();
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["target"], "it::children");
    assert_eq!(line["message"], "two\nlines");
    assert_eq!(line["fields"], serde_json::json!({"level": 3, "ok": true, "topic": "a b"}));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
}

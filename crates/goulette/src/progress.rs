//! Progress, for people: on stderr, and only if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Of so many records.
pub(crate) fn of_records(total: u64) -> ProgressBar {
    with_template(ProgressBar::new(total), "{bar:40} {human_pos} of {human_len} records  {per_sec}  {eta} left")
}

/// Of so many bytes.
pub(crate) fn of_bytes(total: u64) -> ProgressBar {
    with_template(ProgressBar::new(total), "{bar:40} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left")
}

/// Of nobody knows how many records.
pub(crate) fn open_ended() -> ProgressBar {
    with_template(ProgressBar::no_length(), "{spinner} {human_pos} records  {per_sec}  {elapsed}")
}

fn with_template(bar: ProgressBar, template: &str) -> ProgressBar {
    // indicatif draws to stderr, and hides itself where that is no terminal.
    bar.set_style(ProgressStyle::with_template(template).expect("the templates of this file are valid"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

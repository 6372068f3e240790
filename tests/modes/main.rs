//! The integration suite: the same cases in all three modes, and some that only one mode can have. See `README.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the outside uses the outside")]

#[allow(dead_code, reason = "another test program needs the rest")]
#[path = "../blackbox/cluster.rs"]
mod cluster;

mod brokers;
mod discovery;
mod election;
mod etcd;
mod half_way;
mod membership;
mod metadata;
mod mode;
mod records;
mod sentinels;
mod topics;
mod users;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use mode::Mode;

type Case = (&'static str, fn(&Mode));

/// In every mode.
const CASES: &[Case] = &[
    ("produce_then_consume", records::produce_then_consume),
    ("topics", topics::topics),
    ("auto_creation", topics::auto_creation),
    ("operations", metadata::operations),
    ("sentinel_killed", metadata::sentinel_killed),
    ("sentinel_stopped_while_producing", records::sentinel_stopped_while_producing),
    ("broker_restarted", brokers::broker_restarted),
    ("owner_killed", brokers::owner_killed),
    ("broker_paused", brokers::broker_paused),
    ("sentinel_asleep", metadata::sentinel_asleep),
    ("one_sentinel_id_twice", metadata::one_sentinel_id_twice),
    ("one_id_twice", brokers::one_id_twice),
    ("false_alarm", discovery::false_alarm),
    ("broker_added", brokers::broker_added),
    ("racks_and_weights", brokers::racks_and_weights),
    ("many_creators", topics::many_creators),
    ("export_and_import", metadata::export_and_import),
    ("older_metadata", metadata::older_metadata),
    ("adopted", metadata::adopted),
    ("foreign_cluster", brokers::foreign_cluster),
];

/// In embedded mode.
const EMBEDDED: &[Case] = &[
    ("leader_killed_again_and_again", election::leader_killed_again_and_again),
    ("leader_asleep", election::leader_asleep),
    ("answers_are_fresh", election::answers_are_fresh),
    ("joins_and_leaves", membership::joins_and_leaves),
    ("foreign_values", metadata::foreign_values),
];

/// With an external etcd.
const EXTERNAL: &[Case] = &[
    ("leader_asleep", election::leader_asleep),
    ("answers_are_fresh", election::answers_are_fresh),
    ("leader_killed_half_way", half_way::leader_killed_half_way),
    ("etcd_away", etcd::etcd_away),
    ("etcd_full", etcd::etcd_full),
    ("etcd_absent_at_the_start", etcd::etcd_absent_at_the_start),
    ("wrong_password", users::wrong_password),
    ("tls_and_users", users::tls_and_users),
    ("foreign_values", metadata::foreign_values),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (modes, missing) = mode::modes();
    let (mut ran, mut failed) = (0, Vec::new());
    for mode in &modes {
        let more = match mode {
            Mode::Folder => &[][..],
            Mode::Embedded => EMBEDDED,
            Mode::External(_) => EXTERNAL,
        };
        for (name, case) in CASES.iter().chain(more) {
            if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
                continue;
            }
            let began = Instant::now();
            let passed = catch_unwind(AssertUnwindSafe(|| case(mode))).is_ok();
            ran += 1;
            let word = if passed { "ok" } else { "FAILED" };
            println!("{mode} {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
            if !passed {
                failed.push(format!("{mode} {name}"));
            }
        }
    }
    println!("{ran} cases in {} modes, {} failed: {failed:?}", modes.len(), failed.len());
    match (failed.is_empty() && ran > 0, missing) {
        (false, _) => ExitCode::FAILURE,
        (true, Some(why)) => {
            println!("{why}");
            ExitCode::from(77)
        }
        (true, None) => ExitCode::SUCCESS,
    }
}

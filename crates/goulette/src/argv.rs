//! The command line as Go programs take it, rewritten for clap: `-flag v`, `-flag=v`, `--flag v` and `--flag=v` alike,
//! and a binary that is called `broker`, `sentinel`, `client` or `etcd` acts as that subcommand.

use std::{ffi::OsString, os::unix::ffi::OsStrExt, path::Path};

use clap::{Arg, Command};

/// The names under which the binary is also installed.
const ROLES: [&str; 4] = ["broker", "sentinel", "client", "etcd"];

/// Rewrites `argv` (with the program's name) for `command`.
///
/// A flag that takes a value always comes out as `--flag=value`, so that the value may begin with a dash, as in Go.
/// Unknown flags are rewritten too: clap then names them in full.
pub(crate) fn normalise(argv: impl IntoIterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let mut out = vec![program.clone()];
    let mut command = command;
    if let Some(role) =
        Path::new(&program).file_name().and_then(|name| name.to_str()).filter(|name| ROLES.contains(name))
    {
        // So that usage lines read `goulette broker` and not `broker broker`.
        out = vec!["goulette".into(), role.into()];
        command = command.find_subcommand(role).unwrap_or(command);
    }
    while let Some(argument) = argv.next() {
        if argument == "--" {
            out.push(argument);
            out.extend(argv);
            break;
        }
        let Some(mut flag) = as_flag(&argument) else {
            if let Some(subcommand) = argument.to_str().and_then(|name| command.find_subcommand(name)) {
                command = subcommand;
            }
            out.push(argument);
            continue;
        };
        if takes_next(&flag, command)
            && let Some(value) = argv.next()
        {
            flag.push("=");
            flag.push(value);
        }
        out.push(flag);
    }
    out
}

/// `-flag` or `--flag`, with or without `=value`, with two dashes; `-h`, `-`, `-5` and plain words are none.
fn as_flag(argument: &OsString) -> Option<OsString> {
    let bytes = argument.as_bytes();
    let name = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-").filter(|name| name.len() > 1))?;
    if !name.first()?.is_ascii_alphabetic() {
        return None;
    }
    let mut flag = OsString::from("--");
    flag.push(std::ffi::OsStr::from_bytes(name));
    Some(flag)
}

/// Whether the value of this flag is the next argument.
fn takes_next(flag: &OsString, command: &Command) -> bool {
    // A switch (`-until-end`, `-until-end=false`) never takes the next argument.
    let wants = |arg: &Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    let name = flag.to_str().and_then(|flag| flag.strip_prefix("--")).filter(|name| !name.contains('='));
    name.is_some_and(|name| command.get_arguments().any(|arg| arg.get_long() == Some(name) && wants(arg)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn normalised(line: &[&str]) -> Vec<String> {
        let mut command = Cli::command();
        command.build();
        normalise(line.iter().map(OsString::from), &command).into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn all_four_ways_to_write_a_flag_are_one() {
        for flag in [&["-id", "b2"][..], &["-id=b2"], &["--id", "b2"], &["--id=b2"]] {
            assert_eq!(normalised(&[&["goulette", "broker"], flag].concat()), ["goulette", "broker", "--id=b2"]);
        }
    }

    #[test]
    fn a_link_named_for_a_role_acts_as_that_role() {
        assert_eq!(normalised(&["/x/bin/broker", "-id", "b2"]), ["goulette", "broker", "--id=b2"]);
        assert_eq!(normalised(&["bin/goulette", "-version"]), ["bin/goulette", "--version"]);
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        assert_eq!(normalised(&["client", "-message", "-topic"]), ["goulette", "client", "--message=-topic"]);
        assert_eq!(normalised(&["client", "-message", "--", "x"]), ["goulette", "client", "--message=--", "x"]);
        assert_eq!(normalised(&["client", "-message", ""]), ["goulette", "client", "--message="]);
    }

    #[test]
    fn a_switch_leaves_the_next_argument_alone() {
        assert_eq!(
            normalised(&["client", "-until-end", "-count", "3", "-until-end=false"]),
            ["goulette", "client", "--until-end", "--count=3", "--until-end=false"]
        );
    }

    #[test]
    fn nested_subcommands_are_followed() {
        assert_eq!(
            normalised(&["goulette", "topic", "create", "broker", "-partitions", "3", "-h"]),
            ["goulette", "topic", "create", "broker", "--partitions=3", "-h"]
        );
    }

    #[test]
    fn what_is_no_flag_of_ours_stays_readable() {
        assert_eq!(normalised(&["goulette", "broker", "-frob", "1"]), ["goulette", "broker", "--frob", "1"]);
        assert_eq!(normalised(&["goulette", "health", "-", "-5"]), ["goulette", "health", "-", "-5"]);
        assert_eq!(normalised(&["goulette", "health", "--", "-id", "x"]), ["goulette", "health", "--", "-id", "x"]);
        assert_eq!(normalised(&["client", "-topic"]), ["goulette", "client", "--topic"]);
    }
}

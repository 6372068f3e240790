//! Where settings come from, as names and texts: the command line, and a configuration file.

use std::collections::BTreeMap;

use super::names::{IGNORED, NAMES, SWITCHES};

/// The command line's flags.
pub(super) fn flags(args: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|flag| !flag.is_empty())
        else {
            return Err(format!("'{arg}' is not a valid flag"));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None if SWITCHES.contains(&flag) => (flag, "true".to_owned()),
            None => {
                let is_known = flag == "config-file" || NAMES.contains(&flag) || IGNORED.contains(&flag);
                if !is_known {
                    return Err(format!("flag provided but not defined: -{flag}"));
                }
                (flag, args.next().ok_or_else(|| format!("flag needs an argument: -{flag}"))?.clone())
            }
        };
        given.insert(name.to_owned(), value);
    }
    Ok(given)
}

/// The keys of a configuration file: `name: value` a line, and the two groups of certificates that etcd nests.
pub(super) fn file_keys(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    let mut group = "";
    for (number, line) in text.lines().enumerate() {
        let without_comment = match line.split_once(" #") {
            Some((before, _)) => before,
            None if line.trim_start().starts_with('#') => "",
            None => line,
        };
        let trimmed = without_comment.trim();
        if trimmed.is_empty() || trimmed == "---" {
            continue;
        }
        let (name, value) = trimmed.split_once(':').ok_or_else(|| format!("line {}: no key", number + 1))?;
        let value = value.trim().trim_matches(|quote| quote == '"' || quote == '\'');
        let is_nested = line.starts_with([' ', '\t']);
        if !is_nested {
            group = "";
        }
        let name = match (name.trim().trim_matches('"'), group) {
            ("client-transport-security", _) => {
                group = "client";
                continue;
            }
            ("peer-transport-security", _) => {
                group = "peer";
                continue;
            }
            (name, "peer") => format!("peer-{name}"),
            (name, _) => name.to_owned(),
        };
        if value.is_empty() {
            continue;
        }
        // etcd's file counts milliseconds and nanoseconds in the same units as its flags do, but for durations.
        given.insert(name, value.to_owned());
    }
    Ok(given)
}

//! The settings file: TOML, one table for each role, keys named as the flags with underscores for dashes.

use std::{ffi::OsString, path::Path};

use clap::Command;
use toml::{Table, Value};

use super::{ROLES, SettingsError, find, layered};

/// The flags that the file sets for `role`, with their values. Everything in the file is looked at, also what is said to
/// other roles: a mistake there would be found too late.
pub(super) fn read(
    path: &Path,
    role: &Command,
    command: &Command,
) -> Result<Vec<(String, Vec<OsString>)>, SettingsError> {
    #[allow(clippy::disallowed_methods, reason = "a setting of this process, like its flags")]
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    let tables: Table = text
        .parse()
        .map_err(|error: toml::de::Error| SettingsError::Syntax { path: path.to_owned(), reason: error.to_string() })?;
    let mut settings = Vec::new();
    for (name, table) in tables {
        let known = ROLES.contains(&name.as_str()).then(|| command.find_subcommand(&name)).flatten();
        let (Some(of), Value::Table(table)) = (known, table) else {
            return Err(SettingsError::Table { path: path.to_owned(), table: name });
        };
        for (key, value) in table {
            let values = read_key(path, of, &key, &value)?;
            if of.get_name() == role.get_name() {
                settings.push((key.replace('_', "-"), values));
            }
        }
    }
    Ok(settings)
}

fn read_key(path: &Path, role: &Command, key: &str, value: &Value) -> Result<Vec<OsString>, SettingsError> {
    let (path, name) = (path.to_owned(), role.get_name().to_owned());
    if key.contains('-') || find(role, &key.replace('_', "-")).is_none() {
        let keys: Vec<_> = layered(role).map(|(flag, _)| flag.replace('-', "_")).collect();
        return Err(SettingsError::Key { path, role: name, key: key.to_owned(), keys: keys.join(", ") });
    }
    let texts = texts(value).ok_or_else(|| SettingsError::Kind {
        path,
        role: name,
        key: key.to_owned(),
        reason: "is none of a text, a number, true or false, and a list of these",
    })?;
    Ok(texts.into_iter().map(OsString::from).collect())
}

/// A value as it would stand behind its flag; of a list each part.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Float(number) => Some(vec![number.to_string()]),
        Value::Boolean(switch) => Some(vec![switch.to_string()]),
        Value::Array(parts) => {
            parts.iter().map(|part| texts(part).filter(|texts| texts.len() == 1)?.into_iter().next()).collect()
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

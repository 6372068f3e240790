//! The settings that a topic may have: a closed list, so that a misspelt one is refused and not ignored.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::RequestError;

/// A setting of a topic: its name and the numbers that it takes.
struct Setting {
    name: &'static str,
    range: RangeInclusive<i64>,
}

/// Every setting, with what it means.
const SETTINGS: [Setting; 5] = [
    // When a fragment is full.
    Setting { name: "fragment_bytes", range: 64 << 10..=1 << 30 },
    // When a fragment is closed though it is not full.
    Setting { name: "fragment_ms", range: 1_000..=i64::MAX },
    // How many replicas have to hold a record before it counts as written; without it, the majority of the replicas.
    Setting { name: MIN_INSYNC_REPLICAS, range: 1..=15 },
    // How many bytes of a partition are kept at least, before the oldest fragments go; -1: no limit.
    Setting { name: "retention_bytes", range: -1..=i64::MAX },
    // How long fragments are kept behind their last append; -1: no limit.
    Setting { name: "retention_ms", range: -1..=i64::MAX },
];

pub(crate) const MIN_INSYNC_REPLICAS: &str = "min_insync_replicas";

/// The minimum of in-sync replicas that a topic fixes; `None`: the majority of its replicas.
pub(crate) fn min_insync_replicas(config: &BTreeMap<String, String>) -> Option<u32> {
    config.get(MIN_INSYNC_REPLICAS)?.parse().ok()
}

/// Checks settings given by a caller.
///
/// # Errors
/// [`RequestError::Invalid`], naming the first bad one and what would be good.
pub(crate) fn check(config: &BTreeMap<String, String>) -> Result<(), RequestError> {
    config.iter().try_for_each(|(name, value)| check_value(find(name)?, value))
}

/// Checks the names of settings to be taken back.
///
/// # Errors
/// [`RequestError::Invalid`] for an unknown one.
pub(crate) fn check_names<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), RequestError> {
    names.into_iter().try_for_each(|name| find(name).map(|_| ()))
}

fn find(name: &str) -> Result<&'static Setting, RequestError> {
    SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let known = SETTINGS.map(|setting| setting.name).join(", ");
        let name: String = name.chars().take(64).collect();
        RequestError::Invalid(format!("unknown topic setting {name:?}: known are {known}"))
    })
}

fn check_value(setting: &Setting, value: &str) -> Result<(), RequestError> {
    match value.parse::<i64>() {
        Ok(number) if setting.range.contains(&number) => Ok(()),
        _ => {
            let value: String = value.chars().take(64).collect();
            let (low, high) = setting.range.clone().into_inner();
            Err(RequestError::Invalid(format!(
                "topic setting {}={value:?} must be a whole number from {low} to {high}",
                setting.name
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, value: &str) -> Result<(), String> {
        check(&[(name.to_owned(), value.to_owned())].into()).map_err(|error| error.to_string())
    }

    #[test]
    fn good_settings_pass_and_bad_ones_say_what_would_be_good() {
        assert_eq!(verdict("fragment_ms", "60000"), Ok(()));
        assert_eq!(verdict("fragment_bytes", "1048576"), Ok(()));
        for value in ["-1", "0", "2147483648"] {
            assert_eq!(verdict("retention_bytes", value), Ok(()));
            assert_eq!(verdict("retention_ms", value), Ok(()));
        }
        for (name, value, expected) in [
            (
                "fragments",
                "1",
                "known are fragment_bytes, fragment_ms, min_insync_replicas, retention_bytes, retention_ms",
            ),
            ("fragment_bytes", "-1", "from 65536 to"),
            ("retention_ms", "-2", "from -1 to"),
            ("fragment_ms", "1h", "must be a whole number"),
            ("fragment_ms", "", "must be a whole number"),
        ] {
            let text = verdict(name, value).unwrap_err();
            assert!(text.contains(expected), "{text}");
        }
    }
}

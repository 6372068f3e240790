//! What a topic's settings mean to the broker that leads it.

use std::{collections::HashMap, str::FromStr, time::Duration};

use goulette_log::{Retention, Roll};
use goulette_logging::warn;

/// The settings that a broker acts upon; none where the broker's own apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    fragment_bytes: Option<u32>,
    fragment_age: Option<Duration>,
    retention: Retention,
}

impl TopicSettings {
    /// Reads what the sentinel says. It has checked names and values; one that makes no sense all the same (a newer
    /// sentinel's) leaves the broker's own in force, and is said.
    pub(crate) fn from_config(config: &HashMap<String, String>) -> Self {
        Self {
            fragment_bytes: number(config, "fragment_bytes").filter(|bytes| Roll::BYTES.contains(bytes)),
            fragment_age: number(config, "fragment_ms").map(Duration::from_millis),
            retention: retention(config),
        }
    }

    /// What is kept.
    pub(crate) fn retention(&self) -> Retention {
        self.retention
    }

    /// When fragments are rolled, if otherwise than `own`.
    pub(crate) fn roll(&self, own: Roll) -> Option<Roll> {
        let roll = Roll { bytes: self.fragment_bytes.unwrap_or(own.bytes), age: self.fragment_age.unwrap_or(own.age) };
        (roll != own).then_some(roll)
    }
}

/// How much is kept. What is said and not understood sets no limit: nothing may go by mistake.
fn retention(config: &HashMap<String, String>) -> Retention {
    let limit = |name, default| match config.get(name).map(|value| value.parse::<i64>()) {
        None => default,
        Some(Ok(-1)) => None,
        Some(Ok(number @ 0..)) => number.try_into().ok(),
        Some(_) => {
            warn!("the topic setting {name}={:?} is not understood, and sets no limit", config[name]);
            None
        }
    };
    let default = Retention::default();
    let default_ms = default.age.and_then(|age| u64::try_from(age.as_millis()).ok());
    Retention {
        age: limit("retention_ms", default_ms).map(Duration::from_millis),
        bytes: limit("retention_bytes", default.bytes),
    }
}

fn number<T: FromStr>(config: &HashMap<String, String>, name: &str) -> Option<T> {
    let value = config.get(name)?;
    let number = value.parse().ok();
    if number.is_none() {
        warn!("the topic setting {name}={value:?} is not understood, the broker's own applies");
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_beat_the_brokers_own_where_they_are_given_and_make_sense() {
        let own = Roll { bytes: 1 << 20, age: Duration::from_secs(60) };
        let roll = |pairs: &[(&str, &str)]| {
            let config = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            TopicSettings::from_config(&config).roll(own)
        };
        assert_eq!(roll(&[]), None);
        assert_eq!(roll(&[("fragment_bytes", "65536")]), Some(Roll { bytes: 65536, ..own }));
        assert_eq!(roll(&[("fragment_ms", "5000")]), Some(Roll { age: Duration::from_secs(5), ..own }));
        for nonsense in ["", "-1", "many", "1", "99999999999"] {
            assert_eq!(roll(&[("fragment_bytes", nonsense)]), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_week_is_kept_unless_the_topic_says_otherwise_and_everything_if_it_is_not_understood() {
        let retention = |pairs: &[(&str, &str)]| {
            let config = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            let Retention { age, bytes } = TopicSettings::from_config(&config).retention;
            (age.map(|age| age.as_millis()), bytes)
        };
        let week = Some(7 * 24 * 3_600_000);
        assert_eq!(retention(&[]), (week, None));
        assert_eq!(retention(&[("retention_bytes", "1000")]), (week, Some(1000)));
        assert_eq!(retention(&[("retention_ms", "5"), ("retention_bytes", "-1")]), (Some(5), None));
        for unlimited in ["-1", "-2", "", "1h", "99999999999999999999"] {
            assert_eq!(retention(&[("retention_ms", unlimited)]), (None, None), "{unlimited:?}");
        }
    }
}

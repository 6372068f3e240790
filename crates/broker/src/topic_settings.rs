//! What a topic's settings mean to the broker that leads it.

use std::{collections::HashMap, str::FromStr, time::Duration};

use goulette_log::Roll;
use goulette_logging::warn;

/// The settings that a broker acts upon; none where the broker's own apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    fragment_bytes: Option<u32>,
    fragment_age: Option<Duration>,
}

impl TopicSettings {
    /// Reads what the sentinel says. It has checked names and values; one that makes no sense all the same (a newer
    /// sentinel's) leaves the broker's own in force, and is said.
    pub(crate) fn from_config(config: &HashMap<String, String>) -> Self {
        Self {
            fragment_bytes: number(config, "fragment_bytes").filter(|bytes| Roll::BYTES.contains(bytes)),
            fragment_age: number(config, "fragment_ms").map(Duration::from_millis),
        }
    }

    /// When fragments are rolled, if otherwise than `own`.
    pub(crate) fn roll(&self, own: Roll) -> Option<Roll> {
        let roll = Roll { bytes: self.fragment_bytes.unwrap_or(own.bytes), age: self.fragment_age.unwrap_or(own.age) };
        (roll != own).then_some(roll)
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
}

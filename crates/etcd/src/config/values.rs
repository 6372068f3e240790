//! Values of more than one word: URLs, durations as Go writes them, who is in the cluster.

use std::time::Duration;

use super::AutoCompaction;

/// A URL to listen on or to be found at: `scheme://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// Host, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// As given.
    pub text: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?} is no URL of the form http://host:port: {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(bad("the scheme is neither http nor https")),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port = port.parse().map_err(|_| bad("the port is no number up to 65535"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { is_tls, host, port, text: text.trim_end_matches('/').to_owned() })
    }

    /// Host and port, as a listener takes them.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Names and peer URLs, `name=url,...`.
pub(super) fn initial_cluster(value: &str) -> Result<Vec<(String, String)>, String> {
    let mut members = Vec::new();
    for member in value.split(',').map(str::trim).filter(|member| !member.is_empty()) {
        let (name, url) = member.split_once('=').ok_or_else(|| format!("{member:?} is not of the form name=url"))?;
        members.push((name.to_owned(), Url::parse(url)?.text));
    }
    Ok(members)
}

/// What two flags say together.
pub(super) fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let wrong = || format!("--auto-compaction-retention {retention:?} is no duration or number");
    match mode {
        "revision" => match retention.parse::<i64>().map_err(|_| wrong())? {
            0 => Ok(AutoCompaction::Off),
            revisions => Ok(AutoCompaction::Revision(revisions)),
        },
        "periodic" => {
            let period = match retention.parse::<u64>() {
                Ok(hours) => Duration::from_secs(hours.saturating_mul(3600)),
                Err(_) => go_duration(retention).map_err(|_| wrong())?,
            };
            Ok(if period.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(period) })
        }
        _ => Err(format!("--auto-compaction-mode {mode:?} is neither periodic nor revision")),
    }
}

/// A duration as Go writes it: `300ms`, `1.5h`, `2h45m`.
pub(super) fn go_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration such as 300ms or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let part = number.parse::<f64>().map_err(|_| bad())? * seconds;
        let part = Duration::try_from_secs_f64(part).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = after;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(go_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(go_duration("5").is_err() && go_duration("").is_err() && go_duration("5x").is_err());
        assert!(go_duration("5000000000000000h5000000000000000h").is_err(), "more than a duration holds");
    }
}

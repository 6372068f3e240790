//! What a line looks like. Whatever is logged, it stays one line: control characters are escaped.

use std::{
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{
    Event,
    field::{Field, Visit},
};

use crate::{Format, Level};

/// The field that makes an ERROR of tracing a FATAL of ours; it is not printed.
pub(crate) const FATAL_MARK: &str = "fatal";

/// Appends the event as one line, with its line feed.
pub(crate) fn write(out: &mut String, format: Format, level: Level, event: &Event<'_>) {
    let time = now();
    let target = event.metadata().target();
    match format {
        Format::Text => {
            let mut fields = TextFields::default();
            event.record(&mut fields);
            let _ = write!(out, "{time} {:<5} {target}: ", level.name());
            push_escaped(out, &fields.message);
            out.push_str(&fields.rest);
        }
        Format::Json => {
            let mut fields = JsonFields::default();
            event.record(&mut fields);
            let line = JsonLine { time, level: level.name(), target, message: fields.message, fields: fields.rest };
            match serde_json::to_string(&line) {
                Ok(json) => out.push_str(&json),
                Err(error) => unreachable!("strings and numbers are valid JSON: {error}"),
            }
        }
    }
    out.push('\n');
}

/// The time as RFC 3339 in UTC, to the millisecond.
#[allow(clippy::disallowed_methods, reason = "a line carries the time at which people find it, also in simulations")]
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    format!("{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX))
}

#[derive(Default)]
struct TextFields {
    message: String,
    rest: String,
}

impl TextFields {
    fn push(&mut self, field: &Field, value: &str) {
        let _ = write!(self.rest, " {}=", field.name());
        // As in logfmt: quoted only where a reader, or awk, could mistake the value's end. Debug quotes by itself.
        let plain =
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control() || "\"=".contains(c));
        if plain || value.starts_with('"') {
            push_escaped(&mut self.rest, value);
        } else {
            let _ = write!(self.rest, "{value:?}");
        }
    }
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            _ => self.push(field, value),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() != FATAL_MARK {
            self.push(field, if value { "true" } else { "false" });
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => write!(self.message, "{value:?}").unwrap_or_default(),
            _ => self.push(field, &format!("{value:?}")),
        }
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    level: &'static str,
    target: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
}

#[derive(Default)]
struct JsonFields {
    message: String,
    rest: Map<String, Value>,
}

impl JsonFields {
    fn push(&mut self, field: &Field, value: impl Into<Value>) {
        self.rest.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            _ => self.push(field, value),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() != FATAL_MARK {
            self.push(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => write!(self.message, "{value:?}").unwrap_or_default(),
            _ => self.push(field, format!("{value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_utc_to_the_millisecond() {
        let text = now();
        assert_eq!(text.len(), "2026-11-23T18:47:59.123Z".len(), "{text}");
        assert!(text.parse::<jiff::Timestamp>().is_ok(), "{text}");
    }

    #[test]
    fn control_characters_do_not_break_a_line() {
        let mut out = String::new();
        push_escaped(&mut out, "a\nb\u{1b}[0m é\r");
        assert_eq!(out, "a\\nb\\u{1b}[0m é\\r");
    }
}

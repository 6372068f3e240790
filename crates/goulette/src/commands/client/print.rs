//! What a consumer prints of a record: its value, what `-print` asks for before it, or everything as JSON.

use bytes::Bytes;
use goulette_client::{Record, RecordHeader};
use goulette_types::{PartitionIndex, Timestamp};
use serde_json::{Map, Value, json};

use crate::{cli::PrintField, output::Output};

/// How records are printed.
pub(super) struct Printer {
    pub(super) output: Output,
    pub(super) fields: Vec<PrintField>,
}

impl Printer {
    /// Appends the record with its line feed. Text is the bytes as they are; a null value prints as an empty one.
    pub(super) fn print(&self, partition: PartitionIndex, record: &Record, out: &mut Vec<u8>) {
        match self.output {
            Output::Json => out.extend_from_slice(record_json(partition, record).to_string().as_bytes()),
            Output::Text => {
                for field in &self.fields {
                    match field {
                        PrintField::Key => out.extend_from_slice(record.key.as_deref().unwrap_or_default()),
                        PrintField::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                        PrintField::Partition => out.extend_from_slice(partition.to_string().as_bytes()),
                        PrintField::Timestamp => out.extend_from_slice(time(record.timestamp).as_bytes()),
                        PrintField::Headers => print_headers(&record.headers, out),
                    }
                    out.push(b'\t');
                }
                out.extend_from_slice(record.value.as_deref().unwrap_or_default());
            }
        }
        out.push(b'\n');
    }
}

fn print_headers(headers: &[RecordHeader], out: &mut Vec<u8>) {
    for (number, header) in headers.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&header.key);
        out.push(b'=');
        out.extend_from_slice(header.value.as_deref().unwrap_or_default());
    }
}

/// All of a record.
pub(in crate::commands) fn record_json(partition: PartitionIndex, record: &Record) -> Value {
    let headers = record.headers.iter().map(|header| {
        let mut object = Map::new();
        put(&mut object, "key", Some(&header.key));
        put(&mut object, "value", header.value.as_ref());
        Value::Object(object)
    });
    let mut object = Map::new();
    object.insert("partition".to_owned(), json!(partition.0));
    object.insert("offset".to_owned(), json!(record.offset.0));
    object.insert("timestamp".to_owned(), json!(time(record.timestamp)));
    put(&mut object, "key", record.key.as_ref());
    put(&mut object, "value", record.value.as_ref());
    object.insert("headers".to_owned(), headers.collect());
    Value::Object(object)
}

/// JSON has text and no bytes: what is not UTF-8 comes in hexadecimal, under a name that says so.
fn put(object: &mut Map<String, Value>, name: &str, bytes: Option<&Bytes>) {
    let Some(bytes) = bytes else {
        object.insert(name.to_owned(), Value::Null);
        return;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{name}_hex"), hex.into())
        }
    };
}

/// RFC 3339 in UTC, to the millisecond; the bare number where no calendar reaches.
pub(in crate::commands) fn time(timestamp: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(timestamp.0).map_or_else(|_| timestamp.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use goulette_types::Offset;

    use super::*;

    fn record() -> Record {
        Record {
            offset: Offset(7),
            timestamp: Timestamp(250),
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"\xff\x00")),
            headers: vec![RecordHeader { key: Bytes::from_static(b"h"), value: None }],
        }
    }

    fn printed(output: Output, fields: &[PrintField]) -> Vec<u8> {
        let mut out = Vec::new();
        Printer { output, fields: fields.to_vec() }.print(PartitionIndex(1), &record(), &mut out);
        out
    }

    #[test]
    fn text_is_the_bytes_themselves() {
        assert_eq!(printed(Output::Text, &[]), b"\xff\x00\n");
        let fields = [PrintField::Offset, PrintField::Key, PrintField::Headers, PrintField::Timestamp];
        assert_eq!(printed(Output::Text, &fields), b"7\tk\th=\t1970-01-01T00:00:00.250Z\t\xff\x00\n");
    }

    #[test]
    fn json_tells_bytes_from_text() {
        let json: Value = serde_json::from_slice(&printed(Output::Json, &[])).unwrap();
        assert_eq!(json["value_hex"], "ff00");
        assert_eq!(json["key"], "k");
        assert_eq!(json["headers"], json!([{"key": "h", "value": null}]));
        assert_eq!(json["timestamp"], "1970-01-01T00:00:00.250Z");
    }
}

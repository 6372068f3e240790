//! `goulette oplog`: what has changed the cluster, in order.

use goulette_proto::pb::OperationEntry;
use serde_json::{Value, json};

use super::super::connect;
use crate::{
    cli::OplogFlags,
    exit::Failure,
    output::{Output, Table, print, print_json},
};

/// What one call brings at most.
const PAGE: u32 = 1_000;

pub(crate) async fn oplog(flags: OplogFlags) -> Result<(), Failure> {
    let cluster = connect(&flags.cluster.sentinel).await?.cluster();
    let mut found = Vec::new();
    match flags.from {
        None => found = cluster.operations(0, flags.limit.min(PAGE), true).await?.operations,
        Some(mut from) => loop {
            let missing = flags.limit - u32::try_from(found.len()).unwrap_or(u32::MAX).min(flags.limit);
            if missing == 0 {
                break;
            }
            let page = cluster.operations(from, missing.min(PAGE), false).await?;
            let is_last = page.next == 0 || page.operations.is_empty();
            found.extend(page.operations);
            if is_last {
                break;
            }
            from = page.next;
        },
    }
    match flags.cluster.output {
        Output::Json => print_json(&found.iter().map(as_json).collect::<Vec<_>>()),
        Output::Text => {
            let mut table = Table::new(&["id", "time", "operation", "what"]);
            for operation in &found {
                let at = i64::try_from(operation.at_ms).unwrap_or(i64::MAX);
                let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
                table.row([operation.id.to_string(), format!("{at:.3}"), operation.name.clone(), what(operation)]);
            }
            print(&table.to_string())
        }
    }
}

fn as_json(operation: &OperationEntry) -> Value {
    let entry = serde_json::from_str(&operation.json).unwrap_or_else(|_| Value::String(operation.json.clone()));
    json!({
        "id": operation.id,
        "name": operation.name,
        "at_ms": operation.at_ms,
        "request_id": operation.request_id,
        "entry": entry,
    })
}

/// The entry's own fields, without what has a column.
fn what(operation: &OperationEntry) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(&operation.json) else { return operation.json.clone() };
    let told = ["id", "name", "operation", "at_ms", "version", "request_id"];
    let fields = fields.iter().filter(|(key, _)| !told.contains(&key.as_str())).map(|(key, value)| match value {
        Value::String(text) => format!("{key}={text}"),
        other => format!("{key}={other}"),
    });
    fields.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_tells_what_the_columns_do_not() {
        let entry = |json: &str| OperationEntry { json: json.to_owned(), ..OperationEntry::default() };
        assert_eq!(what(&entry(r#"{"id":3,"name":"registerBroker","broker":"b1","n":2}"#)), "broker=b1 n=2");
        assert_eq!(what(&entry("rubbish")), "rubbish");
    }
}

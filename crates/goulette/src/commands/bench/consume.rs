//! `goulette bench consume`: one consumer, from the beginning, as fast as records come.

use std::time::Instant;

use goulette_client::{Consumer, ConsumerOptions, Start};
use serde::Serialize;

use super::{mb_per_s, now, round};
use crate::{
    cli::ConsumeFlags,
    commands::connect,
    exit::Failure,
    output::{Output, Table, print, print_json},
    progress,
};

#[derive(Debug, Serialize)]
struct Figures {
    topic: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_s: f64,
    mb_per_s: f64,
}

pub(crate) async fn run(flags: ConsumeFlags) -> Result<(), Failure> {
    let topic = &flags.target.topic;
    let client = connect(&flags.target.sentinel).await?;
    let options = ConsumerOptions {
        start: Some(Start::Beginning),
        until_end: flags.records.is_none(),
        create_topic: false,
        ..ConsumerOptions::default()
    };
    let wanted = flags.records.unwrap_or(u64::MAX);
    let progress = flags.records.map_or_else(progress::open_ended, progress::of_records);
    let begun: Instant = now();
    let mut consumer = Consumer::new(&client, topic, options).await?;
    let (mut records, mut bytes) = (0, 0);
    while records < wanted
        && let Some(batch) = consumer.next_batch().await?
    {
        records += batch.records.len() as u64;
        bytes += batch
            .records
            .iter()
            .filter_map(|record| record.value.as_ref())
            .map(|value| value.len() as u64)
            .sum::<u64>();
        progress.set_position(records);
    }
    let seconds = begun.elapsed().as_secs_f64();
    consumer.close().await;
    progress.finish_and_clear();

    let figures = Figures {
        topic: topic.to_string(),
        records,
        bytes,
        seconds: round(seconds),
        records_per_s: round(records as f64 / seconds),
        mb_per_s: mb_per_s(bytes, seconds),
    };
    match flags.target.output {
        Output::Json => print_json(&figures),
        Output::Text => {
            let mut table = Table::new(&["records", "seconds", "records/s", "MB/s"]);
            table.row([
                figures.records.to_string(),
                format!("{:.2}", figures.seconds),
                format!("{:.0}", figures.records_per_s),
                format!("{:.1}", figures.mb_per_s),
            ]);
            print(&table.to_string())
        }
    }
}

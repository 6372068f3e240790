//! `goulette bench produce`: one producer, as fast as records are acknowledged.

use std::time::{Duration, Instant};

use goulette_client::{Client, Delivery, Producer, ProducerOptions, ProducerRecord, SendError, TopicSpec};
use goulette_env::Env;
use goulette_types::{ErrorKind, TopicName};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{mb_per_s, now, round, values::Values};
use crate::{
    cli::ProduceFlags,
    commands::connect,
    exit::Failure,
    output::{Output, Table, print, print_json},
    progress,
};

/// Records whose acks are watched together; enough to make the watching cheap.
const WATCHED: usize = 256;

#[derive(Debug, Serialize)]
struct Figures {
    topic: String,
    acks: String,
    records: u64,
    record_bytes: u32,
    seconds: f64,
    records_per_s: f64,
    mb_per_s: f64,
    ack_ms_p50: f64,
    ack_ms_p99: f64,
    ack_ms_p999: f64,
    ack_ms_max: f64,
}

pub(crate) async fn run(flags: ProduceFlags) -> Result<(), Failure> {
    let topic = &flags.target.topic;
    let client = connect(&flags.target.sentinel).await?;
    make_topic(&client, topic, flags.partitions).await?;
    let options = ProducerOptions {
        window_records: flags.window as usize,
        batch_bytes: flags.batch_bytes as usize,
        linger: Duration::from_millis(flags.linger_ms),
        acks: flags.acks,
        compression: flags.compression,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(&client, topic, options).await?;
    let values = Values::new(&*Env::real().random, flags.size as usize);

    let (watch, watched) = mpsc::channel(flags.window as usize / WATCHED + 1);
    let latencies = tokio::spawn(observe(watched));
    let begun = now();
    let sent = send(&producer, &values, flags.records, watch).await;
    let flushed = producer.flush().await;
    let seconds = begun.elapsed().as_secs_f64();
    sent.and(flushed).map_err(|error| Failure::failed(format_args!("not every record was acknowledged: {error}")))?;
    producer.close().await.map_err(Failure::failed)?;
    let latencies = latencies.await.map_err(Failure::failed)?;

    let ms = |quantile| round(latencies.value_at_quantile(quantile) as f64 / 1e6);
    let figures = Figures {
        topic: topic.to_string(),
        acks: flags.acks.to_string(),
        records: flags.records,
        record_bytes: flags.size,
        seconds: round(seconds),
        records_per_s: round(flags.records as f64 / seconds),
        mb_per_s: mb_per_s(flags.records * u64::from(flags.size), seconds),
        ack_ms_p50: ms(0.5),
        ack_ms_p99: ms(0.99),
        ack_ms_p999: ms(0.999),
        ack_ms_max: ms(1.0),
    };
    match flags.target.output {
        Output::Json => print_json(&figures),
        Output::Text => print(&table(&figures).to_string()),
    }
}

async fn make_topic(client: &Client, topic: &TopicName, partitions: u32) -> Result<(), Failure> {
    let spec = TopicSpec { partitions, ..TopicSpec::default() };
    match client.admin().create_topic(topic, spec).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A record's moment of sending, and its outcome to come.
type Watched = Vec<(Instant, Delivery)>;

async fn send(
    producer: &Producer,
    values: &Values,
    records: u64,
    watch: mpsc::Sender<Watched>,
) -> Result<(), SendError> {
    let progress = progress::of_records(records);
    let mut watched = Watched::with_capacity(WATCHED);
    for number in 0..records {
        let record = ProducerRecord::new(values.get(number));
        let sent_at = now();
        let delivery = match producer.send_nowait(&record) {
            Err(SendError::WindowFull { .. }) => {
                hand_over(&watch, &mut watched).await;
                producer.send(record).await?
            }
            taken => taken?,
        };
        watched.push((sent_at, delivery));
        if watched.len() == WATCHED {
            hand_over(&watch, &mut watched).await;
            progress.inc(WATCHED as u64);
        }
    }
    hand_over(&watch, &mut watched).await;
    progress.finish_and_clear();
    Ok(())
}

async fn hand_over(watch: &mpsc::Sender<Watched>, watched: &mut Watched) {
    // The observer ends after us; were it gone, the missing latencies would show.
    let _ = watch.send(std::mem::replace(watched, Watched::with_capacity(WATCHED))).await;
}

/// Notes how long each record took from `send` to its ack, in nanoseconds.
async fn observe(mut watched: mpsc::Receiver<Watched>) -> Histogram<u64> {
    let mut latencies = super::latencies();
    while let Some(some) = watched.recv().await {
        for (sent_at, delivery) in some {
            if delivery.await.is_ok() {
                latencies.saturating_record(sent_at.elapsed().as_nanos() as u64);
            }
        }
    }
    latencies
}

fn table(figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "records",
        "bytes each",
        "acks",
        "seconds",
        "records/s",
        "MB/s",
        "ack p50 ms",
        "p99 ms",
        "p99.9 ms",
    ]);
    table.row([
        figures.records.to_string(),
        figures.record_bytes.to_string(),
        figures.acks.clone(),
        format!("{:.2}", figures.seconds),
        format!("{:.0}", figures.records_per_s),
        format!("{:.1}", figures.mb_per_s),
        format!("{:.2}", figures.ack_ms_p50),
        format!("{:.2}", figures.ack_ms_p99),
        format!("{:.2}", figures.ack_ms_p999),
    ]);
    table
}

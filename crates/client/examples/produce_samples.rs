//! Sends records of every shape to partition 0, the codec changing on the way: `produce_samples SENTINEL TOPIC RECORDS`.
//! Prints how many are acknowledged as it goes, so that a script can kill a broker in the middle.
//! `scripts/test-kafka-format.sh` then lets Kafka read the broker's files.

#[path = "../../records/examples/write_batches/sample.rs"]
mod sample;

use std::{env, error::Error};

use goulette_client::{Client, ClientOptions, Compression, Producer, ProducerOptions, ProducerRecord};
use goulette_types::{PartitionIndex, TopicName};
use sample::Sample;

/// How many records one producer sends before another, with the next codec, takes over.
const TURN: u64 = 2000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [sentinel, topic, records] = &arguments[..] else {
        return Err("usage: produce_samples SENTINEL TOPIC RECORDS".into());
    };
    let topic: TopicName = topic.parse()?;
    let records: u64 = records.parse()?;
    let client = Client::connect(ClientOptions::for_sentinels(sentinel)).await?;

    let mut sent = 0;
    for compression in Compression::ALL.into_iter().cycle() {
        if sent == records {
            break;
        }
        // Small batches, so that there are many.
        let options = ProducerOptions { compression, batch_bytes: 16 << 10, ..ProducerOptions::default() };
        let producer = Producer::new(&client, &topic, options).await?;
        let end = records.min(sent + TURN);
        for n in sent..end {
            let Sample { timestamp, key, value, headers } = Sample::new(n);
            let partition = Some(PartitionIndex(0));
            let record = ProducerRecord { partition, key, value, headers, timestamp: Some(timestamp) };
            // What becomes of it is told by `close`.
            drop(producer.send(record).await?);
        }
        producer.close().await?;
        sent = end;
        println!("{sent}");
    }
    Ok(())
}

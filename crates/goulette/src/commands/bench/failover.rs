//! `goulette bench failover`: for how long nothing is acknowledged when a leader dies, or is stopped.

mod cluster;
mod writer;

use std::time::Duration;

use goulette_client::{Client, ClientOptions, TopicSpec};
use goulette_types::TopicName;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::sleep;

use super::{latencies, now, round};
use crate::{
    cli::FailoverFlags,
    exit::Failure,
    output::{Output, Table, print, print_json},
    progress,
};
use cluster::Cluster;
use writer::Writer;

/// How often the cluster is asked how it is.
const LOOK: Duration = Duration::from_millis(20);
/// Longer than anything that heals by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Calm between two faults.
const CALM: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Figures {
    kills: u64,
    kill_ms_p50: f64,
    kill_ms_p99: f64,
    kill_ms_max: f64,
    stops: u64,
    stop_pause_ms_p50: f64,
    stop_pause_ms_max: f64,
    failed_requests: u64,
    records: u64,
}

pub(crate) async fn run(flags: FailoverFlags) -> Result<(), Failure> {
    let mut cluster = Cluster::start(&flags.dir).await?;
    let topic: TopicName = "failover".parse().map_err(Failure::failed)?;
    let client = Client::connect(ClientOptions::for_sentinels(cluster.sentinel())).await?;
    let spec = TopicSpec { replication_factor: cluster::BROKERS as u32, partitions: 1, ..TopicSpec::default() };
    client.admin().create_topic(&topic, spec).await?;
    until_whole(&mut cluster).await?;
    let writer = Writer::start(&client, &topic).await?;

    let progress = progress::of_records(u64::from(flags.kills) + u64::from(flags.stops));
    let (mut kills, mut stops) = (latencies(), latencies());
    for _ in 0..flags.kills {
        let leader = calm(&mut cluster).await?;
        let killed = now();
        cluster.kill(leader)?;
        let acknowledged = writer.first_ack_of_what_is_sent_after(killed, PATIENCE).await;
        let acknowledged = acknowledged.ok_or_else(|| Failure::failed("nothing was acknowledged after a kill"))?;
        kills.saturating_record(acknowledged.duration_since(killed).as_nanos() as u64);
        cluster.restart(leader).await?;
        progress.inc(1);
    }
    for _ in 0..flags.stops {
        let leader = calm(&mut cluster).await?;
        writer.forget_pauses();
        cluster.stop(leader).await?;
        sleep(CALM).await;
        stops.saturating_record(writer.longest_pause().as_nanos() as u64);
        cluster.restart(leader).await?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let (records, failed_requests) = writer.stop().await;
    let ms = |times: &Histogram<u64>, quantile| round(times.value_at_quantile(quantile) as f64 / 1e6);
    let figures = Figures {
        kills: kills.len(),
        kill_ms_p50: ms(&kills, 0.5),
        kill_ms_p99: ms(&kills, 0.99),
        kill_ms_max: ms(&kills, 1.0),
        stops: stops.len(),
        stop_pause_ms_p50: ms(&stops, 0.5),
        stop_pause_ms_max: ms(&stops, 1.0),
        failed_requests,
        records,
    };
    match flags.output {
        Output::Json => print_json(&figures),
        Output::Text => print(&table(&figures).to_string()),
    }
}

/// Waits until all replicas are in sync and some time has passed; says who leads.
async fn calm(cluster: &mut Cluster) -> Result<usize, Failure> {
    until_whole(cluster).await?;
    sleep(CALM).await;
    until_whole(cluster).await
}

async fn until_whole(cluster: &mut Cluster) -> Result<usize, Failure> {
    let begun = now();
    loop {
        if let Some(leader) = cluster.leader_of_whole("failover").await {
            return Ok(leader);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Failure::failed("the replicas do not come to be in sync"));
        }
        sleep(LOOK).await;
    }
}

fn table(figures: &Figures) -> Table {
    let mut table = Table::new(&["fault", "times", "p50 ms", "p99 ms", "max ms"]);
    table.row([
        "kill -9: until the first ack".to_owned(),
        figures.kills.to_string(),
        format!("{:.0}", figures.kill_ms_p50),
        format!("{:.0}", figures.kill_ms_p99),
        format!("{:.0}", figures.kill_ms_max),
    ]);
    table.row([
        "SIGTERM: longest pause".to_owned(),
        figures.stops.to_string(),
        format!("{:.0}", figures.stop_pause_ms_p50),
        String::new(),
        format!("{:.0}", figures.stop_pause_ms_max),
    ]);
    table.row([
        "records acknowledged; failed".to_owned(),
        figures.records.to_string(),
        figures.failed_requests.to_string(),
        String::new(),
        String::new(),
    ]);
    table
}

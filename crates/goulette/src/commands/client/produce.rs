//! `goulette client -mode producer`: sends one message, or each line of its input.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    os::unix::ffi::OsStringExt,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use goulette_client::{Client, Producer, ProducerOptions, ProducerRecord, SendError};
use goulette_logging::info;
use goulette_types::TopicName;
use indicatif::ProgressBar;
use tokio::{sync::mpsc, time::timeout};

use super::lines;
use crate::{
    cli::ClientFlags,
    commands::connect,
    exit::Failure,
    progress,
    signals::{self, Stop},
};

/// How long an interrupted producer waits for what it has sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a producer that has failed asks a sentinel for the reason.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Offline partitions that a failure names.
const OFFLINE_TOLD_MAX: usize = 3;

pub(super) async fn run(flags: &ClientFlags) -> Result<(), Failure> {
    let input = Input::choose(flags)?;
    flags.logging.init("producer.log")?;
    let mut stop = signals::stop()?;
    let client = connect(&flags.sentinel).await?;
    let options = ProducerOptions {
        window_records: flags.window as usize,
        acks: flags.producer.acks,
        compression: flags.producer.compression,
        delivery_timeout: Duration::from_secs(flags.producer.delivery_timeout),
        ..ProducerOptions::default()
    };
    let topic = &flags.topic;
    let producer = Producer::new(&client, topic, options).await?;
    let mut sending = Sending { producer, sent: 0, stop: stop.clone() };
    let result = sending.all(input).await;
    if let Err(failure) = sending.finish(result, &mut stop).await {
        return Err(match offline(&client, topic).await {
            Some(why) => failure.hint(why),
            None => failure,
        });
    }
    info!("topic {topic}: everything is acknowledged");
    Ok(())
}

/// The partitions that nobody leads now, each with who is awaited, if there are any and a sentinel tells.
async fn offline(client: &Client, topic: &TopicName) -> Option<String> {
    let described = timeout(DESCRIBE_TIMEOUT, client.admin().describe_topic(topic)).await.ok()?.ok()?;
    let offline = described.topic.partitions.iter().filter(|partition| !partition.offline.is_empty());
    let lines: Vec<_> =
        offline.map(|partition| format!("partition {} is offline: {}", partition.index, partition.offline)).collect();
    let more = lines.len().saturating_sub(OFFLINE_TOLD_MAX);
    let mut text = lines.into_iter().take(OFFLINE_TOLD_MAX).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text += &format!("; and {more} more");
    }
    Some(text).filter(|text| !text.is_empty())
}

/// What is to be sent.
enum Input {
    Message(Bytes),
    Lines { chunks: mpsc::Receiver<io::Result<Bytes>>, name: String, progress: ProgressBar },
}

impl Input {
    fn choose(flags: &ClientFlags) -> Result<Self, Failure> {
        match (&flags.producer.message, &flags.producer.file) {
            (Some(message), _) => Ok(Self::Message(message.clone().into_vec().into())),
            (None, Some(path)) if path != Path::new("-") => Self::file(path),
            (None, Some(_)) => Self::standard_input(),
            (None, None) if !io::stdin().is_terminal() => Self::standard_input(),
            (None, None) => Err(Failure::usage("nothing to send: give -message TEXT or -file FILE, or pipe lines in")),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "the file that the user names")]
    fn file(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |error| Failure::failed(format_args!("cannot read {name}: {error}"));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::failed(format_args!("cannot read {name}: it is a folder; name a file")));
        }
        let progress = if metadata.is_file() { progress::of_bytes(metadata.len()) } else { progress::open_ended() };
        Self::lines(file, name, progress)
    }

    fn standard_input() -> Result<Self, Failure> {
        Self::lines(io::stdin(), "standard input".to_owned(), progress::open_ended())
    }

    fn lines(input: impl Read + Send + 'static, name: String, progress: ProgressBar) -> Result<Self, Failure> {
        let chunks =
            lines::read(input).map_err(|error| Failure::failed(format_args!("cannot read {name}: {error}")))?;
        Ok(Self::Lines { chunks, name, progress })
    }
}

struct Sending {
    producer: Producer,
    /// Records handed to the producer.
    sent: u64,
    stop: Stop,
}

/// Why sending ended before the end of the input.
enum Cut {
    Interrupted,
    /// The record after those that were handed over was not taken.
    Refused(SendError),
    /// A record that was handed over failed; the flush tells why.
    Lost,
    Input(Failure),
}

impl Sending {
    /// Hands everything to the producer, unless something gets in the way.
    async fn all(&mut self, input: Input) -> Result<(), Cut> {
        match input {
            Input::Message(message) => self.one(message).await,
            Input::Lines { mut chunks, name, progress } => {
                let by_bytes = progress.length().is_some();
                loop {
                    let chunk = tokio::select! {
                        chunk = chunks.recv() => chunk,
                        () = self.stop.wished() => return Err(Cut::Interrupted),
                    };
                    let Some(chunk) = chunk else { break };
                    let chunk = chunk
                        .map_err(|error| Cut::Input(Failure::failed(format_args!("cannot read {name}: {error}"))))?;
                    let bytes = chunk.len() as u64;
                    for line in lines::lines_of(chunk) {
                        self.one(line).await?;
                    }
                    if by_bytes {
                        progress.inc(bytes);
                    } else {
                        progress.set_position(self.sent);
                    }
                    if self.producer.stats().records_failed > 0 {
                        return Err(Cut::Lost);
                    }
                }
                progress.finish_and_clear();
                Ok(())
            }
        }
    }

    async fn one(&mut self, value: Bytes) -> Result<(), Cut> {
        let record = ProducerRecord::new(value);
        // The outcome of each record is summed up by the flush at the end.
        match self.producer.send_nowait(&record) {
            Ok(_) => {}
            Err(SendError::WindowFull { .. }) => tokio::select! {
                taken = self.producer.send(record) => drop(taken.map_err(Cut::Refused)?),
                () = self.stop.wished() => return Err(Cut::Interrupted),
            },
            Err(error) => return Err(Cut::Refused(error)),
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits for the outcome of what was handed over, and tells whether all of the input is acknowledged.
    async fn finish(self, result: Result<(), Cut>, stop: &mut Stop) -> Result<(), Failure> {
        let sent = self.sent;
        let flushed = if matches!(result, Err(Cut::Interrupted)) {
            timeout(CLOSE_TIMEOUT, self.producer.flush()).await.ok()
        } else {
            tokio::select! {
                flushed = self.producer.flush() => Some(flushed),
                () = async { stop.wished().await; tokio::time::sleep(CLOSE_TIMEOUT).await } => None,
            }
        };
        let acknowledged = self.producer.stats().records_acked;
        let tally = format!("{acknowledged} of {sent} records sent are acknowledged");
        match (result, flushed) {
            (Err(Cut::Input(failure)), _) => Err(failure.hint(tally)),
            (Err(Cut::Refused(error)), _) => {
                Err(Failure::failed(format_args!("record {} was not sent: {error}", sent + 1)).hint(tally))
            }
            (_, Some(Err(error))) => Err(Failure::failed(error).hint(tally)),
            (Err(Cut::Interrupted), _) | (Ok(()), None) => Err(Failure::failed("interrupted").hint(tally)),
            (Err(Cut::Lost), _) => Err(Failure::failed("a record was not acknowledged").hint(tally)),
            (Ok(()), Some(Ok(()))) => self.producer.close().await.map_err(|error| Failure::failed(error).hint(tally)),
        }
    }
}

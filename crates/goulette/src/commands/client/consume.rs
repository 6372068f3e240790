//! `goulette client -mode consumer`: prints records until Ctrl-C, a number of them, or the end.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use goulette_client::{ConsumeError, Consumer, ConsumerOptions, RecordBatch, Start};
use goulette_logging::{info, warn};
use goulette_types::{GroupName, Offset, PartitionIndex};
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until, timeout};

use super::print::Printer;
use crate::{
    cli::{ClientFlags, Place},
    commands::connect,
    exit::Failure,
    progress,
    signals::{self, Stop},
};

/// Printed records are written out at the latest when they have so many bytes, and at once when nothing more is there.
const OUTPUT_BYTES: usize = 256 << 10;
/// How often positions are committed while records come.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last commit may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(flags: &ClientFlags) -> Result<(), Failure> {
    if flags.producer.message.is_some() || flags.producer.file.is_some() {
        return Err(Failure::usage("-message and -file are for -mode producer: a consumer prints"));
    }
    flags.logging.init("consumer.log")?;
    let stop = signals::stop()?;
    let client = connect(&flags.sentinel).await?;
    let wanted = &flags.consumer;
    let options = ConsumerOptions {
        group: wanted.group.0.clone(),
        start: wanted.from.map(start),
        until_end: wanted.until_end,
        buffer_records: flags.window as usize,
        ..ConsumerOptions::default()
    };
    let consumer = Consumer::new(&client, &flags.topic, options).await?;
    let mut consuming = Consuming {
        consumer,
        group: wanted.group.0.clone(),
        left: wanted.count.unwrap_or(u64::MAX),
        printer: Printer { output: wanted.output, fields: wanted.print.clone() },
        out: Vec::with_capacity(OUTPUT_BYTES + 4096),
        printed: BTreeMap::new(),
        written: BTreeMap::new(),
        commit_due: Instant::now(),
        progress: progress(wanted.count),
    };
    let result = consuming.until_end(stop).await;
    consuming.finish(result).await?;
    info!("topic {}: done", flags.topic);
    Ok(())
}

fn start(place: Place) -> Start {
    match place {
        Place::Beginning => Start::Beginning,
        Place::End => Start::End,
        Place::Offset(offset) => Start::Offset(offset),
        Place::Time(time) => Start::Time(time),
    }
}

/// Where records are printed on the terminal, they are progress enough.
fn progress(count: Option<u64>) -> ProgressBar {
    match count {
        _ if io::stdout().is_terminal() => ProgressBar::hidden(),
        Some(count) => progress::of_records(count),
        None => progress::open_ended(),
    }
}

type Positions = BTreeMap<PartitionIndex, Offset>;

struct Consuming {
    consumer: Consumer,
    group: Option<GroupName>,
    /// Records still wanted.
    left: u64,
    printer: Printer,
    /// Printed and not yet written.
    out: Vec<u8>,
    /// The next record to print of each partition.
    printed: Positions,
    /// The same, of what stdout has taken; not yet committed.
    written: Positions,
    commit_due: Instant,
    progress: ProgressBar,
}

/// Why consuming ended.
enum End {
    /// All that was wanted is written, or it was interrupted, or the reader has gone away.
    Content,
    Failed(Failure),
}

impl Consuming {
    async fn until_end(&mut self, mut stop: Stop) -> End {
        while self.left > 0 && !stop.is_wished() {
            // First what is there already; only when nothing is does the output have to be written at once.
            let ready = tokio::select! {
                biased;
                batch = self.consumer.next_batch() => Some(batch),
                () = std::future::ready(()) => None,
            };
            let batch = match ready {
                Some(batch) => batch,
                None => {
                    if let Err(end) = self.write() {
                        return end;
                    }
                    tokio::select! {
                        batch = self.consumer.next_batch() => batch,
                        () = stop.wished() => return End::Content,
                        () = sleep_until(self.commit_due), if self.has_uncommitted() => {
                            if let Err(end) = self.commit_meanwhile(&mut stop).await {
                                return end;
                            }
                            continue;
                        }
                    }
                }
            };
            match batch {
                Ok(Some(batch)) => self.print(&batch),
                Ok(None) => return End::Content,
                Err(error) => return End::Failed(error.into()),
            }
            if self.out.len() >= OUTPUT_BYTES
                && let Err(end) = self.write()
            {
                return end;
            }
            if Instant::now() >= self.commit_due
                && let Err(end) = self.commit_meanwhile(&mut stop).await
            {
                return end;
            }
        }
        End::Content
    }

    fn print(&mut self, batch: &RecordBatch) {
        for record in batch.records.iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
            self.printer.print(batch.partition, record, &mut self.out);
            self.printed.insert(batch.partition, record.offset.plus(1));
            self.left -= 1;
            self.progress.inc(1);
        }
    }

    /// Gives stdout what was printed. Blocks while its reader is slow, and so holds back the broker.
    fn write(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(&self.out).and_then(|()| stdout.flush()) {
            Ok(()) => {
                self.out.clear();
                self.written.append(&mut self.printed);
                Ok(())
            }
            // `| head` has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(End::Content),
            Err(error) => Err(End::Failed(Failure::failed(format_args!("cannot write to standard output: {error}")))),
        }
    }

    fn has_uncommitted(&self) -> bool {
        self.group.is_some() && !self.written.is_empty()
    }

    /// Commits what is written. What fails and may succeed later waits for the next time, or for the end.
    async fn commit_meanwhile(&mut self, stop: &mut Stop) -> Result<(), End> {
        self.commit_due = Instant::now() + COMMIT_INTERVAL;
        let committed = tokio::select! {
            committed = self.commit() => committed,
            // A broker that is away must not keep the user waiting.
            () = stop.wished() => return Ok(()),
        };
        match committed {
            Err(error) if error.kind().is_retriable() => {
                warn!("positions are not committed yet: {error}");
                Ok(())
            }
            result => result.map_err(|error| End::Failed(error.into())),
        }
    }

    async fn commit(&mut self) -> Result<(), ConsumeError> {
        if self.has_uncommitted() {
            self.consumer.commit(&self.written).await?;
            self.written.clear();
        }
        Ok(())
    }

    /// Writes and commits what is left, and takes leave of the group.
    async fn finish(mut self, end: End) -> Result<(), Failure> {
        self.progress.finish_and_clear();
        let failure = match (end, self.write()) {
            (End::Failed(failure), _) | (End::Content, Err(End::Failed(failure))) => Some(failure),
            (End::Content, Ok(()) | Err(End::Content)) => None,
        };
        let committed = match timeout(CLOSE_TIMEOUT, self.commit()).await {
            Ok(committed) => committed.map_err(Failure::from),
            Err(_) => Err(Failure::failed("the broker does not answer in time")),
        };
        self.consumer.close().await;
        match (failure, committed) {
            (Some(failure), _) => Err(failure),
            (None, Err(failure)) => Err(failure.hint("the group's position is not committed: records will come again")),
            (None, Ok(())) => Ok(()),
        }
    }
}
